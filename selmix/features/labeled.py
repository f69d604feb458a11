"""Features with their labels, and the bundle of them that stage two works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from selmix.features.rows import Rows, dense, pick
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from selmix.data.images import ImageSource


@dataclass(frozen=True)
class LabeledFeatures:
    """The features of one split.

    Attributes:
        features: [n, d], float32 once they are read; in memory or on memory maps.
        labels: int64 [n].
        groups: int64 [n], the group of each sample (background, hospital, ...); None if there are none.
        views: [v n, d], view by view: augmented views of the samples, to learn from beside the clean ones, or None.
        images: the images themselves, to be looked at, where they are at hand.
    """

    features: Rows
    labels: torch.Tensor
    groups: torch.Tensor | None = None
    views: Rows | None = None
    images: "ImageSource | None" = None

    @property
    def tensor(self) -> torch.Tensor:
        """Return all features in memory, as they are read."""
        return dense(self.features)

    def rows(self, num_groups: int) -> torch.Tensor:
        """Return the confusion row of each sample, int64 [n]: label * num_groups + group; the label without groups."""
        return self.labels if self.groups is None else self.labels * num_groups + self.groups

    def subset(self, positions: torch.Tensor) -> "LabeledFeatures":
        """Return the samples at `positions`, int64 [m]."""
        groups = None if self.groups is None else self.groups[positions]
        views = _picked_views(self.views, len(self.labels), positions)
        images = _picked_images(self.images, positions)
        return LabeledFeatures(pick(self.features, positions), self.labels[positions], groups, views, images)


@dataclass(frozen=True)
class UnlabeledFeatures:
    """The features of the unlabeled pool, which may be empty.

    Attributes:
        features: [u, d], as those of `LabeledFeatures`.
        views: [v u, d], view by view, or None.
        audit: int64 [u], classes that somebody knows all the same, -1 for an image of no known class; or None. They
            serve to judge pseudo-labels when all is done, and nothing else may read them.
        images: the images themselves, to be looked at, where they are at hand.
    """

    features: Rows
    views: Rows | None = None
    audit: torch.Tensor | None = None
    images: "ImageSource | None" = None

    def subset(self, positions: torch.Tensor) -> "UnlabeledFeatures":
        """Return the images at `positions`, int64 [m]."""
        views = _picked_views(self.views, len(self.features), positions)
        audit = None if self.audit is None else self.audit[positions]
        images = _picked_images(self.images, positions)
        return UnlabeledFeatures(pick(self.features, positions), views, audit, images)


def _picked_views(views: Rows | None, count: int, positions: torch.Tensor) -> Rows | None:
    """Return the views of the samples at `positions`, int64 [m], of `count` samples."""
    if views is None:
        return None
    return pick(views, (torch.arange(0, len(views), max(count, 1))[:, None] + positions).flatten())


def _picked_images(images: "ImageSource | None", positions: torch.Tensor) -> "ImageSource | None":
    if images is None:
        return None
    from selmix.data.images import ImageSubset  # Pillow, which features alone do not need

    return ImageSubset(images, positions.numpy())


@dataclass(frozen=True)
class FeatureData:
    """Everything stage two needs to know about a data set.

    Attributes:
        class_names: the class table, position = label.
        splits: `train`, and where they exist `val` and `test`.
        ids: sample names of every split, and of the pool as `unlabeled`, for the record.
        group_names: the groups of samples, position = number; empty if there are none.
        head: the classifier that came with the features, for this class table; None if there is none.
        unlabeled: the unlabeled pool; None if there is none.
        digests: what was read: `data`, and `backbone` where there was one.
        origin: backbone and images that the features come from, as `selmix.extraction` tells; empty if unknown.
        seconds: what was spent: `extract`.
        cache: of features that lie in one: its folder, whether it was `reused`, dtype, views and `bad_images`.
        ranks: the processes, each with a part of every split, of the pool and of `ids`; the rest is the same for all.
    """

    class_names: list[str]
    splits: dict[str, LabeledFeatures]
    ids: Mapping[str, Sequence[str]]
    group_names: list[str] = field(default_factory=list)
    head: LinearHead | None = None
    unlabeled: UnlabeledFeatures | None = None
    digests: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE

    def dense(self) -> "FeatureData":
        """Return the same with the features of every split and of the pool in memory, and without views."""
        splits = {
            name: replace(split, features=dense(split.features), views=None) for name, split in self.splits.items()
        }
        pool = self.unlabeled and replace(self.unlabeled, features=dense(self.unlabeled.features), views=None)
        return replace(self, splits=splits, unlabeled=pool)

    def without_pool(self) -> "FeatureData":
        """Return the same without the unlabeled pool."""
        ids = {name: own for name, own in self.ids.items() if name != "unlabeled"}
        return replace(self, unlabeled=None, ids=ids)

    def shard(self, ranks: Ranks) -> "FeatureData":
        """Return the part of a rank, every count-th sample: what is left of features that every process could read."""

        def own(count: int) -> torch.Tensor:
            return torch.arange(ranks.rank, count, ranks.count)

        return replace(
            self,
            splits={name: split.subset(own(len(split.labels))) for name, split in self.splits.items()},
            unlabeled=self.unlabeled and self.unlabeled.subset(own(len(self.unlabeled.features))),
            ids={name: names[ranks.rank :: ranks.count] for name, names in self.ids.items()},
            ranks=ranks,
        )

    @property
    def unlabeled_count(self) -> int:
        """Return the number of images in the pools of all ranks, which must all ask."""
        own = 0 if self.unlabeled is None else len(self.unlabeled.features)
        return int(self.ranks.total(torch.tensor(own)))

    @property
    def num_groups(self) -> int:
        """Return g, 1 if there are no groups."""
        return len(self.group_names) or 1
