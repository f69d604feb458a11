"""Features in memory with their labels, and the bundle of them that stage two works on."""

from dataclasses import dataclass, field
from typing import Any

import torch

from selmix.features.rows import Rows
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks


@dataclass(frozen=True)
class LabeledFeatures:
    """The features of one split.

    Attributes:
        features: float32 [n, d].
        labels: int64 [n].
        groups: int64 [n], the group of each sample (background, hospital, ...); None if there are none.
        views: [v n, d], view by view: augmented views of the samples, to learn from beside the clean ones, or None.
    """

    features: torch.Tensor
    labels: torch.Tensor
    groups: torch.Tensor | None = None
    views: Rows | None = None

    def rows(self, num_groups: int) -> torch.Tensor:
        """Return the confusion row of each sample, int64 [n]: label * num_groups + group; the label without groups."""
        return self.labels if self.groups is None else self.labels * num_groups + self.groups

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
        group_names: the groups of samples, position = number; empty if there are none.
        head: the classifier that came with the features, for this class table; None if there is none.
        unlabeled_count: images or features in the unlabeled pool.
        digests: what was read: `data`, and `backbone` where there was one.
        seconds: what was spent: `extract`.
        cache: of features that lie in one: its folder, whether it was `reused`, dtype, views and `bad_images`.
        ranks: the processes of which each holds a part of every split (and of `ids`); the rest is the same for all.
    """

    class_names: list[str]
    splits: dict[str, LabeledFeatures]
    ids: dict[str, list[str]]
    group_names: list[str] = field(default_factory=list)
    head: LinearHead | None = None
    unlabeled_count: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE

    @property
    def num_groups(self) -> int:
        """Return g, 1 if there are no groups."""
        return len(self.group_names) or 1
