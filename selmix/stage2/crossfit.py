"""Cross-fitting: every label trains the head and steers it, and no head judges what it has learnt.

All samples, those of train and those of val, are dealt into folds. For each fold there is a head that learns from the
other folds; it alone predicts the samples of its fold, so what is counted is out of fold. One more head, the last,
learns from everything. All heads take the same steps, on the same class pairs; the last one is the result.
"""

from dataclasses import dataclass, replace

import torch

from selmix.features.labeled import LabeledFeatures, UnlabeledFeatures
from selmix.features.pool import Pool
from selmix.features.rows import Rows, StackedRows
from selmix.heads import LinearHead
from selmix.losses.smoothing import label_aware_smoothing
from selmix.pairs import ClassMembers, sorting
from selmix.predictions import Predictions, predict
from selmix.ranks import ALONE, Ranks
from selmix.seeding import own_generator

_AT_ONCE = 1 << 20  # samples that are dealt at a time


@dataclass(frozen=True)
class CrossFit:
    """Who learns from what, and who judges what.

    A row is a class, or a class and a group of samples: row = label * groups + group, as in the confusion matrix. Of
    several processes each knows its own samples alone; what is called so counts all.

    Attributes:
        pool: train samples, then validation samples, then the unlabeled ones; and views.
        labels: int64 [n], of the labeled samples, the first n of the pool.
        rows: int64 [n], the confusion row of every sample.
        num_train: how many of the pool are train samples.
        num_classes: k.
        groups: rows per class.
        unlabeled: positions of the unlabeled samples in the pool.
        members: for each of h heads, the samples it may learn from, by row.
        judged: for each head but the last, the positions in the pool that it predicts.
        class_counts: int64 [k], samples of each class, of all processes.
        val_counts: int64 [r], validation samples of each row, of all processes.
    """

    pool: Pool
    labels: torch.Tensor
    rows: torch.Tensor
    num_train: int
    num_classes: int
    groups: int
    unlabeled: range
    members: list[ClassMembers]
    judged: list[torch.Tensor]
    class_counts: torch.Tensor
    val_counts: torch.Tensor

    @classmethod
    def plan(
        cls,
        train: LabeledFeatures,
        val: LabeledFeatures,
        num_classes: int,
        *,
        folds: int,
        generator: torch.Generator,
        unlabeled: UnlabeledFeatures | None = None,
        ranks: Ranks = ALONE,
    ) -> "CrossFit":
        """Deal all samples into `folds` >= 2, row by row.

        A train sample that is the only one of its row is learnt by all and judged by none. The views of a sample are in
        its fold.

        Args:
            train: every class must have a sample.
            val: classes may lack samples.
            num_classes: k.
            folds: heads that judge.
            generator: source of the deal.
            unlabeled: the pool of samples that nobody judges; None if there is none.
            ranks: the processes, each with a part of the samples.
        """
        labels = torch.cat([train.labels, val.labels])
        rows, groups = labels, 1
        if train.groups is not None and val.groups is not None:
            own_groups = torch.cat([train.groups, val.groups, torch.zeros(1, dtype=torch.int64)])
            groups = 1 + int(ranks.gathered(own_groups.max()[None]).max())
            rows = labels * groups + own_groups[:-1]
        fold = _deal(rows, len(train.labels), num_classes * groups, folds, generator, ranks)
        everything = torch.arange(len(labels))
        members = [
            members_of(rows, num_classes * groups, among=everything[fold != head], ranks=ranks)
            for head in range(folds + 1)
        ]
        return cls(
            pool=_pool(train, val, unlabeled, ranks),
            labels=labels,
            rows=rows,
            num_train=len(train.labels),
            num_classes=num_classes,
            groups=groups,
            unlabeled=range(len(labels), len(labels) + (0 if unlabeled is None else len(unlabeled.features))),
            members=members,
            judged=[(fold == head).nonzero()[:, 0] for head in range(folds)],
            class_counts=ranks.total(torch.bincount(labels, minlength=num_classes)),
            val_counts=ranks.total(torch.bincount(rows[len(train.labels) :], minlength=num_classes * groups)),
        )

    @property
    def features(self) -> Rows:
        """Return the clean features of the pool."""
        return self.pool.features

    @property
    def ranks(self) -> Ranks:
        """Return the processes, each with a part of the pool."""
        return self.pool.ranks

    @property
    def train_counts(self) -> torch.Tensor:
        """Return the train samples of each class, int64 [k], of all processes."""
        return self.ranks.total(torch.bincount(self.labels[: self.num_train], minlength=self.num_classes))

    @property
    def class_members(self) -> list[ClassMembers]:
        """Return, for each head, the samples it may learn from, by class."""
        if self.groups == 1:
            return self.members
        return [
            members_of(self.labels, self.num_classes, among=own.order.sort().values, ranks=self.ranks)
            for own in self.members
        ]

    def smoothing(self, head: float) -> torch.Tensor:
        """Return the label-aware smoothing of every class, [k]: `head` for the largest, none for the smallest."""
        return label_aware_smoothing(self.class_counts, head=head)

    def val_predictions(self, heads: list[LinearHead]) -> Predictions:
        """Return what the validation samples [n] of all ranks are predicted to be, each by the head that judges it."""
        result = Predictions.empty(len(self.labels) - self.num_train)
        for head, positions in zip(heads, self.judged, strict=False):
            own = positions[positions >= self.num_train]
            result.put(own - self.num_train, predict(head, self.features, positions=own))
        return result.gathered(self.ranks)


