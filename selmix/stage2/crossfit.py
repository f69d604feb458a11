"""Cross-fitting: every label trains the head and steers it, and no head judges what it has learnt.

All samples, those of train and those of val, are dealt into folds. For each fold there is a head that learns from the
other folds; it alone predicts the samples of its fold, so what is counted is out of fold. One more head, the last,
learns from everything. All heads take the same steps, on the same class pairs; the last one is the result.
"""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.features.rows import StackedRows
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers
from selmix.smoothing import label_aware_smoothing


@dataclass(frozen=True)
class CrossFit:
    """Who learns from what, and who judges what.

    A row is a class, or a class and a group of samples: row = label * groups + group, as in the confusion matrix.

    Attributes:
        features: of the pool: train samples, then validation samples.
        labels: int64 [n], of the pool.
        rows: int64 [n], the confusion row of every sample.
        num_train: how many of the pool are train samples.
        num_classes: k.
        groups: rows per class.
        members: for each of h heads, the samples it may learn from, by row.
        judged: for each head but the last, the positions in the pool that it predicts.
    """

    features: StackedRows
    labels: torch.Tensor
    rows: torch.Tensor
    num_train: int
    num_classes: int
    groups: int
    members: list[ClassMembers]
    judged: list[torch.Tensor]

    @classmethod
    def plan(
        cls, train: LabeledFeatures, val: LabeledFeatures, num_classes: int, *, folds: int, generator: torch.Generator
    ) -> "CrossFit":
        """Deal all samples into `folds` >= 2, row by row.

        A train sample that is the only one of its row is learnt by all and judged by none.

        Args:
            train: every class must have a sample.
            val: classes may lack samples.
            num_classes: k.
            folds: heads that judge.
            generator: source of the deal.
        """
        labels = torch.cat([train.labels, val.labels])
        rows, groups = labels, 1
        if train.groups is not None and val.groups is not None:
            groups = 1 + int(max(train.groups.max(), val.groups.max()))
            rows = labels * groups + torch.cat([train.groups, val.groups])
        fold = _deal(rows, len(train.labels), folds, generator)
        everything = torch.arange(len(labels))
        members = [
            ClassMembers.from_labels(rows, num_classes * groups, among=everything[fold != head])
            for head in range(folds + 1)
        ]
        return cls(
            features=StackedRows([train.features, val.features]),
            labels=labels,
            rows=rows,
            num_train=len(train.labels),
            num_classes=num_classes,
            groups=groups,
            members=members,
            judged=[(fold == head).nonzero()[:, 0] for head in range(folds)],
        )

    @property
    def class_members(self) -> list[ClassMembers]:
        """Return, for each head, the samples it may learn from, by class."""
        if self.groups == 1:
            return self.members
        return [
            ClassMembers.from_labels(self.labels, self.num_classes, among=own.order.sort().values)
            for own in self.members
        ]

    def smoothing(self, head: float) -> torch.Tensor:
        """Return the label-aware smoothing of every class, [k]: `head` for the largest, none for the smallest."""
        return label_aware_smoothing(torch.bincount(self.labels, minlength=self.num_classes), head=head)

    def val_logits(self, heads: list[LinearHead], val: LabeledFeatures) -> torch.Tensor:
        """Return the logits [n, k] of the validation samples, each from the head that judges it."""
        logits = val.features.new_empty(len(val.labels), self.num_classes)
        for head, positions in zip(heads, self.judged, strict=False):
            own = positions[positions >= self.num_train] - self.num_train
            logits[own] = head.logits(val.features[own])
        return logits


def _deal(rows: torch.Tensor, num_train: int, folds: int, generator: torch.Generator) -> torch.Tensor:
    """Return the fold of each sample, int64 [n]; -1 for a train sample that is the only one of its row.

    Within a row the folds follow each other, first over the train samples and on over those of validation, in random
    order: fold sizes differ by at most one, in train, in validation and together.
    """
    # stable: by row, then train before validation, then random
    shuffled = torch.randperm(len(rows), generator=generator)
    shuffled = shuffled[(shuffled >= num_train).long().argsort(stable=True)]
    order = shuffled[rows[shuffled].argsort(stable=True)]
    counts = torch.bincount(rows)
    starts = counts.cumsum(0) - counts
    # a random first fold, so that small rows do not all leave the last folds empty
    first = torch.randint(folds, (len(counts),), generator=generator)
    ordered_rows = rows[order]
    fold = torch.empty_like(rows)
    fold[order] = (first[ordered_rows] + torch.arange(len(rows)) - starts[ordered_rows]) % folds
    lone = counts[rows] == 1
    fold[lone & (torch.arange(len(rows)) < num_train)] = -1
    return fold
