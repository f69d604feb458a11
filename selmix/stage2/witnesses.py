"""What nearest neighbours say of labeled samples and of the pool; it does not change with the head."""

from typing import Protocol

import torch

from selmix.features.rows import Rows, pick
from selmix.neighbours import Kind, search_kind
from selmix.pseudo.novelty import class_weights, likeness, share_unlike
from selmix.pseudo.propagation import AffinityGraph, Propagated, PropagationSettings
from selmix.pseudo.voting import VoteSettings, VotingBank
from selmix.stage2.crossfit import CrossFit

GRAPH_MOST = 50_000  # samples in a graph of neighbours; beyond, the labeled neighbours vote
_ASKED = 20_000  # samples whose likeness is looked at


class Witness(Protocol):
    """A source of class probabilities under the uniform prior; a row of zeros is an abstention."""

    def labeled(self, fold: int, positions: torch.Tensor) -> torch.Tensor:
        """Return those of labeled samples [m, k], told by all labeled samples outside the fold."""
        ...

    def pool(self, fold: int, rows: slice) -> torch.Tensor:
        """Return those of some unlabeled samples [b, k], told likewise; a fold of nobody leaves nobody out."""
        ...


class GraphWitness:
    """Label propagation over labeled samples and the pool."""

    def __init__(self, plan: CrossFit) -> None:
        labeled, pool = _parts(plan)
        self._labeled = len(plan.labels)
        self._uniform = torch.full((plan.num_classes,), 1 / plan.num_classes)
        self._graph = AffinityGraph(
            labeled, plan.labels, pool, plan.num_classes, PropagationSettings(), folds=folds_of(plan)
        )
        self._propagated: dict[int, Propagated] = {}

    def _without(self, fold: int) -> Propagated:
        if fold not in self._propagated:
            self._propagated[fold] = self._graph.propagate(excluded=fold)
        return self._propagated[fold]

    def labeled(self, fold: int, positions: torch.Tensor) -> torch.Tensor:
        """Return what has come to labeled samples."""
        return self._without(fold).probabilities(self._uniform, rows=positions)

    def pool(self, fold: int, rows: slice) -> torch.Tensor:
        """Return what has come to unlabeled samples."""
        shifted = slice(self._labeled + rows.start, self._labeled + rows.stop)
        return self._without(fold).probabilities(self._uniform, rows=shifted)


class VoteWitness:
    """The vote of the nearest labeled samples."""

    def __init__(self, plan: CrossFit) -> None:
        labeled, pool = _parts(plan)
        self._uniform = torch.full((plan.num_classes,), 1 / plan.num_classes)
        self._labeled = labeled
        self._bank = VotingBank(labeled, plan.labels, plan.num_classes, folds=folds_of(plan), kind=_kind(labeled, pool))
        self._of_pool = self._bank.search(pool, VoteSettings())

    def labeled(self, fold: int, positions: torch.Tensor) -> torch.Tensor:
        """Return the votes on labeled samples."""
        votes = self._bank.search(pick(self._labeled, positions), VoteSettings(), own=positions)
        return votes.probabilities(self._uniform, excluded=fold)

    def pool(self, fold: int, rows: slice) -> torch.Tensor:
        """Return the votes on unlabeled samples."""
        return self._of_pool.probabilities(self._uniform, excluded=fold, rows=rows)


def _kind(labeled: Rows, pool: Rows) -> Kind:
    return search_kind(len(labeled), len(labeled) + len(pool), labeled.shape[1])


def share_of_no_class(plan: CrossFit, prior: torch.Tensor) -> float:
    """Return a lower bound of the pool's share that is of no known class, given the prior [k] of the others.

    The pool's likeness to what is labeled is compared with that of validation samples; those of train may be known to
    the backbone by heart.
    """
    labeled, _ = _parts(plan)
    val, pool = _some(range(plan.num_train, len(plan.labels))), pick(plan.features, _some(plan.unlabeled))
    bank = VotingBank(labeled, plan.labels, plan.num_classes, kind=_kind(labeled, pool))
    own = likeness(bank.search(pick(plan.features, val), VoteSettings(), own=val).similarities)
    of_pool = likeness(bank.search(pool, VoteSettings()).similarities)
    return share_unlike(own, class_weights(plan.labels[val], prior), of_pool)


def _some(positions: range) -> torch.Tensor:
    """Return `_ASKED` positions at most, evenly spread: enough for a share."""
    return torch.tensor(positions)[:: -(-len(positions) // _ASKED) or 1]


def folds_of(plan: CrossFit) -> torch.Tensor:
    """Return the fold of each labeled sample, int64 [n]; -1 for one that is judged by none."""
    folds = torch.full((len(plan.labels),), -1)
    for fold, positions in enumerate(plan.judged):
        folds[positions] = fold
    return folds


def _parts(plan: CrossFit) -> tuple[Rows, Rows]:
    pool = torch.arange(plan.unlabeled.start, plan.unlabeled.stop)
    return pick(plan.features, torch.arange(len(plan.labels))), pick(plan.features, pool)
