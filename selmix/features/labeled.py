"""Features in memory with their labels, and the bundle of them that stage two works on."""

from dataclasses import dataclass, field

import torch

from selmix.heads import LinearHead


@dataclass(frozen=True)
class LabeledFeatures:
    """The features of one split.

    Attributes:
        features: float32 [n, d].
        labels: int64 [n].
        groups: int64 [n], the group of each sample (background, hospital, ...); None if there are none.
    """

    features: torch.Tensor
    labels: torch.Tensor
    groups: torch.Tensor | None = None

    def subset(self, positions: torch.Tensor) -> "LabeledFeatures":
        """Return the samples at `positions`, int64 [m]."""
        groups = None if self.groups is None else self.groups[positions]
        return LabeledFeatures(self.features[positions], self.labels[positions], groups)


@dataclass(frozen=True)
class FeatureData:
    """Everything stage two needs to know about a data set.

    Attributes:
        class_names: the class table, position = label.
        splits: `train`, and where they exist `val` and `test`.
        ids: sample names of every split, for the record.
        head: the classifier that came with the features, for this class table; None if there is none.
        unlabeled_count: images or features in the unlabeled pool.
        digests: what was read: `data`, and `backbone` where there was one.
        seconds: what was spent: `extract`.
    """

    class_names: list[str]
    splits: dict[str, LabeledFeatures]
    ids: dict[str, list[str]]
    head: LinearHead | None = None
    unlabeled_count: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
