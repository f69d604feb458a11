"""The nearest class mean as a linear head."""

from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.heads import LinearHead


def nearest_mean_head(data: LabeledFeatures, num_classes: int) -> LinearHead:
    """Return the head that predicts the class whose mean feature is nearest in Euclidean distance.

    -|z - m|^2 / 2 = z.m - |m|^2 / 2 - |z|^2 / 2, and the last term is the same for all classes.

    Args:
        data: every class must have a sample.
        num_classes: k.

    Source: Mensink et al., "Distance-Based Image Classification", TPAMI 2013; Kang et al., ICLR 2020 (NCM).
    """
    space = FeatureSpace.fit(data.tensor)  # centred, so that |m|^2 does not drown the differences
    weight = class_means(space.encode(data.tensor), data.labels, num_classes)
    weight[:, -1] = -weight[:, :-1].square().sum(1) / 2
    return space.decode_head(weight.to(data.tensor))