def members_of(
    rows: torch.Tensor, num_rows: int, *, among: torch.Tensor | None = None, ranks: Ranks = ALONE
) -> ClassMembers:
    """Return the samples of every row, all or those at the positions `among`, as the part that this rank holds."""
    members = ClassMembers.from_labels(rows, num_rows, among=among)
    return members if ranks.count == 1 else members.among_others(*ranks.shares(members.counts))


def _pool(train: LabeledFeatures, val: LabeledFeatures, unlabeled: UnlabeledFeatures | None, ranks: Ranks) -> Pool:
    labeled = StackedRows([train.features, val.features])
    features = labeled if unlabeled is None else StackedRows([labeled, unlabeled.features])
    pool = Pool(features, ranks=ranks, spanning=labeled)
    if train.views is None:
        return pool
    viewed, views = ranks.total(torch.tensor([len(train.labels), len(train.views)])).tolist()
    if not views:
        return pool
    if unlabeled is None or unlabeled.views is None:
        return replace(pool, views=train.views, num_views=views // viewed, viewed=[range(len(train.labels))])
    return replace(
        pool,
        views=StackedRows([train.views, unlabeled.views]),
        num_views=views // viewed,
        viewed=[range(len(train.labels)), range(len(labeled), len(features))],
    )


def _deal(
    rows: torch.Tensor, num_train: int, num_rows: int, folds: int, generator: torch.Generator, ranks: Ranks
) -> torch.Tensor:
    """Return the fold of each sample, int64 [n]; -1 for a train sample that is the only one of its row.

    Within a row the folds follow each other, first over the train samples and on over those of validation, in random
    order: fold sizes differ by at most one, in train, in validation and together. Ranks follow each other likewise.
    """
    # stable: by row, then train before validation, then random
    shuffled = torch.randperm(len(rows), generator=own_generator(generator, rank=ranks.rank, count=ranks.count))
    shuffled = torch.cat([shuffled[shuffled < num_train], shuffled[shuffled >= num_train]])
    order = shuffled[sorting(rows[shuffled], num_rows)]
    del shuffled
    # a random first fold, so that small rows do not all leave the last folds empty
    first = torch.randint(folds, (num_rows,), generator=generator)
    own_train = torch.bincount(rows[:num_train], minlength=num_rows)
    own_val = torch.bincount(rows[num_train:], minlength=num_rows)
    (train_before, all_train), (val_before, all_val) = ranks.shares(own_train), ranks.shares(own_val)
    # the number of a sample within its row: train samples of all ranks, then validation samples of all ranks
    starts = own_train.cumsum(0) + own_val.cumsum(0) - own_train - own_val
    fold, place = torch.empty_like(rows), 0
    for own in order.split(_AT_ONCE):
        own_rows = rows[own]
        number = torch.arange(place, place + len(own)) - starts[own_rows]
        # those of other ranks
        number += torch.where(own < num_train, train_before[own_rows], (all_train - own_train + val_before)[own_rows])
        fold[own] = (first[own_rows] + number) % folds
        place += len(own)
    lone = (all_train + all_val) == 1
    if lone.any():
        fold[:num_train][lone[rows[:num_train]]] = -1
    return fold
