"""Whether a pool of unlabeled samples is worth learning from: heads that learn from its pseudo-labels are tried.

They are compared out of fold, on few labels: the standard error of the difference is often larger than what a pool can
bring. So who must prove what depends on what else is known of the pool: one that adds many samples where labels are few
(`relief`), without a sign of images of no class, must not look worse; any other must be seen to be better.
"""

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
from selmix.stage2.witnesses import share_of_no_class

logger = logging.getLogger("selmix")

WORTHWHILE = 0.005  # of the metric: less may be a single sample, whose standard error says little of a minimum
RELIEF = 0.8  # from which on the pool is taken unless it looks worse,
SHARP = 0.02  # if a loss would be seen: largest standard error of the difference, in the metric


@dataclass(frozen=True)
class PoolUse:
    """What becomes of a pool: it is labeled, heads are tuned with it and without it, and the better ones are kept.

    Attributes:
        labeler: of the pool.
        labels: its pseudo-labels, by the heads that learnt from labeled samples alone; in the end, if the pool helps,
            by those that were tuned with it.
        heads: retrained with class-balanced sampling on labeled and pseudo-labeled samples, to start from; None where
            pseudo-labeled samples are partners only, or where there are none.
        relief: what the pool adds where labels are few: see `relief`.
        strangers: lower bound of the pool's share that is of no known class; None if nobody could tell.
        usable: whether any class has pseudo-labels that can be trusted.
        room: how much any samples could bring to a metric on these features: see `room`; nan before that is named.
        difference: by how much the heads that are tuned with the pool are better on the evidence, out of fold, in the
            metric; nan before that is known.
        standard_error: of that.
        proven: whether they are better by a standard error and half a point.
        helps: whether the result is that with the pool.
    """

    labeler: PoolLabeler
    labels: PoolLabels
    heads: list[LinearHead] | None
    relief: float
    strangers: float | None
    usable: bool
    room: float = math.nan
    difference: float = math.nan
    standard_error: float = math.nan
    proven: bool = False
    helps: bool = False

    def judged(
        self,
        new: list[LinearHead],
        old: list[LinearHead],
        metric: Metric,
        settings: RefineSettings,
        constraints: Sequence[Constraint],
        *,
        knows_train: bool = False,
    ) -> "PoolUse":
        """Return the same with the decision between heads tuned with the pool and without it.

        The new ones must be better by a standard error and by half a point; where the pool brings much relief and no
        strangers, and a loss would show, they must not be worse by half a point. They must not violate the constraints
        more. Where the old ones know the train split (`knows_train`), validation judges alone.
        """
        evidence, plan = self.labeler.evidence, self.labeler.plan
        evidence = evidence.on_val() if knows_train else evidence
        weights = [plan.ranks.first(plan.pool.space.encode_heads(heads)) for heads in (new, old)]
        told, before = map(evidence.judge, weights)
        objective = metric.objective(evidence.support, settings.rounding)
        difference, error = evidence.difference(objective, told, before, pseudo_count=settings.pseudo_count)
        welcome = self.relief >= RELIEF and self.strangers == 0 and error <= SHARP
        proven = difference > max(MARGIN * error, WORTHWHILE)
        better = proven or (welcome and difference > -WORTHWHILE)
        if constraints:
            missed = [
                float((-joint_slack(constraints, evidence.confusion(own))).clamp_min(0).sum()) for own in (told, before)
            ]
            better = better and missed[0] <= missed[1]
        helps = bool(plan.ranks.first(torch.tensor(better)))
        logger.info(
            "heads tuned with the pool differ by %+.1f points of %s (standard error %.1f) out of fold: it is %s",
            100 * difference,
            metric.name,
            100 * error,
            "used" if helps else "left aside",
        )
        labels = self.labeler.label(weights[0]) if helps else self.labels
        return replace(self, labels=labels, difference=difference, standard_error=error, proven=proven, helps=helps)


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
    usable = bool(used.any())
    if usable:
        logger.info(
            "%s of the %s unlabeled samples have a pseudo-label to learn from: heads are tuned with these, too, and "
            "compared",
            f"{int(used.sum()):,}",
            f"{int(plan.ranks.total(torch.tensor(len(plan.unlabeled)))):,}",
        )
    lacking = [name for name, count in zip(class_names, used.tolist(), strict=True) if not count]
    if lacking:
        logger.info(
            "classes without pseudo-labels that can be trusted, which draw labeled samples alone: %s",
            ", ".join(lacking),
        )
    heads = None
    if usable and pseudo.draws == "both":
        heads = balanced_heads(
            plan,
            labeler.members(labels)[0],
            smoothing=settings.smoothing,
            steps=settings.start_steps,
            generator=torch_generator(seed, "pseudo-labeled"),
        )
    strangers = None
    if plan.ranks.count == 1 and len(plan.labels) - plan.num_train >= 2 and labeler.source != "head":
        strangers = share_of_no_class(plan, labels.prior)
    return PoolUse(labeler, labels, heads, relief(plan.class_counts, used), strangers, usable)


def relief(labeled: torch.Tensor, pseudo_labeled: torch.Tensor) -> float:
    """Return the share of the error of class means, averaged over classes, that pseudo-labeled samples take away.

    The squared error of the mean of n samples falls as 1 / n: with m more of each class it is the share
    sum_c (1 / n_c - 1 / (n_c + m_c)) / sum_c 1 / n_c. Classes of few labels rule it: half for as many pseudo-labels as
    labels in each of them, nearly 1 for a pool of balanced classes beside a long tail.

    Args:
        labeled: [k] samples, > 0.
        pseudo_labeled: [k] samples.

    >>> round(relief(torch.tensor([1000, 10]), torch.tensor([0, 30])), 3)  # (1/10 - 1/40) / (1/1000 + 1/10)
    0.743
    """
    before = 1 / labeled.double()
    return float((before - 1 / (labeled + pseudo_labeled).double()).sum() / before.sum())


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
