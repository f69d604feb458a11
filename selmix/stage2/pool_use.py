"""Whether a pool of unlabeled samples is worth learning from: its pseudo-labels must make better heads."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.predictions import predict
from selmix.pseudo.settings import PseudoSettings
from selmix.seeding import torch_generator
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence
from selmix.stage2.pool_labels import PoolLabeler, PoolLabels
from selmix.stage2.refine import MARGIN
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import balanced_heads

logger = logging.getLogger("selmix")


@dataclass(frozen=True)
class PoolUse:
    """What became of a pool.

    Attributes:
        labeler: of the pool.
        labels: its pseudo-labels, by the heads that learnt from labeled samples alone.
        heads: retrained with class-balanced sampling on labeled and pseudo-labeled samples; None where these are
            partners only.
        difference: by how much `heads` are better on the evidence, out of fold, in the metric; nan without them.
        standard_error: of that.
        helps: whether the tuning draws from the pool.
        room: how much any samples could bring on these features: see `room`.
    """

    labeler: PoolLabeler
    labels: PoolLabels
    heads: list[LinearHead] | None
    difference: float
    standard_error: float
    helps: bool
    room: float


def try_pool(
    plan: CrossFit,
    labeled: list[LinearHead],
    metric: Metric,
    settings: RefineSettings,
    pseudo: PseudoSettings,
    *,
    class_names: Sequence[str],
    seed: int,
) -> PoolUse:
    """Label the pool with heads that learnt from labeled samples, let others learn from both, and compare.

    Where pseudo-labeled samples are partners only, there is nothing to compare yet: the loop itself keeps its start if
    it does not get better.

    Args:
        plan: with a pool that is not empty.
        labeled: heads retrained with class-balanced sampling on labeled samples.
        metric: what they are compared by.
        settings: of the loop.
        pseudo: of pseudo-labels.
        class_names: for the log.
        seed: of evidence and retraining.
    """
    space, ranks = plan.pool.space, plan.ranks
    weights = ranks.first(torch.stack([space.encode_head(head) for head in labeled]))
    evidence = Evidence.gather(plan, space, weights, generator=torch_generator(seed, "pool"))
    labeler = PoolLabeler(plan, evidence, pseudo)
    labels = labeler.label(weights)
    used = ranks.total(torch.bincount(labels.of_head[-1] + 1, minlength=plan.num_classes + 1))[1:]
    lacking = [name for name, count in zip(class_names, used.tolist(), strict=True) if not count]
    if lacking:
        logger.info(
            "classes without pseudo-labels that can be trusted, which draw labeled samples alone: %s",
            ", ".join(lacking),
        )
    left = room(plan, labeled, metric)
    if pseudo.draws == "partner" or not used.any():
        return PoolUse(labeler, labels, None, math.nan, math.nan, bool(used.any()), left)
    heads = balanced_heads(
        plan,
        labeler.members(labels)[0],
        smoothing=settings.smoothing,
        steps=settings.start_steps,
        generator=torch_generator(seed, "pseudo-labeled"),
    )
    objective = metric.objective(evidence.support, settings.rounding)
    new = evidence.judge(ranks.first(torch.stack([space.encode_head(head) for head in heads])))
    difference, error = evidence.difference(objective, new, evidence.judge(weights), pseudo_count=settings.pseudo_count)
    helps = bool(ranks.first(torch.tensor(difference > MARGIN * error)))
    logger.info(
        "heads that learn from pseudo-labels, too, differ by %+.1f points (standard error %.1f) out of fold: the pool "
        "is %s",
        100 * difference,
        100 * error,
        "used" if helps else "left aside",
    )
    return PoolUse(labeler, labels, heads, difference, error, helps, left)


def room(plan: CrossFit, heads: list[LinearHead], metric: Metric) -> float:
    """Return how much better the metric is where validation samples are judged by the head that has learnt them.

    More samples of any kind bring what a head gets right out of fold closer to what it gets right where it has learnt,
    and that down to it: so this is, roughly, the most that samples could bring on the same features. 0 for a metric
    without a value.
    """
    rows = plan.ranks.gathered(plan.rows[plan.num_train :])
    val = torch.arange(plan.num_train, len(plan.labels))
    learnt = predict(heads[-1], plan.features, positions=val).gathered(plan.ranks).classes
    after, before = (
        float(metric(joint_confusion(confusion_counts(rows, classes, plan.num_classes, groups=plan.groups))))
        for classes in (learnt, plan.val_predictions(heads).classes)
    )
    return max(0.0, after - before) if math.isfinite(after - before) else 0.0
