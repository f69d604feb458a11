"""Learning-rate schedules as pure functions of progress, counted in epochs."""

import bisect
import math
from collections.abc import Sequence

from selmix.stage1.settings import SupervisedSettings


def warmup(epoch: float, *, warmup_epochs: float) -> float:
    """Return the factor of a linear warm-up that reaches 1 after `warmup_epochs`.

    >>> [warmup(epoch, warmup_epochs=5) for epoch in (1, 4, 5, 50)]
    [0.2, 0.8, 1.0, 1.0]
    """
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0


def cosine(epoch: float, *, start: float, end: float) -> float:
    """Return the factor of half a cosine from 1 at `start` to 0 at `end`; 1 before, 0 after.

    >>> [round(cosine(epoch, start=2, end=10), 3) for epoch in (0, 2, 6, 10, 11)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * _progress(epoch, start, end)))


def shallow_cosine(epoch: float, *, start: float, end: float) -> float:
    """Return the factor of 7/32 of a cosine's period, from 1 at `start` to cos(7 pi / 16) at `end`.

    Source: Sohn et al., "FixMatch", NeurIPS 2020.

    >>> [round(shallow_cosine(epoch, start=0, end=16), 3) for epoch in (0, 8, 16)]
    [1.0, 0.773, 0.195]
    """
    return math.cos(7 * math.pi / 16 * _progress(epoch, start, end))


def _progress(epoch: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (epoch - start) / (end - start)))


def steps(epoch: float, *, at: Sequence[float], factors: Sequence[float]) -> float:
    """Return 1 before the first of the epochs `at`, and from each of them on its factor.

    >>> [steps(epoch, at=(160, 180), factors=(0.1, 0.01)) for epoch in (0, 159, 160, 180, 199)]
    [1.0, 1.0, 0.1, 0.01, 0.01]
    """
    passed = bisect.bisect_right(at, epoch)
    return factors[passed - 1] if passed else 1.0


def learning_rate(settings: SupervisedSettings, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, both counted from 0.

    Where the rate changes once a step, warm-up and cosine are taken at the end of the step, so that the first rate is
    not 0 (and the last of a cosine is); where it changes once an epoch, the warm-up is that at the epoch's end, and the
    cosine that at its begin, as the literature counts.
    """
    fraction = (step + 1) / steps_per_epoch
    by_epoch = settings.rate_changes == "epoch"
    factor = warmup(epoch + (1 if by_epoch else fraction), warmup_epochs=settings.warmup_epochs)
    if settings.schedule == "step":
        factor *= steps(epoch + step / steps_per_epoch, at=settings.step_epochs, factors=settings.step_factors)
    else:
        now = epoch + (0 if by_epoch else fraction)
        shape = cosine if settings.schedule == "cosine" else shallow_cosine
        factor *= shape(now, start=settings.warmup_epochs, end=settings.epochs)
    return settings.learning_rate * factor
