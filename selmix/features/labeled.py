"""Features with their labels, and the bundle of them that stage two works on."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from selmix.features.rows import Rows, dense, pick
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks


@dataclass(frozen=True)
class LabeledFeatures:
    """The features of one split.

    Attributes:
        features: [n, d], float32 once they are read; in memory or on memory maps.
        labels: int64 [n].
        groups: int64 [n], the group of each sample (background, hospital, ...); None if there are none.
        views: [v n, d], view by view: augmented views of the samples, to learn from beside the clean ones, or None.
    """

    features: Rows
    labels: torch.Tensor
    groups: torch.Tensor | None = None
    views: Rows | None = None

    @property
    def tensor(self) -> torch.Tensor:
        """Return all features in memory, as they are read."""
        return dense(self.features)

    def rows(self, num_groups: int) -> torch.Tensor:
        """Return the confusion row of each sample, int64 [n]: label * num_groups + group; the label without groups."""
        return self.labels if self.groups is None else self.labels * num_groups + self.groups

    def subset(self, positions: torch.Tensor) -> "LabeledFeatures":
        """Return the samples at `positions`, int64 [m]."""
        groups, views = None if self.groups is None else self.groups[positions], None
        if self.views is not None:
            count = max(len(self.labels), 1)
            views = pick(self.views, (torch.arange(0, len(self.views), count)[:, None] + positions).flatten())
        return LabeledFeatures(pick(self.features, positions), self.labels[positions], groups, views)


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

    def dense(self) -> "FeatureData":
        """Return the same with the features of every split in memory, and without views."""
        splits = {
            name: replace(split, features=dense(split.features), views=None) for name, split in self.splits.items()
        }
        return replace(self, splits=splits)

    def shard(self, ranks: Ranks) -> "FeatureData":
        """Return the part of a rank, every count-th sample: what is left of features that every process could read."""
        own = {name: torch.arange(ranks.rank, len(split.labels), ranks.count) for name, split in self.splits.items()}
        return replace(
            self,
            splits={name: split.subset(own[name]) for name, split in self.splits.items()},
            ids={name: self.ids[name][ranks.rank :: ranks.count] for name in self.splits},
            ranks=ranks,
        )

    @property
    def num_groups(self) -> int:
        """Return g, 1 if there are no groups."""
        return len(self.group_names) or 1
