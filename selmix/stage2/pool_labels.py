"""Pseudo-labels for the heads of a cross-fit: none of them is told anything by the labels that it judges."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from selmix.confusion import confusion_counts, row_normalised
from selmix.errors import UsageError
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

        Raises:
            UsageError: if several processes are to ask neighbours.
        """
        self.plan, self.evidence, self.settings = plan, evidence, settings
        self._labels = evidence.rows // plan.groups
        self._rows = pick(plan.features, torch.tensor(plan.unlabeled))
        self.source = settings.source
        if self.source == "auto":
            self.source = "agreement" if plan.ranks.count == 1 else "corrected"
        self._asks_head = self.source in ("head", "corrected", "agreement")
        self._witness: Witness | None = None
        if self.source in ("neighbours", "propagation", "agreement"):
            if plan.ranks.count > 1:
                raise UsageError(
                    f"pseudo.source={self.source} asks neighbours, which works in one process; take corrected or head"
                )
            votes = self.source == "neighbours" or len(plan.features) > GRAPH_MOST
            self._witness = VoteWitness(plan) if votes else GraphWitness(plan)

    def label(self, weights: torch.Tensor) -> PoolLabels:
        """Return the pseudo-labels, given the encoded heads [h, k, d + 1].

        Every head is told by sources, weighed and corrected to a prior, that know nothing of the labels that it judges.
        """
        scores = self._judged(weights)
        sizes = [len(own) for own in self.evidence.positions]
        everyone = torch.arange(len(self._labels))
        judged = everyone.split(sizes) if self.plan.ranks.count == 1 else ()
        passed = torch.full_like(self._labels, -1)
        of_head, found, last = [], None, len(weights) - 1
        for head, weight in enumerate(weights):
            own = judged[head] if head < len(judged) else everyone[:0]
            known = torch.ones(len(everyone), dtype=torch.bool)
            known[own] = False
            view = self._view(scores, known, weight, -1 if head == last else head)
            passed[own] = self._selected([view.opinion.logits([part[own] for part in scores])], view.prior)[1]
            found, classes = self._selected(self._of_pool(view.opinion, weight, view.fold), view.prior)
            of_head.append(classes)
        assert found is not None
        if not judged:
            passed = self._selected([view.opinion.logits(scores)], view.prior)[1]
        precision = pseudo_precision(self._labels, passed, view.prior, weights=self.evidence.weights)
        trusted = (precision.estimate >= self.settings.bound) & (precision.evidence > 0)
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
            weight=weights[last].clone(),
        )

    def _view(self, scores: list[torch.Tensor], known: torch.Tensor, weight: torch.Tensor, fold: int) -> "_View":
        """Weigh the sources by the labeled samples that are `known`, and estimate the prior of the pool with them."""
        num_classes = self.plan.num_classes
        labels, worth = self._labels[known], self.evidence.weights[known]
        kept = [own[known] for own in scores]
        opinion = fit_opinion(kept, labels, worth)
        confusion = confusion_counts(labels, opinion.logits(kept).argmax(1), num_classes, weights=worth)
        predicted = torch.zeros(num_classes, dtype=torch.float64)
        for block in self._of_pool(opinion, weight, fold):
            predicted += torch.bincount(block.argmax(1), minlength=num_classes)
        predicted = self.plan.ranks.total(predicted)
        prior = torch.full_like(predicted, 1 / num_classes)
        if self.source != "head":
            prior = estimate_prior(row_normalised(confusion + 1 / num_classes), predicted, pseudo_count=num_classes)
        return _View(fold, opinion, confusion, predicted, prior)

    def _selected(self, blocks: Iterable[torch.Tensor], prior: torch.Tensor) -> tuple[Candidates, torch.Tensor]:
        found = candidates((block + prior.log()).softmax(1) for block in blocks)
        return found, select(found, self.settings, class_counts=self.plan.class_counts, prior=prior)

    def told(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what each source by itself takes the pool for, int64 [u], -1 if it abstains; by a head [k, d + 1]."""
        parts: dict[str, list[torch.Tensor]] = {}
        for rows, features in row_blocks(self._rows):
            if self._asks_head:
                parts.setdefault("head", []).append((self.plan.pool.space.encode(features) @ weight.T).argmax(1))
            if self._witness is not None:
                shares = self._witness.pool(-1, rows)
                name = "votes" if isinstance(self._witness, VoteWitness) else "graph"
                parts.setdefault(name, []).append(torch.where((shares > 0).any(1), shares.argmax(1), -1))
        return {name: torch.cat(own) for name, own in parts.items()}

    def _judged(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """Return what each source says of the evidence, [m, k], told by what it has not learnt."""
        scores = []
        if self._asks_head:
            own = [
                (rows @ weight.T).log_softmax(1) for rows, weight in zip(self.evidence.features, weights, strict=False)
            ]
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


@dataclass(frozen=True)
class _View:
    """What a head that must not know a fold is told of the pool: see `PoolLabels`."""

    fold: int
    opinion: Opinion
    confusion: torch.Tensor
    predicted: torch.Tensor
    prior: torch.Tensor
