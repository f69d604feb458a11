"""What the SelMix loop leaves behind of its decisions: pairs that it drew, what they promised, and its multipliers.

All of it is written down at refreshes and bounded: beyond `BINS` classes matrices are summed up in bins of classes of
like training count, and beyond `WHOLE` no matrix is kept between refreshes either, but the pairs that each drew most.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

BINS = 100  # rows of a matrix that is kept
WHOLE = 1000  # classes up to which draws are added up pair by pair
PAIRS = 200  # that are named
_MOMENTS, _ITEMS = 200, 64  # multipliers: at so many refreshes, of so many constrained items


@dataclass(frozen=True)
class Traced:
    """What is kept; a pair is (kept class, partner), whatever the groups of samples.

    Attributes:
        bins: int64 [k], the row of each class in the matrices: the largest class first; its label where k <= BINS.
        drawn: float64 [b, b], the share of all drawn pairs in each cell.
        gains: float64 [b, b], mean gain of the pairs of each cell at the start; None if the loop took no step.
        drawn_pairs: int64 [p, 2], the pairs that were drawn most; beyond WHOLE classes of those that were among the
            most drawn between two refreshes.
        drawn_shares: float64 [p], of all drawn pairs; beyond WHOLE classes a lower bound.
        gain_pairs: int64 [p, 2], the pairs of the largest gain at the start.
        gain_values: float64 [p].
        moments: int64 [t], steps at which multipliers were written down.
        multipliers: float64 [t, m], of the items that had the largest; m = 0 without constraints.
        items: [m], what these constrain.
    """

    bins: torch.Tensor
    drawn: torch.Tensor
    gains: torch.Tensor | None
    drawn_pairs: torch.Tensor
    drawn_shares: torch.Tensor
    gain_pairs: torch.Tensor
    gain_values: torch.Tensor
    moments: torch.Tensor
    multipliers: torch.Tensor
    items: list[str]


def predicted_change(law: torch.Tensor, gains: torch.Tensor, *, rate: float, steps: int) -> float:
    """Return what steps on pairs of this law change in the metric, to first order: steps * rate * sum_ij law_ij G_ij.

    G_ij is the derivative of the metric along a step of rate 1 on the pair (i, j), in the model of `selmix.gains`, so
    that of the mean step is the mean of the gains. The heads of the loop follow an average that lags behind, weight
    decay pulls, and gains fall as steps use them up: what is obtained is as a rule much less.

    Args:
        law: [r, r], sums to 1.
        gains: [r, r].
        rate: learning rate.
        steps: taken with this law.
    """
    return rate * steps * float(torch.dot(law.flatten(), gains.to(law).flatten()))


@dataclass
class Trace:
    """Writes down what happens at refreshes.

    Attributes:
        class_counts: int64 [k], training samples of each class.
        groups: rows of the law per class.
        refreshes: how many there will be at most.
        items: what is constrained.
    """

    class_counts: torch.Tensor
    groups: int
    refreshes: int
    items: Sequence[str] = ()
    _steps: int = 0
    _calls: int = 0
    _whole: torch.Tensor | None = None
    _binned: torch.Tensor | None = None
    _most: Counter[int] = field(default_factory=Counter)
    _gains: torch.Tensor | None = None
    _best: tuple[torch.Tensor, torch.Tensor] | None = None
    _moments: list[int] = field(default_factory=list)
    _multipliers: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Sort the classes into bins."""
        self.num_classes = k = len(self.class_counts)
        self._bins = torch.arange(k)
        if k > BINS:
            self._bins[self.class_counts.argsort(descending=True, stable=True)] = torch.arange(k) * BINS // k
        self._size = int(self._bins.max()) + 1

    def add(self, law: torch.Tensor, gains: torch.Tensor, steps: int) -> None:
        """Remember the law [r, r] of the next `steps`, and the gains [r, r] if they are the first."""
        cells = self.groups * self.groups
        if self._gains is None:
            first = self._of_classes(gains)
            first = first / cells if cells > 1 else first
            count = torch.bincount(self._bins).double()
            self._gains = self._in_bins(first) / (count[:, None] * count)
            self._best = _largest(first)
        law = self._of_classes(law)
        self._steps += steps
        if self.num_classes <= WHOLE:
            self._whole = law * steps if self._whole is None else self._whole.add_(law, alpha=steps)
            return
        binned = self._in_bins(law) * steps
        self._binned = binned if self._binned is None else self._binned.add_(binned)
        for pair, share in zip(*(own.tolist() for own in _largest(law)), strict=True):
            self._most[pair] += steps * share

    def constrain(self, step: int, multipliers: torch.Tensor) -> None:
        """Remember the multipliers [m] after `step`, at every so many calls."""
        self._calls += 1
        if len(multipliers) and (self._calls - 1) % -(-(self.refreshes + 1) // _MOMENTS) == 0:
            self._moments.append(step)
            self._multipliers.append(multipliers.clone())

    def traced(self) -> Traced:
        """Return all that was remembered."""
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        places, draws = nothing
        drawn = torch.zeros(self._size, self._size, dtype=torch.float64)
        if self._whole is not None:
            (places, draws), drawn = _largest(self._whole), self._in_bins(self._whole)
        elif self._binned is not None:
            most = self._most.most_common(PAIRS)
            places = torch.tensor([pair for pair, _ in most])
            draws, drawn = torch.tensor([share for _, share in most], dtype=torch.float64), self._binned
        best, values = self._best or nothing
        multipliers = torch.stack(self._multipliers) if self._multipliers else torch.zeros(0, 0, dtype=torch.float64)
        chosen = nothing[0]
        if multipliers.numel():
            chosen = multipliers.amax(0).argsort(descending=True, stable=True)[:_ITEMS]
        steps = max(self._steps, 1)
        return Traced(
            bins=self._bins,
            drawn=drawn / steps,
            gains=self._gains,
            drawn_pairs=self._pairs(places),
            drawn_shares=draws / steps,
            gain_pairs=self._pairs(best),
            gain_values=values,
            moments=torch.tensor(self._moments, dtype=torch.int64),
            multipliers=multipliers[:, chosen],
            items=[self.items[item] for item in chosen.tolist()],
        )

    def _of_classes(self, matrix: torch.Tensor) -> torch.Tensor:
        if self.groups == 1:
            return matrix
        return matrix.view(self.num_classes, self.groups, self.num_classes, self.groups).sum((1, 3))

    def _in_bins(self, matrix: torch.Tensor) -> torch.Tensor:
        if self._size == self.num_classes:
            return matrix.double()
        rows = torch.zeros(self._size, self.num_classes, dtype=torch.float64).index_add_(0, self._bins, matrix.double())
        return torch.zeros(self._size, self._size, dtype=torch.float64).index_add_(1, self._bins, rows)

    def _pairs(self, places: torch.Tensor) -> torch.Tensor:
        return torch.stack([places // self.num_classes, places % self.num_classes], dim=1)


def _largest(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the largest positive cells of a matrix are, counted along its rows, and their values; sorted."""
    found = matrix.flatten().topk(min(PAIRS, matrix.numel()))
    positive = found.values > 0
    return found.indices[positive], found.values[positive].double()
