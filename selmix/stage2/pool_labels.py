"""Pseudo-labels for the heads of a cross-fit: none of them is told anything by the labels that it judges."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from selmix.confusion import confusion_counts, row_normalised
from selmix.features.rows import pick, row_blocks
from selmix.pairs import ClassMembers
from selmix.pseudo.opinion import Opinion, fit_opinion, log_scores
from selmix.pseudo.precision import Precision, pseudo_precision
from selmix.pseudo.prior import estimate_prior
from selmix.pseudo.selection import Candidates, candidates, select
from selmix.pseudo.settings import ASKS_NEIGHBOURS, PseudoSettings
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.evidence import Evidence
from selmix.stage2.witnesses import GRAPH_MOST, GraphWitness, VoteWitness, Witness


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
        weight: [k, d + 1], the last head as it was then: `PoolLabeler.told` of it says what each source says.
    """

    of_head: list[torch.Tensor]
    found: Candidates
    confusion: torch.Tensor
    predicted: torch.Tensor
    prior: torch.Tensor
    precision: Precision
    trusted: torch.Tensor
    opinion: Opinion
    weight: torch.Tensor


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
        ranks = plan.ranks
        self._labels = evidence.rows // plan.groups
        judges = [torch.full_like(own, head) for head, own in enumerate(evidence.positions)]
        self._judges = ranks.gathered(torch.cat(judges))
        self._positions = torch.arange(plan.unlabeled.start, plan.unlabeled.stop)
        self._rows = pick(plan.features, self._positions)
        self.source = settings.source
        if self.source == "auto":
            self.source = "agreement" if ranks.count == 1 else "corrected"
        self._asks_head = self.source in ("head", "corrected", "agreement")
        self._witness: Witness | None = None
        if self.source in ASKS_NEIGHBOURS:
            assert ranks.count == 1  # refused long before
            votes = self.source == "neighbours" or len(plan.features) > GRAPH_MOST
            self._witness = VoteWitness(plan) if votes else GraphWitness(plan)
            told = [self._witness.labeled(fold, own) for fold, own in enumerate(evidence.positions)]
            self._witnessed = log_scores(torch.cat(told))

    def label(self, weights: torch.Tensor) -> PoolLabels:
        """Return the pseudo-labels, given the encoded heads [h, k, d + 1].

        No source that a head listens to knows the labels that it judges, and it is by others that sources are weighed
        and the prior is estimated. (What sources say of these others they have learnt from all but one fold, so a trace
        remains in those few numbers; as it does in what the evidence is worth, in the guard and in the centre of the
        features for the neighbours, which are everybody's.)
        """
        scores = self._judged(weights)
        passed, of_head = torch.full_like(self._labels, -1), []
        for head, weight in enumerate(weights):
            own = self._judges == head  # nobody, for the last head
            view = self._view(scores, ~own, weight, head)
            judged = candidates([view.opinion.probabilities([part[own] for part in scores], view.prior)])
            passed[own] = self._selected(judged, view.prior)
            found = candidates(view.opinion.probabilities(block, view.prior) for block in self._of_pool(weight, head))
            of_head.append(self._selected(found, view.prior))
        precision = pseudo_precision(self._labels, passed, view.prior, weights=self.evidence.weights)
        trusted = precision.estimate >= self.settings.bound  # nan is not
        of_head = [torch.where((classes >= 0) & trusted[classes], classes, -1) for classes in of_head]
        return PoolLabels(
            of_head,
            found,
            view.confusion,
            view.predicted,
            view.prior,
            precision,
            trusted,
            view.opinion,
            weight=weights[-1].clone(),
        )

    def told(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what each source takes the pool for, int64 [u], -1 if it abstains; the head given, [k, d + 1]."""
        parts: dict[str, list[torch.Tensor]] = {name: [torch.empty(0, dtype=torch.int64)] for name in self._names}
        for block in self._of_pool(weight, len(self.plan.judged)):
            for name, own in zip(self._names, block, strict=True):
                parts[name].append(torch.where(own.any(1), own.argmax(1), -1))
        return {name: torch.cat(own) for name, own in parts.items()}

    @property
    def _names(self) -> list[str]:
        head = ["head"] if self._asks_head else []
        if self._witness is None:
            return head
        return [*head, "votes" if isinstance(self._witness, VoteWitness) else "graph"]

    def _view(self, scores: list[torch.Tensor], known: torch.Tensor, weight: torch.Tensor, fold: int) -> "_View":
        """Weigh the sources by the labeled samples that are `known`, and estimate the prior of the pool with them."""
        num_classes = self.plan.num_classes
        labels, worth = self._labels[known], self.evidence.weights[known]
        kept = [own[known] for own in scores]
        opinion = fit_opinion(kept, labels, worth)
        said = opinion.said(kept)
        told = said >= 0
        confusion = confusion_counts(labels[told], said[told], num_classes, weights=worth[told])
        predicted = torch.zeros(num_classes + 1, dtype=torch.float64)  # the first abstain
        for block in self._of_pool(weight, fold):
            predicted += torch.bincount(opinion.said(block) + 1, minlength=num_classes + 1)
        predicted = self.plan.ranks.total(predicted)[1:]
        prior = torch.full_like(predicted, 1 / num_classes)
        if self.source != "head":
            prior = estimate_prior(row_normalised(confusion + 1 / num_classes), predicted, pseudo_count=num_classes)
        return _View(opinion, confusion, predicted, prior)

    def _selected(self, found: Candidates, prior: torch.Tensor) -> torch.Tensor:
        return select(found, self.settings, class_counts=self.plan.class_counts, prior=prior)

    def _judged(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """Return the log-probabilities [m, k] of each source for the evidence, told by what has not learnt it."""
        scores = []
        if self._asks_head:
            judged = zip(self.evidence.features, weights, strict=False)
            own = torch.cat([(rows @ weight.T).log_softmax(1) for rows, weight in judged])
            scores.append(self.plan.ranks.gathered(own))
        if self._witness is not None:
            scores.append(self._witnessed)
        return scores

    def _of_pool(self, weight: torch.Tensor, fold: int) -> Iterator[list[torch.Tensor]]:
        """Yield the log-probabilities [b, k] of each source for blocks of the pool, told by what is not of the fold."""
        space = self.plan.pool.space
        for rows, features in row_blocks(self._rows):
            scores = []
            if self._asks_head:
                scores.append((space.encode(features) @ weight.T).log_softmax(1))
            if self._witness is not None:
                scores.append(log_scores(self._witness.pool(fold, rows)))
            yield scores

    def members(self, labels: PoolLabels) -> tuple[list[ClassMembers], list[ClassMembers]]:
        """Return, for each head, whom it draws as kept samples and whom as partners, by class."""
        plan, num_classes = self.plan, self.plan.num_classes
        partners, both = [], []
        for own, classes in zip(plan.class_members, labels.of_head, strict=True):
            everyone, pseudo = torch.cat([plan.labels, classes]), self._positions[classes >= 0]
            # a class without pseudo-labels has labeled partners
            lacks = plan.ranks.total(torch.bincount(everyone[pseudo], minlength=num_classes)) == 0
            alone = own.order[lacks[plan.labels[own.order]]]
            repeated = own.order.repeat(self.settings.label_weight)
            partners.append(members_of(everyone, num_classes, among=torch.cat([alone, pseudo]), ranks=plan.ranks))
            both.append(members_of(everyone, num_classes, among=torch.cat([repeated, pseudo]), ranks=plan.ranks))
        return (both, both) if self.settings.draws == "both" else (plan.class_members, partners)


@dataclass(frozen=True)
class _View:
    """What a head that must not know a fold is told of the pool: see `PoolLabels`."""

    opinion: Opinion
    confusion: torch.Tensor
    predicted: torch.Tensor
    prior: torch.Tensor
