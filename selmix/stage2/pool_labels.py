"""Pseudo-labels for the heads of a cross-fit: none of them is told anything by the labels that it judges."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from selmix.confusion import confusion_counts, row_normalised
from selmix.features.rows import pick, row_blocks
from selmix.features.space import FeatureSpace
from selmix.pairs import ClassMembers
from selmix.pseudo.opinion import Opinion, fit_opinion, log_scores
from selmix.pseudo.precision import Precision, pseudo_precision
from selmix.pseudo.prior import estimate_prior
from selmix.pseudo.selection import Candidates, candidates, select
from selmix.pseudo.settings import PseudoSettings
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.evidence import Evidence
from selmix.stage2.witnesses import GRAPH_MOST, GraphWitness, Likeness, VoteWitness, Witness


@dataclass(frozen=True)
class PoolLabels:
    """What the samples of a pool pass for.

    Attributes:
        of_head: for each of h heads, int64 [u], -1 where it uses none.
        found: of the last head, before any selection.
        confusion: float64 [k, k], labeled samples by class and by what the sources say of them without any prior; what
            they are worth as evidence, out of fold.
        predicted: float64 [k], what the sources of the last head say of the pool without any prior.
        prior: float64 [k], estimated class shares of the pool; uniform for the head as it is.
        precision: of what is selected.
        trusted: bool [k], classes whose pseudo-labels are precise enough to be used.
        opinion: how the sources were weighed.
    """

    of_head: list[torch.Tensor]
    found: Candidates
    confusion: torch.Tensor
    predicted: torch.Tensor
    prior: torch.Tensor
    precision: Precision
    trusted: torch.Tensor
    opinion: Opinion


class PoolLabeler:
    """Labels the pool of a cross-fit with its heads, as often as they change."""

    def __init__(self, plan: CrossFit, evidence: Evidence, settings: PseudoSettings) -> None:
        """Ask the neighbours, once.

        Args:
            plan: with a pool that is not empty.
            evidence: labeled samples, judged out of fold.
            settings: where pseudo-labels come from and which are used.
        """
        self.plan, self.evidence, self.settings = plan, evidence, settings
        self._labels = plan.labels[torch.cat(evidence.positions)]
        self._rows = pick(plan.features, torch.tensor(plan.unlabeled))
        self.source = settings.source
        if self.source == "auto":
            self.source = "agreement" if plan.ranks.count == 1 else "corrected"
        self._asks_head = self.source in ("head", "corrected", "agreement")
        self._witness: Witness | None = None
        if self.source in ("neighbours", "propagation", "agreement"):
            votes = self.source == "neighbours" or len(plan.features) > GRAPH_MOST
            self._witness = VoteWitness(plan) if votes else GraphWitness(plan)
        self.likeness = Likeness(plan) if settings.novelty else None
        self._familiar = None if self.likeness is None else self.likeness.familiar(settings.novelty)

    def label(self, weights: torch.Tensor) -> PoolLabels:
        """Return the pseudo-labels, given the encoded heads [h, k, d + 1]."""
        num_classes, worth = self.plan.num_classes, self.evidence.weights
        judged = self._judged(weights)
        opinion = fit_opinion(judged, self._labels, worth)
        without_prior = opinion.logits(judged)
        confusion = confusion_counts(self._labels, without_prior.argmax(1), num_classes, weights=worth)
        predicted = torch.zeros(num_classes, dtype=torch.float64)
        for block in self._of_pool(opinion, weights[-1], -1):
            predicted += torch.bincount(block.argmax(1), minlength=num_classes)
        predicted = self.plan.ranks.total(predicted)
        prior = torch.full_like(predicted, 1 / num_classes)
        if self.source != "head":
            prior = estimate_prior(row_normalised(confusion + 1 / num_classes), predicted, pseudo_count=num_classes)

        def selected(blocks: Iterable[torch.Tensor]) -> tuple[Candidates, torch.Tensor]:
            found = candidates((block + prior.log()).softmax(1) for block in blocks)
            return found, select(found, self.settings, class_counts=self.plan.class_counts, prior=prior)

        precision = pseudo_precision(self._labels, selected([without_prior])[1], prior, weights=worth)
        trusted = (precision.estimate >= self.settings.bound) & (precision.evidence > 0)
        of_head = []
        for fold, weight in enumerate(weights):
            last = fold == len(self.plan.judged)
            found, classes = selected(self._of_pool(opinion, weight, -1 if last else fold))
            used = (classes >= 0) & trusted[classes]
            of_head.append(torch.where(used if self._familiar is None else used & self._familiar, classes, -1))
        return PoolLabels(of_head, found, confusion, predicted, prior, precision, trusted, opinion)

    def _judged(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """Return what each source says of the evidence, [m, k], told by what it has not learnt."""
        scores = []
        if self._asks_head:
            own = [(rows @ weight.T).log_softmax(1) for rows, weight in zip(self.evidence.features, weights, strict=False)]
            scores.append(torch.cat(own))
        if self._witness is not None:
            told = [self._witness.labeled(fold, own) for fold, own in enumerate(self.evidence.positions)]
            scores.append(log_scores(torch.cat(told)))
        return [self.plan.ranks.gathered(own) for own in scores]

    def _of_pool(self, opinion: Opinion, weight: torch.Tensor, fold: int) -> Iterator[torch.Tensor]:
        """Yield the logits of blocks of the pool, without any prior."""
        space: FeatureSpace = self.plan.pool.space
        for rows, features in row_blocks(self._rows):
            scores = []
            if self._asks_head:
                scores.append((space.encode(features) @ weight.T).log_softmax(1))
            if self._witness is not None:
                scores.append(log_scores(self._witness.pool(fold, rows)))
            yield opinion.logits(scores)

    def members(self, labels: PoolLabels) -> tuple[list[ClassMembers], list[ClassMembers]]:
        """Return, for each head, whom it draws as kept samples and whom as partners, by class."""
        plan, unlabeled, num_classes = self.plan, torch.tensor(self.plan.unlabeled), self.plan.num_classes
        partners, both = [], []
        for own, classes in zip(plan.class_members, labels.of_head, strict=True):
            everyone, pseudo = torch.cat([plan.labels, classes]), unlabeled[classes >= 0]
            # a class without pseudo-labels has labeled partners
            lacks = plan.ranks.total(torch.bincount(everyone[pseudo], minlength=num_classes)) == 0
            alone = own.order[lacks[plan.labels[own.order]]]
            repeated = own.order.repeat(self.settings.label_weight)
            partners.append(members_of(everyone, num_classes, among=torch.cat([alone, pseudo]), ranks=plan.ranks))
            both.append(members_of(everyone, num_classes, among=torch.cat([repeated, pseudo]), ranks=plan.ranks))
        return (both, both) if self.settings.draws == "both" else (plan.class_members, partners)
