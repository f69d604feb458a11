"""Learning-rate schedules as pure functions of progress."""

import math


def warmup_cosine(epoch: float, *, warmup_epochs: float, epochs: float) -> float:
    """Return the learning-rate multiplier at a (fractional) epoch: linear warm-up to 1, then half a cosine to 0.

    >>> [round(warmup_cosine(epoch, warmup_epochs=2, epochs=10), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
