"""Pseudo-labels for the heads of a cross-fit: none of them is told anything by the labels that it judges."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from selmix.confusion import confusion_counts, row_normalised
from selmix.features.rows import gather, pick, row_blocks
from selmix.features.space import FeatureSpace
from selmix.pairs import ClassMembers
from selmix.pseudo.opinion import Opinion, fit_opinion, log_scores
from selmix.pseudo.prior import estimate_prior
from selmix.pseudo.selection import Candidates, candidates, select
from selmix.pseudo.settings import PseudoSettings
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.evidence import Evidence


class Witness(Protocol):
    """What neighbours say of labeled samples and of the pool; it does not change with the head."""

    def labeled(self, excluded: int, positions: torch.Tensor) -> torch.Tensor:
        """Return class probabilities [m, k] of labeled samples, told by those outside the fold `excluded`."""
        ...

    def pool(self, excluded: int, rows: slice) -> torch.Tensor:
        """Return class probabilities [b, k] of unlabeled samples, told likewise; -1 excludes nobody."""
        ...


@dataclass(frozen=True)
class PoolLabels:
    """What the samples of a pool pass for.

    Attributes:
        of_head: for each of h heads, int64 [u], -1 where it uses none.
        found: of the last head, before any selection.
        prior: float64 [k], estimated class shares of the pool.
        precision: float64 [k], estimated; nan for a class that is never predicted.
        trusted: bool [k], classes whose pseudo-labels are precise enough.
        opinion: how the sources were weighed.
    """

    of_head: list[torch.Tensor]
    found: Candidates
    prior: torch.Tensor
    precision: torch.Tensor
    trusted: torch.Tensor
    opinion: Opinion


class PoolLabeler:
    """Labels the pool of a cross-fit with its heads, as often as they change."""

    def __init__(
        self, plan: CrossFit, space: FeatureSpace, evidence: Evidence, settings: PseudoSettings, witness: Witness | None
    ) -> None:
        self.plan, self.space, self.evidence, self.settings, self.witness = plan, space, evidence, settings, witness
        self.labels = plan.labels[torch.cat(evidence.positions)]
        self.uses_head = settings.source not in ("neighbours", "propagation")

    def label(self, weights: torch.Tensor) -> PoolLabels:
        """Return the pseudo-labels, given the heads [h, k, d + 1] in the space."""
        plan, num_classes = self.plan, self.plan.num_classes
        judged = [
            torch.cat(parts)
            for parts in zip(
                *(self._scores_of_fold(fold, weights[fold]) for fold in range(len(plan.judged))), strict=True
            )
        ]
        opinion = fit_opinion(judged, self.labels, self.evidence.weights)
        own = opinion.logits(judged)
        prior = torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
        if self.settings.source != "head":
            counts = confusion_counts(self.labels, own.argmax(1), num_classes, weights=self.evidence.weights)
            rates = row_normalised(counts + 1 / num_classes)
            predicted = torch.zeros(num_classes, dtype=torch.float64)
            for _, block in self._pool_logits(opinion, weights[-1], -1):
                predicted += torch.bincount(block.argmax(1), minlength=num_classes)
            prior = estimate_prior(rates, predicted, pseudo_count=num_classes)
        shift = prior.log()

        def chosen(blocks: Iterator[torch.Tensor]) -> tuple[Candidates, torch.Tensor]:
            found = candidates(blocks)
            return found, select(found, self.settings, class_counts=plan.class_counts, prior=prior)

        # the precision of what is selected, as labeled samples that were not learnt let one expect it in the pool
        _, passed = chosen(block.softmax(1) for block in (own + shift).split(1 << 14))
        kept = passed >= 0
        counts = confusion_counts(self.labels[kept], passed[kept], num_classes, weights=self.evidence.weights[kept])
        support = torch.bincount(self.labels, self.evidence.weights, minlength=num_classes)
        joint = prior[:, None] * (counts + 0.5 / num_classes) / (support[:, None] + 0.5)
        precision = joint.diagonal() / joint.sum(0)
        trusted = precision >= self.settings.bound
        of_head = []
        for head, weight in enumerate(weights):
            last = head == len(weights) - 1
            found, classes = chosen(
                (block + shift).softmax(1) for _, block in self._pool_logits(opinion, weight, -1 if last else head)
            )
            of_head.append(torch.where((classes >= 0) & trusted[classes], classes, -1))
        return PoolLabels(of_head, found, prior, precision, trusted, opinion)

    def _scores_of_fold(self, fold: int, weight: torch.Tensor) -> list[torch.Tensor]:
        scores = []
        if self.uses_head:
            scores.append((self.evidence.features[fold] @ weight.T).log_softmax(1))
        if self.witness is not None:
            scores.append(log_scores(self.witness.labeled(fold, self.evidence.positions[fold])))
        return scores

    def _pool_logits(self, opinion: Opinion, weight: torch.Tensor, fold: int) -> Iterator[tuple[slice, torch.Tensor]]:
        pool = pick(self.plan.features, torch.tensor(self.plan.unlabeled))
        for rows, features in row_blocks(pool):
            scores = []
            if self.uses_head:
                scores.append((self.space.encode(features) @ weight.T).log_softmax(1))
            if self.witness is not None:
                scores.append(log_scores(self.witness.pool(fold, rows)))
            yield rows, opinion.logits(scores)

    def members(self, labels: PoolLabels) -> tuple[list[ClassMembers], list[ClassMembers]]:
        """Return, for each head, whom it may draw as kept samples and whom as their partners."""
        plan, unlabeled = self.plan, torch.tensor(self.plan.unlabeled)
        partners, both = [], []
        for own, classes in zip(plan.class_members, labels.of_head, strict=True):
            everyone = torch.cat([plan.labels, classes])
            pseudo = unlabeled[classes >= 0]
            counts = plan.ranks.total(torch.bincount(everyone[pseudo], minlength=plan.num_classes))
            lacking = own.order[(counts == 0)[plan.labels[own.order]]]
            partners.append(
                members_of(everyone, plan.num_classes, among=torch.cat([lacking, pseudo]), ranks=plan.ranks)
            )
            repeated = own.order.repeat(self.settings.label_weight)
            both.append(members_of(everyone, plan.num_classes, among=torch.cat([repeated, pseudo]), ranks=plan.ranks))
        return (both, both) if self.settings.draws == "both" else (plan.class_members, partners)
