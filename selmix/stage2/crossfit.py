"""Cross-fitting: every validation label steers the tuning and trains the head, and no head judges what it has learnt.

The validation samples are dealt into folds. For each fold there is a head that learns from train and from the other
folds; it alone predicts the samples of its fold, so the pooled confusion matrix is an out-of-fold estimate. One more
head learns from everything. All heads take the same steps, on the same class pairs; the last one is the result.
"""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers


@dataclass(frozen=True)
class CrossFit:
    """Who learns from what, and who judges what.

    Attributes:
        pool: train samples, then validation samples.
        members: for each of h heads, the samples of the pool it may learn from, by class; the last head is the result.
        judged: for each head, the positions in the validation split that it predicts; together they are all of them.
    """

    pool: LabeledFeatures
    members: list[ClassMembers]
    judged: list[torch.Tensor]

    @classmethod
    def plan(
        cls, train: LabeledFeatures, val: LabeledFeatures, num_classes: int, *, folds: int, generator: torch.Generator
    ) -> "CrossFit":
        """Deal the validation samples, class by class, into `folds`; 0 lets them steer but train nothing.

        Args:
            train: every class must have a sample.
            val: likewise.
            num_classes: k.
            folds: 0, or at least 2.
            generator: source of the deal.
        """
        pool = LabeledFeatures(torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels]))
        everything = torch.arange(len(pool.labels))
        if folds == 0:
            among_train = ClassMembers.from_labels(pool.labels, num_classes, among=everything[: len(train.labels)])
            return cls(pool, [among_train], [torch.arange(len(val.labels))])
        fold = _deal(val.labels, num_classes, folds, generator)
        fold_of_pool = torch.cat([torch.full_like(train.labels, -1), fold])
        members = [
            ClassMembers.from_labels(pool.labels, num_classes, among=everything[fold_of_pool != head])
            for head in range(folds + 1)
        ]
        return cls(pool, members, [(fold == head).nonzero()[:, 0] for head in range(folds + 1)])

    def logits(self, heads: list[LinearHead], val: LabeledFeatures) -> torch.Tensor:
        """Return the logits [n, k] of the validation samples, each from the head that judges it."""
        logits = val.features.new_empty(len(val.labels), heads[0].num_classes)
        for head, rows in zip(heads, self.judged, strict=True):
            logits[rows] = head.logits(val.features[rows])
        return logits


def _deal(labels: torch.Tensor, num_classes: int, folds: int, generator: torch.Generator) -> torch.Tensor:
    """Return the fold of each sample, int64 [n]: within a class, fold sizes differ by at most one."""
    fold = torch.empty_like(labels)
    for label in range(num_classes):
        positions = (labels == label).nonzero()[:, 0]
        shuffled = positions[torch.randperm(len(positions), generator=generator)]
        # a random first fold, so that small classes do not all leave the last folds empty
        first = torch.randint(folds, (1,), generator=generator)
        fold[shuffled] = (first + torch.arange(len(positions))) % folds
    return fold
