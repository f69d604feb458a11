"""Label propagation: classes spread from labeled samples along a graph of neighbours that the pool is part of.

Every sample, labeled or not, is tied to its nearest others with weight exp((s - 1) / temperature) at cosine s (in the
space of `voting.py`). W is the sum of that matrix and its transpose, S = D^-1/2 W D^-1/2 with the degrees D of W, and

    F <- alpha S F + (1 - alpha) Y,      which tends to (1 - alpha) (I - alpha S)^-1 Y,

where column c of Y is 1 / n_c at the n_c labeled samples of class c and 0 elsewhere: every class starts with the same.
The rows of F, weighed by the pool's prior and normalised, are the probabilities. The graph is built once and serves all
heads of a cross-fit: a head lets its fold lie unlabeled.

Sources: Zhou et al., NeurIPS 2003; Iscen et al., CVPR 2019.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array

from selmix.errors import check_settings
from selmix.features.rows import Rows, StackedRows, row_blocks
from selmix.neighbours import NeighbourIndex, search_kind
from selmix.pseudo.voting import UnitSpace

_CELLS = 1 << 26  # of F in memory at a time
_KEPT = 16  # classes of a sample


@dataclass(frozen=True)
class PropagationSettings:
    """How classes spread.

    Attributes:
        count: neighbours that each sample is tied to.
        temperature: of the weights.
        alpha: share of a sample's row that comes from its neighbours, in a step.
        steps: after which alpha^steps is what is left to come.
    """

    count: int = 15
    temperature: float = 0.07
    alpha: float = 0.9
    steps: int = 30

    def __post_init__(self) -> None:
        """Refuse values that cannot mean anything."""
        check_settings(
            self,
            {
                "count": (">= 1", self.count >= 1),
                "temperature": ("> 0", self.temperature > 0),
                "alpha": ("in (0, 1)", 0 < self.alpha < 1),
                "steps": (">= 1", self.steps >= 1),
            },
        )


class AffinityGraph:
    """The graph over labeled samples, then the pool."""

    def __init__(
        self,
        labeled: Rows,
        labels: torch.Tensor,
        pool: Rows,
        num_classes: int,
        settings: PropagationSettings,
        *,
        folds: torch.Tensor | None = None,
    ) -> None:
        """Search the neighbours and tie the knots. Rows that are not finite have no ties.

        Args:
            labeled: [n, d].
            labels: int64 [n].
            pool: [m, d]; m may be 0.
            num_classes: k.
            settings: how classes will spread.
            folds: int64 [n], -1 = of none; none has one, if not given.
        """
        self.labels, self.num_classes, self.settings = labels, num_classes, settings
        self.folds = torch.full_like(labels, -1) if folds is None else folds
        everyone = StackedRows([labeled, pool])
        space = UnitSpace(labeled, labels, num_classes)
        unit = torch.empty(*everyone.shape)
        for block, rows in row_blocks(everyone):
            unit[block] = space.encode(rows)
        self.affinity = _affinity(unit, settings)

    def propagate(self, *, excluded: int = -1) -> "Propagated":
        """Let the classes spread from all labeled samples but those of a fold, by blocks of classes.

        Args:
            excluded: the fold that lies unlabeled and so is judged out of fold; -1, or a number that no fold has, for
                none. Other labeled samples have a say in their own rows.
        """
        seeds = ((self.folds != excluded) | (self.folds < 0)).nonzero()[:, 0]
        counts = torch.bincount(self.labels[seeds], minlength=self.num_classes)
        samples, kept = self.affinity.shape[0], min(_KEPT, self.num_classes)
        shares, classes = torch.zeros(samples, 0), torch.zeros(samples, 0, dtype=torch.int32)
        for own in torch.arange(self.num_classes).split(max(1, _CELLS // max(samples, 1))):
            start = torch.zeros(samples, len(own))
            mine = seeds[(self.labels[seeds] >= own[0]) & (self.labels[seeds] <= own[-1])]
            start[mine, self.labels[mine] - own[0]] = 1 / counts[self.labels[mine]].float()
            spread = torch.from_numpy(self._spread(start.numpy()))
            shares, places = torch.cat([shares, spread], 1).topk(min(kept, shares.shape[1] + len(own)), dim=1)
            classes = torch.cat([classes, own.int().expand(samples, -1)], 1).gather(1, places)
        return Propagated(shares, classes, self.num_classes)

    def _spread(self, start: np.ndarray) -> np.ndarray:
        alpha, spread = np.float32(self.settings.alpha), start
        for _ in range(self.settings.steps):
            spread = alpha * (self.affinity @ spread) + (1 - alpha) * start
        return spread


@dataclass(frozen=True)
class Propagated:
    """What has come to each sample: the labeled ones, then the pool.

    Attributes:
        shares: float32 [n + m, s], rows of F at the s <= 16 classes of which most has come.
        classes: int32 [n + m, s].
        num_classes: k.
    """

    shares: torch.Tensor
    classes: torch.Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.shares)

    def probabilities(self, prior: torch.Tensor, *, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Return the probabilities of some samples, float32 [b, k]; zeros where nothing has come from anybody.

        Args:
            prior: [k], of the pool.
            rows: of the labeled samples and the pool, b, maybe by position; blocks bound the memory.
        """
        classes = self.classes[rows].long()
        weighed = self.shares[rows].double() * prior.double()[classes]
        weighed /= weighed.sum(1, keepdim=True).clamp_min(1e-300)
        return torch.zeros(len(classes), self.num_classes).scatter_(1, classes, weighed.float())


def _affinity(unit: torch.Tensor, settings: PropagationSettings) -> csr_array:
    """Return the normalised affinity S of rows of unit length, float32, a block of queries at a time."""
    samples = len(unit)
    index = NeighbourIndex(unit, kind=search_kind(samples, samples, unit.shape[1]))
    neighbours, weights, ends = [], [], [torch.zeros(1, dtype=torch.int64)]
    for block, rows in row_blocks(unit):
        found = index.search(rows, settings.count, own=torch.arange(block.start, block.stop))
        there = found.positions >= 0
        neighbours.append(found.positions[there].int())
        weights.append(((found.values[there] - 1) / settings.temperature).exp())
        ends.append(there.sum(1))
    empty = torch.empty(0, dtype=torch.int32), torch.empty(0)
    columns, values = (torch.cat([none, *own]).numpy() for none, own in zip(empty, (neighbours, weights), strict=True))
    ties = csr_array((values, columns, torch.cat(ends).cumsum(0).numpy()), shape=(samples, samples))
    ties = csr_array(ties + ties.T)
    degrees = np.asarray(ties.sum(1), dtype=np.float64)
    root = diags_array(np.where(degrees > 0, degrees, np.inf) ** -0.5)
    return csr_array(root @ ties @ root).astype(np.float32)
