"""Does a function do what a metric must? Tried out on confusion matrices before it steers anything."""

import torch

from selmix.confusion import row_normalised
from selmix.errors import UsageError
from selmix.metrics.metric import MetricFunction

_POINTS, _DIRECTIONS = 3, 3
_STEP = 1e-5
_TOLERANCE = 1e-3  # of the largest slope seen
_ROUNDING = 1e-9  # of the largest value seen: a slope below it is no more than the rounding of central differences


def check_finite(metric: MetricFunction, name: str, num_classes: int, num_groups: int = 1) -> None:
    """Refuse a metric without a finite real value where things are as bad, as good, or as mixed as they get.

    Raises:
        UsageError: saying where.
    """
    rows = num_classes * num_groups
    truth = torch.eye(num_classes, dtype=torch.float64).repeat_interleave(num_groups, 0)
    points = {
        "a random confusion matrix": _random_confusion(rows, num_classes, seed=0),
        "perfect predictions": truth / rows,
        "predictions that are all the first class": truth[:1].expand(rows, num_classes) / rows,
        "predictions that are all wrong": truth.roll(1, dims=1) / rows,
    }
    for where, confusion in points.items():
        value = metric(confusion.clone())
        _check_scalar(value, name)
        if not torch.isfinite(value):
            raise UsageError(f"{name} is {float(value)} for {where}; a metric must be finite everywhere")


def check_differentiable(metric: MetricFunction, name: str, num_classes: int) -> None:
    """Refuse a function that changes its input, is random, or whose gradient is not its own.

    The gradient by autograd is compared with central differences along random directions that keep the class prior, at
    random confusion matrices without zeros.

    Raises:
        UsageError: saying what is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    slopes, scale = [], 0.0
    for seed in range(_POINTS):
        confusion = _random_confusion(num_classes, num_classes, seed=seed)
        before = confusion.clone()
        value = metric(confusion)
        if not torch.equal(confusion, before):
            raise UsageError(f"{name} changes the confusion matrix that it is given; let it work on a copy")
        if not torch.equal(value, metric(confusion)):
            raise UsageError(f"{name} gives different values for the same confusion matrix; it must not be random")
        scale = max(scale, abs(float(value)))
        gradient = _gradient(metric, name, confusion)
        for _ in range(_DIRECTIONS):
            change = torch.randn(confusion.shape, generator=generator, dtype=torch.float64)
            change = confusion * (change - (row_normalised(confusion) * change).sum(1, keepdim=True))
            high, low = metric(confusion + _STEP * change), metric(confusion - _STEP * change)
            slopes.append((float((gradient * change).sum()), float(high.double() - low.double()) / (2 * _STEP)))
    largest = max(abs(slope) for pair in slopes for slope in pair)
    if largest <= _ROUNDING * scale:
        raise UsageError(f"{name} does not move with the confusion matrix, so nothing can raise it")
    worst = max(slopes, key=lambda pair: abs(pair[0] - pair[1]))
    if not abs(worst[0] - worst[1]) <= _TOLERANCE * largest:
        raise UsageError(
            f"{name} has the slope {worst[1]:.4g} along a direction in which autograd says {worst[0]:.4g}: is a part "
            "of it detached, rounded, or in lower precision than its input?"
        )


def _check_scalar(value: object, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"{name} must return a 0-d tensor made from the confusion matrix by torch operations, got a "
            f"{type(value).__name__}"
        )
    if value.ndim != 0 or not value.is_floating_point():
        raise UsageError(f"{name} must return a 0-d tensor of a real number, got {value.dtype} {list(value.shape)}")


def _gradient(metric: MetricFunction, name: str, confusion: torch.Tensor) -> torch.Tensor:
    point = confusion.clone().requires_grad_()
    value = metric(point)
    if not value.requires_grad:
        raise UsageError(
            f"{name} loses the gradient on the way (detach, item, NumPy, a comparison); use torch throughout"
        )
    try:
        (gradient,) = torch.autograd.grad(value, point, materialize_grads=True)
    except RuntimeError as error:
        raise UsageError(f"{name} has no gradient: {error}") from error
    if not torch.isfinite(gradient).all():
        raise UsageError(f"{name} has a gradient that is not finite at a random confusion matrix")
    return gradient


def _random_confusion(rows: int, num_classes: int, *, seed: int) -> torch.Tensor:
    """Return an unbalanced joint confusion matrix without zeros, right about half the time."""
    generator = torch.Generator().manual_seed(seed)
    prior = (rows + 1.0) ** -torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    wrong = torch.rand(rows, num_classes, generator=generator, dtype=torch.float64) + 0.1
    right = torch.eye(num_classes, dtype=torch.float64).repeat_interleave(rows // num_classes, 0)
    odds = (
        wrong / wrong.sum(1, keepdim=True) + torch.rand(rows, 1, generator=generator, dtype=torch.float64) * 2 * right
    )
    return prior / prior.sum() * odds / odds.sum(1, keepdim=True)
