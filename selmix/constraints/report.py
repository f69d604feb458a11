"""Are the constraints met, and how sure is that?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from selmix.bootstrap import percentile_interval
from selmix.confusion import joint_confusion
from selmix.constraints.constraint import TOLERANCE, Constraint


@dataclass(frozen=True)
class Feasibility:
    """What became of a constraint.

    Attributes:
        constraint: its text.
        bound: as a number.
        worst_item: the item with the least slack.
        value: of that item.
        interval: 95 % bootstrap interval of that item's value.
        met: whether every item keeps the bound.
    """

    constraint: str
    bound: float
    worst_item: str
    value: float
    interval: list[float]
    met: bool


def feasibility(
    constraints: Sequence[Constraint], counts: torch.Tensor, resampled: Iterable[torch.Tensor]
) -> list[Feasibility]:
    """Report on every constraint at its worst item.

    The interval is of the item that is worst in the data, whatever is worst in a bootstrap sample: the minimum of many
    resampled items would be biased.

    Args:
        constraints: bound to the data.
        counts: confusion counts, [rows, k]; a class must have a sample.
        resampled: confusion counts of bootstrap samples, one head's of `resampled_counts`.
    """
    confusion = joint_confusion(counts)
    slacks = [constraint.slack(confusion) for constraint in constraints]
    # a class without samples has slack 0, and no value to report
    values = [constraint.values(confusion) for constraint in constraints]
    worst = [
        int(slack.masked_fill(value.isnan(), torch.inf).argmin()) for slack, value in zip(slacks, values, strict=True)
    ]
    drawn: list[list[float]] = [[] for _ in constraints]
    for sample in resampled:
        again = joint_confusion(sample)
        for constraint, item, own in zip(constraints, worst, drawn, strict=True):
            own.append(float(constraint.values(again)[item]))
    return [
        Feasibility(
            constraint.text,
            constraint.bound,
            constraint.items[item],
            float(value[item]),
            percentile_interval(np.array(own)),
            bool((slack >= -TOLERANCE).all()),
        )
        for constraint, item, value, own, slack in zip(constraints, worst, values, drawn, slacks, strict=True)
    ]
