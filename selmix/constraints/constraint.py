"""What a constraint is: numbers read off the confusion matrix, and the bound they must keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from selmix.metrics.metric import MetricFunction, with_rounded_minima
from selmix.metrics.minimum import Minimum, SoftMinimum, hard_minimum

TOLERANCE = 1e-9  # of rounding: a coverage of 1/k is a sum of floats


@dataclass(frozen=True)
class Constraint:
    """One line of the user's: `item >= bound` or `item <= bound` for each of its items.

    Attributes:
        text: as typed.
        items: what is constrained, one name for each number, e.g. `recall[cat]`.
        bound: the limit.
        at_least: whether it is a floor (>=) or a ceiling (<=).
        form: (confusion, minimum) -> values [m]; NaN for the recall of a class without samples.
    """

    text: str
    items: Sequence[str]
    bound: float
    at_least: bool
    form: Callable[[torch.Tensor, Minimum], torch.Tensor]

    def values(self, confusion: torch.Tensor) -> torch.Tensor:
        """Return the constrained numbers, [m]; NaN for the recall of a class without samples."""
        return self.form(confusion, hard_minimum)

    def slack(self, confusion: torch.Tensor) -> torch.Tensor:
        """Return by how much each item keeps the bound, [m]; negative is a violation, 0 for a class without samples."""
        return self._slack(self.values(confusion))

    def smooth_slack(self, support: torch.Tensor, soft_minimum: SoftMinimum) -> MetricFunction:
        """Return the slack with every minimum in it rounded, as in `Metric.objective`."""
        return with_rounded_minima(
            lambda confusion, minimum: self._slack(self.form(confusion, minimum)), support, soft_minimum
        )

    def _slack(self, values: torch.Tensor) -> torch.Tensor:
        slack = values - self.bound if self.at_least else self.bound - values
        return torch.where(values.isnan(), 0, slack)


def joint_slack(constraints: Sequence[Constraint], confusion: torch.Tensor) -> torch.Tensor:
    """Return the slack of every item of every constraint, in order, [m]."""
    return torch.cat([constraint.slack(confusion) for constraint in constraints])


def joint_smooth_slack(
    constraints: Sequence[Constraint], support: torch.Tensor, soft_minimum: SoftMinimum
) -> MetricFunction:
    """Return `joint_slack` with every minimum rounded, as in `Metric.objective`."""
    slacks = [constraint.smooth_slack(support, soft_minimum) for constraint in constraints]
    return lambda confusion: torch.cat([slack(confusion) for slack in slacks])
