"""Metrics psi(C) of the joint confusion matrix, and their gradient in logit space.

Every metric is a function of C alone, points up (higher is better) and lies in [0, 1]. A class without samples has no
recall and is left out of the metric; it still counts as a wrong prediction for the samples given to it. At least one
class must have samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.confusion import class_prior, coverage, recall, row_normalised
from selmix.errors import UsageError, suggestion

MetricFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric of the confusion matrix.

    Attributes:
        name: as the user types it.
        formula: with r_i the recall of class i, pi_i its prior, c_i its coverage.
        value: psi, [k, k] -> 0-d.
        smooth: psi with its kinks rounded, given a sharpness; None where psi is smooth already.
    """

    name: str
    formula: str
    value: MetricFunction
    smooth: Callable[[torch.Tensor, float], torch.Tensor] | None = None

    def __call__(self, confusion: torch.Tensor) -> torch.Tensor:
        """Return the metric of a joint confusion matrix [k, k] as a 0-d tensor."""
        return self.value(confusion)

    def objective(self, sharpness: float) -> MetricFunction:
        """Return the smooth form that tuning ascends; it tends to the metric as `sharpness` grows."""
        smooth = self.smooth
        return self.value if smooth is None else lambda confusion: smooth(confusion, sharpness)


def accuracy(confusion: torch.Tensor) -> torch.Tensor:
    """Return the share of correct predictions."""
    return confusion.diagonal().sum()


def mean_recall(confusion: torch.Tensor) -> torch.Tensor:
    """Return the mean recall (balanced accuracy)."""
    return recall(confusion).mean()


def min_recall(confusion: torch.Tensor) -> torch.Tensor:
    """Return the worst class's recall."""
    return recall(confusion).amin()


def smooth_min_recall(confusion: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Return the soft minimum -log(mean exp(-sharpness * r)) / sharpness.

    Its gradient with respect to the recalls is softmax(-sharpness * r), the memoryless multipliers of the SelMix
    release. It exceeds the minimum by at most log(k) / sharpness.
    """
    recalls = recall(confusion)
    log_count = torch.log(torch.tensor(float(len(recalls)), dtype=recalls.dtype, device=recalls.device))
    return (log_count - torch.logsumexp(-sharpness * recalls, 0)) / sharpness


def geometric_mean(confusion: torch.Tensor) -> torch.Tensor:
    """Return the geometric mean of recalls; 0, with zero gradient, when a recall is 0."""
    recalls = recall(confusion)
    if (recalls == 0).any():
        return 0 * recalls.sum()
    return recalls.log().mean().exp()


def harmonic_mean(confusion: torch.Tensor) -> torch.Tensor:
    """Return the harmonic mean of recalls; 0, with zero gradient, when a recall is 0."""
    recalls = recall(confusion)
    if (recalls == 0).any():
        return 0 * recalls.sum()
    return 1 / (1 / recalls).mean()


def macro_f1(confusion: torch.Tensor) -> torch.Tensor:
    """Return the mean over classes of F1 = 2 C_ii / (pi_i + c_i)."""
    prior = class_prior(confusion)
    present = prior > 0
    return (2 * confusion.diagonal()[present] / (prior + coverage(confusion))[present]).mean()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "sum_i C_ii", accuracy),
        Metric("mean_recall", "mean_i r_i", mean_recall),
        Metric("min_recall", "min_i r_i", min_recall, smooth_min_recall),
        Metric("geometric_mean", "(prod_i r_i) ^ (1/k)", geometric_mean),
        Metric("harmonic_mean", "k / sum_i (1 / r_i)", harmonic_mean),
        Metric("macro_f1", "mean_i 2 C_ii / (pi_i + c_i)", macro_f1),
    )
}

# the names scikit-learn users type first
ALIASES = {"balanced_accuracy": "mean_recall", "recall_macro": "mean_recall", "f1_macro": "macro_f1"}


def get_metric(name: str) -> Metric:
    """Return the metric called `name`, which may be one of scikit-learn's scorer names.

    Raises:
        UsageError: if there is no such metric; the message lists the names and the nearest match.

    >>> confusion = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
    >>> round(float(get_metric("min_recall")(confusion)), 3)
    0.4
    """
    canonical = ALIASES.get(name, name)
    if canonical not in METRICS:
        raise UsageError(f"unknown metric {name!r}: {suggestion(name, [*METRICS, *ALIASES])}")
    return METRICS[canonical]


def metric_gradient(metric: MetricFunction, confusion: torch.Tensor) -> torch.Tensor:
    """Return g = dpsi/dC by autograd, float64 [k, k], all entries of C taken as free."""
    point = confusion.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(metric(point), point)
    return gradient


def logit_gradient(metric: MetricFunction, confusion: torch.Tensor) -> torch.Tensor:
    """Return M = dpsi/dA, the gradient pulled back through the row softmax, for any class prior.

    Write C_ij = pi_i S_ij with S = softmax of the rows of a logit matrix A and pi fixed. Then
    dS_ij/dA_il = S_ij (1[j=l] - S_il), and with g = dpsi/dC
        M_il = pi_i sum_j g_ij S_ij (1[j=l] - S_il) = C_il (g_il - sum_j g_ij S_ij).
    Every row of M sums to 0; the row of a class without samples is 0.

    Args:
        metric: psi, [k, k] -> 0-d; differentiable at `confusion`.
        confusion: [k, k] joint confusion matrix.

    Returns:
        float64 [k, k].

    Source: SelMix, ICLR 2024 (unconstrained reparametrisation), here in closed form without a k^4 tensor.
    """
    gradient = metric_gradient(metric, confusion)
    confusion = confusion.double()
    expected = (gradient * row_normalised(confusion)).sum(1, keepdim=True)
    return confusion * (gradient - expected)
