"""Whether a pool of unlabeled samples is worth learning from: its pseudo-labels must make better heads."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.constraints import Constraint, joint_slack
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

WORTHWHILE = 0.005  # of the metric: less may be a single sample, whose standard error says little of a minimum


@dataclass(frozen=True)
class PoolUse:
    """What becomes of a pool: it is labeled, heads are tuned with it and without it, and the better ones are kept.

    Attributes:
        labeler: of the pool.
        labels: its pseudo-labels, by the heads that learnt from labeled samples alone; in the end, if the pool helps,
            by those that were tuned with it.
        heads: retrained with class-balanced sampling on labeled and pseudo-labeled samples, to start from; None where
            pseudo-labeled samples are partners only, or where there are none.
        usable: whether any class has pseudo-labels that can be trusted.
        room: how much any samples could bring to a metric on these features: see `room`; nan before that is named.
        difference: by how much the heads that are tuned with the pool are better on the evidence, out of fold, in the
            metric; nan before that is known.
        standard_error: of that.
        helps: whether the result is that with the pool.
    """

    labeler: PoolLabeler
    labels: PoolLabels
    heads: list[LinearHead] | None
    usable: bool
    room: float = math.nan
    difference: float = math.nan
    standard_error: float = math.nan
    helps: bool = False

    def judged(
        self,
        new: list[LinearHead],
        old: list[LinearHead],
        metric: Metric,
        settings: RefineSettings,
        constraints: Sequence[Constraint],
    ) -> "PoolUse":
        """Return the same with the decision between heads tuned with the pool and without it.

        The new ones must be better by a standard error and by half a point, and must not violate the constraints more.
        """
        evidence, plan = self.labeler.evidence, self.labeler.plan
        weights = [plan.ranks.first(plan.pool.space.encode_heads(heads)) for heads in (new, old)]
        told, before = map(evidence.judge, weights)
        objective = metric.objective(evidence.support, settings.rounding)
        difference, error = evidence.difference(objective, told, before, pseudo_count=settings.pseudo_count)
        better = difference > max(MARGIN * error, WORTHWHILE)
        if constraints:
            missed = [
                float((-joint_slack(constraints, evidence.confusion(own))).clamp_min(0).sum()) for own in (told, before)
            ]
            better = better and missed[0] <= missed[1]
        helps = bool(plan.ranks.first(torch.tensor(better)))
        logger.info(
            "heads tuned with the pool differ by %+.1f points (standard error %.1f) out of fold: it is %s",
            100 * difference,
            100 * error,
            "used" if helps else "left aside",
        )
        labels = self.labeler.label(weights[0]) if helps else self.labels
        return replace(self, labels=labels, difference=difference, standard_error=error, helps=helps)


def label_pool(
    plan: CrossFit,
    labeled: list[LinearHead],
    settings: RefineSettings,
    pseudo: PseudoSettings,
    *,
    class_names: Sequence[str],
    seed: int,
) -> PoolUse:
    """Label the pool with heads that learnt from labeled samples, and let others learn from both.

    Args:
        plan: with a pool that is not empty.
        labeled: heads retrained with class-balanced sampling on labeled samples.
        settings: of the loop.
        pseudo: of pseudo-labels.
        class_names: for the log.
        seed: of evidence and retraining.
    """
    weights = plan.ranks.first(plan.pool.space.encode_heads(labeled))
    evidence = Evidence.gather(plan, plan.pool.space, weights, generator=torch_generator(seed, "pool"))
    labeler = PoolLabeler(plan, evidence, pseudo)
    labels = labeler.label(weights)
    used = plan.ranks.total(torch.bincount(labels.of_head[-1] + 1, minlength=plan.num_classes + 1))[1:]
    lacking = [name for name, count in zip(class_names, used.tolist(), strict=True) if not count]
    if lacking:
        logger.info(
            "classes without pseudo-labels that can be trusted, which draw labeled samples alone: %s",
            ", ".join(lacking),
        )
    heads, usable = None, bool(used.any())
    if usable and pseudo.draws == "both":
        heads = balanced_heads(
            plan,
            labeler.members(labels)[0],
            smoothing=settings.smoothing,
            steps=settings.start_steps,
            generator=torch_generator(seed, "pseudo-labeled"),
        )
    return PoolUse(labeler, labels, heads, usable)


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
