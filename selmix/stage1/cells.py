"""Cells: the classes, or the classes within groups of samples; and what is to be balanced over them.

With g groups, cell c stands for class c // g within group c % g; without groups (g = 1) cells are classes. A data set
whose labels are cells needs no second column.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Goal = Literal["balanced", "accuracy", "deo"]


def cell_numbers(labels: torch.Tensor, groups: torch.Tensor, *, num_groups: int) -> torch.Tensor:
    """Return the cell of every sample, int64 [n].

    >>> cell_numbers(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]), num_groups=2)
    tensor([1, 2, 3])
    """
    return labels * num_groups + groups


@dataclass(frozen=True)
class Goals:
    """What losses, or errors, summed up in each cell amount to: (1 - blend) of one goal + blend of another.

    Attributes:
        num_cells: k g.
        num_groups: g.
        goal: the mean over the cells; the mean over samples; or the difference of equalised odds, the sum over the
            classes of what the worst of its groups has more than the best.
        blended_with: the other goal.
        blend: its share.

    Source: Li et al., "AutoBalance", NeurIPS 2021, sections 3 and 4 (equation 4.1, for two groups).
    """

    num_cells: int
    num_groups: int = 1
    goal: Goal = "balanced"
    blended_with: Goal | Literal["none"] = "none"
    blend: float = 0.5

    @property
    def linear(self) -> bool:
        """Whether the derivative in the sums does not depend on them."""
        return "deo" not in (self.goal, self.blended_with)

    def of(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return the whole, a scalar.

        Args:
            sums: [k g], of the losses in each cell.
            counts: [k g] samples; a cell without any is left out.
        """
        first = _GOALS[self.goal](sums, counts, self.num_groups)
        if self.blended_with == "none":
            return first
        return (1 - self.blend) * first + self.blend * _GOALS[self.blended_with](sums, counts, self.num_groups)


def _balanced(sums: torch.Tensor, counts: torch.Tensor, num_groups: int) -> torch.Tensor:
    present = counts > 0
    return (sums[present] / counts[present]).mean()


def _accuracy(sums: torch.Tensor, counts: torch.Tensor, num_groups: int) -> torch.Tensor:
    return sums.sum() / counts.sum()


def _deo(sums: torch.Tensor, counts: torch.Tensor, num_groups: int) -> torch.Tensor:
    means = (sums / counts.clamp_min(1)).view(-1, num_groups)
    absent = (counts == 0).view(-1, num_groups)
    spread = means.masked_fill(absent, -torch.inf).amax(1) - means.masked_fill(absent, torch.inf).amin(1)
    return spread[~absent.all(1)].sum()


_GOALS = {"balanced": _balanced, "accuracy": _accuracy, "deo": _deo}
