"""What the pseudo-labels of a pool are worth, as one plain document.

All but the part `audit` comes from labeled samples that were judged out of fold. `audit` is there where somebody knows
the classes of the pool all the same; nothing else depends on these.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from selmix.features.labeled import FeatureData
from selmix.pipeline import Tuning
from selmix.pseudo.prior import misfit, prior_interval
from selmix.seeding import numpy_generator
from selmix.stage2.pool_labels import PoolLabels
from selmix.stage2.pool_use import PoolUse

_REPLICATES = 200
_MOST_CLASSES = 2000  # a bootstrap of larger confusion matrices takes minutes


@dataclass(frozen=True)
class PoolAudit:
    """The audit of a pool; of several processes, of the samples of this one but for the document.

    Attributes:
        document: for `result.json`; of all processes, and whole on rank 0 alone.
        data: with the pool.
        labels: the pseudo-labels.
        source: where they come from.
        told: what each source by itself takes each sample for, int64 [u], -1 where it abstains.
    """

    document: dict[str, Any]
    data: FeatureData
    labels: PoolLabels
    source: str
    told: dict[str, torch.Tensor]


def audit_pool(tuning: Tuning, *, seed: int) -> PoolAudit | None:
    """Return the audit of the pool of a tuning, None without one; of several processes all must ask.

    Args:
        tuning: what stage two did.
        seed: of intervals.
    """
    pool = tuning.pool
    if pool is None:
        return None
    told = pool.labeler.told(pool.labels.weight)
    document = _document(tuning, pool, told, seed)
    return PoolAudit(document, tuning.data, pool.labels, pool.labeler.source, told)


def _document(tuning: Tuning, pool: PoolUse, told: dict[str, torch.Tensor], seed: int) -> dict[str, Any]:
    labels, ranks, num_classes = pool.labels, tuning.data.ranks, len(tuning.data.class_names)
    found, selected = labels.found.classes, labels.of_head[-1]

    def per_class(classes: torch.Tensor) -> torch.Tensor:
        return ranks.total(torch.bincount(classes[classes >= 0], minlength=num_classes).double())

    counts = {"found": per_class(found), "selected": per_class(selected)}
    document: dict[str, Any] = {
        "used": pool.helps,
        "proven": pool.proven,
        "source": pool.labeler.source,
        "difference": _finite(pool.difference),
        "standard_error": _finite(pool.standard_error),
        "room": pool.room,
        "relief": pool.relief,
        "count": tuning.unlabeled_count,
        **{name: int(own.sum()) for name, own in counts.items()},
    }
    estimate, lower = labels.precision.together(labels.trusted)
    columns = {
        "name": tuning.data.class_names,
        **{name: own.long().tolist() for name, own in counts.items()},
        "precision": _numbers(labels.precision.estimate),
        "precision_lower": _numbers(labels.precision.lower),
        "evidence": _numbers(labels.precision.evidence),
        "trusted": labels.trusted.tolist(),
        **_prior(pool, seed, leads=ranks.leads),
    }
    document |= {
        "precision": _finite(estimate),
        "precision_lower": lower,
        "classes": [dict(zip(columns, own, strict=True)) for own in zip(*columns.values(), strict=True)],
        "weights": dict(zip(told, labels.opinion.sharpness.tolist(), strict=True)),
        "agreement": _agreement(list(told.values()), per_class, tuning.unlabeled_count),
    }
    document |= _strangers(pool, seed, leads=ranks.leads)
    truth = None if tuning.data.unlabeled is None else tuning.data.unlabeled.audit
    if truth is None:
        return document | {"audit": None}
    true = per_class(truth)
    judged = {
        name: _judged(true, counts[name], per_class(torch.where(own == truth, own, -1)), tuning.unlabeled_count)
        for name, own in (("found", found), ("selected", selected))
    }
    audit = {
        "of_no_class": tuning.unlabeled_count - int(true.sum()),
        "count": true.long().tolist(),
        "prior": _numbers(true / true.sum()),
    }
    return document | {"audit": audit | judged}


def _prior(pool: PoolUse, seed: int, *, leads: bool) -> dict[str, list[Any]]:
    """Return the estimated prior of the pool and its interval, None for the head as it is, which knows of none."""
    labels, num_classes = pool.labels, len(pool.labels.prior)
    nothing = [None] * num_classes
    if pool.labeler.source == "head":
        return {"prior": nothing, "prior_interval": nothing}
    prior = {"prior": labels.prior.tolist(), "prior_interval": nothing}
    if leads and num_classes <= _MOST_CLASSES:
        interval = prior_interval(
            labels.confusion + 1 / num_classes,  # smoothed as the estimate is
            labels.predicted,
            replicates=_REPLICATES,
            generator=numpy_generator(seed, "prior"),
            pseudo_count=num_classes,
        )
        prior["prior_interval"] = interval.T.tolist()
    return prior


def _agreement(told: list[torch.Tensor], per_class: Any, count: int) -> dict[str, Any] | None:
    """Return the share of the pool of which two sources say the same, by what the first says, too."""
    if len(told) < 2:
        return None
    head, other = told
    same = per_class(torch.where(head == other, head, -1))
    return {"overall": int(same.sum()) / count, "by_class": _numbers(same / per_class(head))}


def _strangers(pool: PoolUse, seed: int, *, leads: bool) -> dict[str, Any]:
    """Return what speaks for samples that are of no known class."""
    labels = pool.labels
    found: dict[str, Any] = {"misfit": None, "share_of_no_class": pool.strangers}
    if leads and len(labels.prior) <= _MOST_CLASSES:
        generator = numpy_generator(seed, "misfit")
        own = misfit(labels.confusion, labels.predicted, replicates=_REPLICATES, generator=generator)
        found["misfit"] = own._asdict()
    return found


def _judged(true: torch.Tensor, counts: torch.Tensor, right: torch.Tensor, size: int) -> dict[str, Any]:
    """Return how good pseudo-labels are, given the classes of all; a sample of no class is never labeled rightly."""
    return {
        "accuracy": _finite(float(right.sum() / counts.sum())),
        "share": int(counts.sum()) / size,
        "precision": _numbers(right / counts),
        "recall": _numbers(right / true),
    }


def _numbers(values: torch.Tensor) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
