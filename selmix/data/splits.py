"""Setting validation samples aside, and thinning them."""

from collections.abc import Sequence

import numpy as np

from selmix.errors import DataError


def stratified_holdout(
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    fraction: float,
    generator: np.random.Generator,
    lone_stay: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two, class by class: the held-out part gets round(fraction * n_k), at least 1 and never all.

    Args:
        labels: int64 [n].
        class_names: the class table, for messages.
        fraction: share to hold out, in (0, 1).
        generator: source of the choice.
        lone_stay: let the only sample of a class stay, instead of refusing it.

    Returns:
        Positions that stay and positions held out, each in ascending order.

    Raises:
        DataError: if a class has fewer than two samples; with `lone_stay`, if every class has.
    """
    held_out = [np.empty(0, dtype=np.int64)]
    for label, name in enumerate(class_names):
        positions = np.flatnonzero(labels == label)
        if len(positions) < 2 and lone_stay:
            continue
        if len(positions) < 2:
            raise DataError(
                f"class {name} has {len(positions)} training sample(s) and there is no validation split: "
                "one to train and one to validate are needed; add samples or bring a validation split"
            )
        count = min(max(1, round(fraction * len(positions))), len(positions) - 1)
        held_out.append(generator.choice(positions, count, replace=False))
    chosen = np.sort(np.concatenate(held_out))
    if not len(chosen):
        raise DataError("no class has two samples, one to train and one to validate; add samples")
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def draw_per_class(labels: np.ndarray, count: int, *, generator: np.random.Generator) -> np.ndarray:
    """Draw `count` samples of every class without replacement, all of a class that has no more.

    Args:
        labels: int64 [n].
        count: samples a class.
        generator: source of the choice.

    Returns:
        Positions in ascending order.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [generator.choice(positions, min(count, len(positions)), replace=False) for positions in members]
    return np.sort(np.concatenate(drawn))
