"""What the heads of a cross-fit show of themselves: a confusion matrix from every sample that is judged out of fold."""

from dataclasses import dataclass, replace

import torch

from selmix.apportion import own_share, random_shift
from selmix.confusion import confusion_counts, joint_confusion
from selmix.features.rows import gather
from selmix.features.space import FeatureSpace
from selmix.metrics import MetricFunction
from selmix.ranks import Ranks
from selmix.seeding import own_generator
from selmix.significance import paired_difference
from selmix.stage2.crossfit import CrossFit
from selmix.worth import training_worth

# samples that are judged at every refresh, and at least so many a row; more would cost time and tell little
_JUDGED_TRAIN, _JUDGED_VAL, _AT_LEAST = 20_000, 65_536, 20
_CELLS = 1 << 22  # numbers in memory at a time


@dataclass(frozen=True)
class Evidence:
    """Judged samples with the weight that each has.

    Of several processes each holds the features of its own samples; who they are and what they are predicted to be is
    known to all, rank by rank.

    Attributes:
        positions: for each judging head, where its own samples lie in the pool, int64 [m_h].
        features: the encoded features of these, [m_h, d + 1].
        rows: int64 [m], the confusion row of every judged sample, head by head.
        is_val: bool [m].
        weights: float64 [m]: 1 for validation samples, what it is worth for a train sample.
        prior: float64 [r], the share of each row that metrics are computed with: that of validation, where a row that
            has train samples only counts like one with a single validation sample.
        num_classes: k.
        ranks: the processes.
        own: where the samples of this process lie among all m.
    """

    positions: list[torch.Tensor]
    features: list[torch.Tensor]
    rows: torch.Tensor
    is_val: torch.Tensor
    weights: torch.Tensor
    prior: torch.Tensor
    num_classes: int
    ranks: Ranks
    own: slice

    @classmethod
    def gather(
        cls,
        plan: CrossFit,
        space: FeatureSpace,
        weights: torch.Tensor,
        *,
        knows_train: bool = False,
        generator: torch.Generator,
    ) -> "Evidence":
        """Choose the samples to judge and weigh them by what the given heads make of them.

        Args:
            plan: who judges what.
            space: of the heads.
            weights: [h, k, d + 1], the heads.
            knows_train: they have learnt the train samples that they judge; these then only speak for rows without
                validation samples.
            generator: source of the choice where there are more samples than needed.
        """
        ranks, num_rows = plan.ranks, plan.num_classes * plan.groups
        chosen = [_thin(positions, plan, generator) for positions in plan.judged]
        positions = torch.cat(chosen)
        (before, _), own_count = ranks.shares(torch.tensor([len(positions)])), len(positions)
        rows, is_val = ranks.gathered(plan.rows[positions]), ranks.gathered(positions >= plan.num_train)
        # of all of validation: what is judged of it is cut off at so many a row
        val_count = plan.val_counts
        share = torch.where(torch.bincount(rows, minlength=num_rows) > 0, val_count.clamp_min(1), 0).double()
        evidence = cls(
            positions=chosen,
            features=[space.encode(gather(plan.features, own)) for own in chosen],
            rows=rows,
            is_val=is_val,
            weights=torch.ones(len(rows), dtype=torch.float64),
            prior=share / share.sum(),
            num_classes=plan.num_classes,
            ranks=ranks,
            own=slice(int(before), int(before) + own_count),
        )
        right = (evidence.judge(weights) == rows // plan.groups).double()

        def per_row(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total = torch.bincount(rows[which], minlength=num_rows).double()
            return torch.bincount(rows[which], right[which], minlength=num_rows), total

        worth = training_worth(*per_row(~is_val), *per_row(is_val))
        evidence.weights.copy_(torch.where(is_val, 1.0, worth[rows]))
        return evidence.on_val() if knows_train else evidence

    def on_val(self) -> "Evidence":
        """Return the same, but rows that have validation samples are judged by these alone: for who knows train."""
        judged = torch.bincount(self.rows[self.is_val], minlength=len(self.prior)) > 0
        return replace(self, weights=torch.where(self.is_val | ~judged[self.rows], self.weights, 0.0))

    def judge(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the predictions, int64 [m], of every sample by the head that has not learnt it."""
        own = torch.cat([(rows @ weight.T).argmax(1) for rows, weight in zip(self.features, weights, strict=False)])
        return self.ranks.gathered(own)

    @property
    def support(self) -> torch.Tensor:
        """Return how many validation samples the evidence of each row is worth, float64 [r]."""
        return torch.bincount(self.rows, self.weights, minlength=len(self.prior))

    def confusion(self, predictions: torch.Tensor, *, pseudo_count: float = 0.0) -> torch.Tensor:
        """Return the joint confusion matrix [r, k] of the predictions, its rows smoothed and scaled to the prior."""
        counts = confusion_counts(self.rows, predictions, self.num_classes, groups=self.groups, weights=self.weights)
        return joint_confusion(counts, pseudo_count=pseudo_count, prior=self.prior)

    def soft_confusion(self, weights: torch.Tensor, *, temperature: float, pseudo_count: float = 0.0) -> torch.Tensor:
        """Return the joint confusion matrix [r, k] of predictions softened to softmax(logits / temperature).

        Its gradient is the steadier guide: samples near a border count on both sides of it, and a class that is never
        predicted but nearly so still pulls.

        Args:
            weights: [h, k, d + 1], the heads.
            temperature: > 0.
            pseudo_count: as in `confusion`.
        """
        counts = torch.zeros(len(self.prior), self.num_classes, dtype=torch.float64)
        start = self.own.start
        for own, weight in zip(self.features, weights, strict=False):
            for block in own.split(max(1, _CELLS // self.num_classes)):
                rows = slice(start, start + len(block))
                shares = (block.to(weight) @ weight.T / temperature).softmax(1)
                counts.index_add_(0, self.rows[rows], shares * self.weights[rows, None])
                start += len(block)
        return joint_confusion(self.ranks.total(counts), pseudo_count=pseudo_count, prior=self.prior)

    @property
    def groups(self) -> int:
        """Return the rows per class."""
        return len(self.prior) // self.num_classes

    def difference(
        self, objective: MetricFunction, candidate: torch.Tensor, incumbent: torch.Tensor, *, pseudo_count: float
    ) -> tuple[float, float]:
        """Return by how much the candidate's predictions are better, and the standard error: `paired_difference`."""
        return paired_difference(
            objective,
            self.rows,
            candidate,
            incumbent,
            self.num_classes,
            pseudo_count=pseudo_count,
            groups=self.groups,
            weights=self.weights,
            prior=self.prior,
        )

    def row_means(self) -> torch.Tensor:
        """Return the weighted mean encoded feature of each row, float64 [r, d + 1]; zeros without samples."""
        sums = torch.zeros(len(self.prior), self.features[0].shape[1], dtype=torch.float64)
        start = self.own.start
        for own in self.features:
            block = slice(start, start + len(own))
            sums.index_add_(0, self.rows[block], own.double() * self.weights[block, None])
            start += len(own)
        return self.ranks.total(sums) / torch.where(self.support > 0, self.support, 1)[:, None]


def _thin(positions: torch.Tensor, plan: CrossFit, generator: torch.Generator) -> torch.Tensor:
    """Return at most so many of a fold's samples per row, train and validation apart, drawn at random.

    Of several processes each gives in proportion to what it holds, so that they keep together what one would keep.
    """
    folds, num_rows, ranks = len(plan.judged), plan.num_classes * plan.groups, plan.ranks
    alone = own_generator(generator, rank=ranks.rank, count=ranks.count)
    kept = []
    for part, judged in ((positions < plan.num_train, _JUDGED_TRAIN), (positions >= plan.num_train, _JUDGED_VAL)):
        own = positions[part]
        own = own[torch.randperm(len(own), generator=alone)]
        own = own[plan.rows[own].argsort(stable=True)]
        counts = torch.bincount(plan.rows[own], minlength=num_rows)
        place = torch.arange(len(own)) - (counts.cumsum(0) - counts)[plan.rows[own]]
        before, everyone = ranks.shares(counts)
        wanted = everyone.clamp_max(-(-max(_AT_LEAST, judged // num_rows) // folds))
        shift = torch.zeros_like(wanted) if ranks.count == 1 else random_shift(everyone, generator=generator)
        kept.append(own[place < own_share(wanted, before, counts, everyone, shift)[plan.rows[own]]])
    return torch.cat(kept).sort().values
