"""What a metric is, and what of the data it may need to know."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from selmix.metrics.minimum import Minimum, SoftMinimum, rounded

MetricFunction = Callable[[torch.Tensor], torch.Tensor]
"""Joint confusion matrix [rows, k] -> 0-d."""

MetricForm = Callable[[torch.Tensor, Minimum], torch.Tensor]
"""The same, with every minimum in it taken by the given function."""


@dataclass(frozen=True)
class MetricContext:
    """What the data tell a metric.

    Attributes:
        class_names: in the order of the labels.
        class_counts: training samples per class, [k].
        num_groups: groups of samples, g; confusion matrices then have k g rows, row = class * g + group.
    """

    class_names: Sequence[str]
    class_counts: torch.Tensor
    num_groups: int = 1

    @property
    def num_classes(self) -> int:
        """Return k."""
        return len(self.class_names)


@dataclass(frozen=True)
class Metric:
    """A metric of the confusion matrix; higher is better.

    Attributes:
        name: as results are keyed: a listed name, or the text of the user's own.
        formula: with r_i the recall of class i, pi_i its prior, c_i its coverage.
        value: psi, [rows, k] -> 0-d; rows are classes, or classes and groups (`MetricContext`).
        form: psi with its minima left open; None where there is no minimum.
        whole: whether it may read more of a matrix than `selmix.margins.Margins` has, as a user's function may.
    """

    name: str
    formula: str
    value: MetricFunction
    form: MetricForm | None = None
    whole: bool = False

    def __call__(self, confusion: torch.Tensor) -> torch.Tensor:
        """Return the metric of a joint confusion matrix as a 0-d tensor."""
        return self.value(confusion)

    def objective(self, support: torch.Tensor, soft_minimum: SoftMinimum) -> MetricFunction:
        """Return what tuning ascends: the metric with every minimum in it rounded.

        Args:
            support: validation samples of each confusion row, float64 [rows]; 0 allowed.
            soft_minimum: (values [m], standard errors [m]) -> 0-d; the errors are constants to autograd.
        """
        return self.value if self.form is None else with_rounded_minima(self.form, support, soft_minimum)


def with_rounded_minima(form: MetricForm, support: torch.Tensor, soft_minimum: SoftMinimum) -> MetricFunction:
    """Return a form with its minima taken by `soft_minimum` at this support; see `Metric.objective`."""
    minimum = rounded(soft_minimum, support)

    def function(confusion: torch.Tensor) -> torch.Tensor:
        # the standard errors inside need gradients even if the caller wants none
        tracked = confusion.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            value = form(confusion if tracked else confusion.detach().requires_grad_(), minimum)
        return value if tracked else value.detach()

    return function
