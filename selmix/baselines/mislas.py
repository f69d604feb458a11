"""Stage two of MiSLAS: label-aware smoothing, and a scale per class, on a head that keeps learning."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.losses.smoothing import label_aware_smoothing, smoothed_targets
from selmix.pairs import ClassMembers


@dataclass(frozen=True)
class MislasSettings:
    """Settings of MiSLAS's stage two; rates and decay are those of centred features of unit mean square.

    Attributes:
        head_smoothing: of the largest class.
        tail_smoothing: of the smallest class.
        steps: SGD steps.
        batch_size: samples a step, class-balanced.
        learning_rate: of the scale, at the start of the cosine to 0.
        head_factor: the head's learning rate relative to the scale's.
        momentum: of SGD.
        weight_decay: L2 coefficient, of head and scale.
    """

    head_smoothing: float = 0.3
    tail_smoothing: float = 0.0
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 0.1
    head_factor: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 5e-4


def mislas_head(
    head: LinearHead, data: LabeledFeatures, settings: MislasSettings, *, generator: torch.Generator
) -> LinearHead:
    """Train a head and a factor per class, logits s * (W z + b), on class-balanced batches with smoothed labels.

    Args:
        head: where to start.
        data: every class must have a sample.
        settings: see `MislasSettings`.
        generator: source of the batches.

    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition", CVPR 2021, stage two on cached features
    (so without shifted batch normalisation).
    """
    space = FeatureSpace.fit(data.tensor)
    features = space.encode(data.tensor)
    members = ClassMembers.from_labels(data.labels, head.num_classes)
    smoothing = label_aware_smoothing(members.counts, head=settings.head_smoothing, tail=settings.tail_smoothing)
    weight = space.encode_head(head).clone().requires_grad_()
    scale = torch.ones(head.num_classes).requires_grad_()
    rates = {weight: settings.head_factor * settings.learning_rate, scale: settings.learning_rate}
    optimiser = torch.optim.SGD(
        [{"params": [parameter], "lr": rate} for parameter, rate in rates.items()],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)

    classes = torch.randint(head.num_classes, (settings.steps, settings.batch_size), generator=generator)
    for labels, batch in zip(classes, members.draw(classes, generator=generator), strict=True):
        optimiser.zero_grad()
        F.cross_entropy(
            scale * (features[batch] @ weight.T), smoothed_targets(labels, smoothing.to(features))
        ).backward()
        optimiser.step()
        schedule.step()
    return space.decode_head((scale.unsqueeze(1) * weight).detach())
