"""The SelMix loop: move a linear head along the class-pair mixups that raise the metric."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from selmix.constraints import (
    Constraint,
    ascend_multipliers,
    joint_slack,
    joint_smooth_slack,
    lagrangian,
    rank_key,
)
from selmix.descent import cross_entropy_step_
from selmix.errors import DivergedError
from selmix.gains import gain_matrix
from selmix.heads import LinearHead
from selmix.metrics import Metric, MetricFunction, logit_gradient
from selmix.pairs import pair_distribution
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence
from selmix.stage2.pool_labels import PoolLabeler
from selmix.stage2.settings import RefineSettings
from selmix.stage2.trace import Trace, Traced, predicted_change

logger = logging.getLogger("selmix")

ELECTION = 0.25  # the last part of the steps whose heads stand for election, beside the start
MARGIN = 1.0  # standard errors of the difference by which the elected heads must beat the start
_LARGEST_BOOST = 64.0  # of the multipliers' steps while nothing moves
TEMPERATURE = 0.3  # of the softened predictions whose confusion matrix gives the gains


@dataclass
class Refined:
    """What the loop returns.

    Attributes:
        heads: the heads at the best step; the last is the result.
        best_step: 0 is the start.
        steps: steps taken.
        confusion: joint confusion matrix [r, k] of the heads on the evidence that steered, out of fold.
        support: float64 [r], how many validation samples that evidence is worth.
        trace: the pairs that were drawn, their gains and the multipliers.
        history: one record per refresh: step, metric (of the averaged heads, on the evidence), largest_gain,
            predicted_change (`selmix.stage2.trace`), and with constraints the violation and the largest multiplier.
    """

    heads: list[LinearHead]
    best_step: int
    steps: int
    confusion: torch.Tensor
    support: torch.Tensor
    trace: Traced
    history: list[dict[str, float]] = field(default_factory=list)


def refine(
    heads: list[LinearHead],
    plan: CrossFit,
    metric: Metric,
    settings: RefineSettings,
    *,
    constraints: Sequence[Constraint] = (),
    knows_train: bool = False,
    labeler: PoolLabeler | None = None,
    generator: torch.Generator,
) -> Refined:
    """Tune heads for `metric` by selective feature mixup; the backbone never enters, only its features.

    Args:
        heads: where to start, one for each head of the plan.
        plan: who learns from what and who judges what.
        metric: what to raise.
        settings: see `RefineSettings`.
        constraints: what the head must keep, by dual ascent.
        knows_train: the heads to start from have learnt the train samples that they judge.
        labeler: of the unlabeled pool, from which pairs are then drawn as well.
        generator: source of pairs, members and coefficients, on the device of the features; the same for all processes.

    Source: SelMix, ICLR 2024, algorithm 1, on cached features; cross-fitting and the weighing of the evidence are ours.
    """
    space, ranks = plan.pool.space, plan.ranks
    weights = ranks.first(space.encode_heads(heads))
    evidence = Evidence.gather(plan, space, weights, knows_train=knows_train, generator=generator)
    means = evidence.row_means()
    smoothing = plan.smoothing(settings.smoothing)
    ascent = _Ascent(metric, constraints, evidence, settings)
    batches = PairBatches(
        pool=plan.pool,
        space=space,
        members=plan.members,
        batch_size=settings.batch_size_for(plan.num_classes),
        mix_low=settings.mix_low,
        generator=generator,
        smoothing=smoothing.to(weights),
        groups=plan.groups,
    )
    total = plan.pool.total
    drawable = torch.stack([own.counts for own in plan.members]).amin(0) > 0

    averaged, step, boost = weights.clone(), 0, 1.0
    labeled_at = -math.inf
    trace = Trace(plan.train_counts, plan.groups, -(-settings.steps // settings.refresh), ascent.items)
    predictions = evidence.judge(weights)
    ascent.begin(predictions)
    trace.constrain(0, ascent.multipliers)
    best, best_step, best_rank = averaged.clone(), 0, ascent.start_rank
    history = [{"step": 0} | ascent.record(predictions)]
    while step < settings.steps:
        # which pairs raise the metric from here?
        confusion = evidence.soft_confusion(averaged, temperature=TEMPERATURE, pseudo_count=settings.pseudo_count)
        gradient = logit_gradient(ascent.objective(), confusion)
        gains = pair_gains(means, averaged[-1], gradient, smoothing, settings)
        gains[~drawable] = gains[:, ~drawable] = 0
        largest = float(gains.max())
        if not math.isfinite(largest):
            raise DivergedError(
                f"the head grew beyond all bounds within {step} steps: lower learning_rate, which is "
                f"{settings.learning_rate:g}"
            )
        round_steps = min(settings.refresh, settings.steps - step)
        progress = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        if largest <= 0 and ascent.violated(predictions):
            # stationary for these multipliers: let them grow, faster and faster
            ascent.update(predictions, scale=boost * progress)
            boost, step = min(2 * boost, _LARGEST_BOOST), step + round_steps
            trace.constrain(step, ascent.multipliers)
            continue
        if largest <= 0:
            logger.debug("no pair raises the metric any more: stopped after %d steps", step)
            # these are the last heads now
            rank = ascent.rank(predictions)
            if rank > best_rank and ascent.beats(rank, predictions):
                best, best_step = averaged, step
            break
        law = pair_distribution(
            gains,
            inverse_temperature=settings.inverse_temperature,
            exploration=settings.exploration,
            allowed=(drawable, drawable),
        )

        # which unlabeled samples pass for which class?
        if labeler is not None and step >= labeled_at + labeler.settings.refresh:
            members, partners = labeler.members(labeler.label(averaged))
            batches, labeled_at = replace(batches, members=members, partners=partners), step

        # descend on mixups of these pairs
        boost = 1.0
        rate = settings.learning_rate * progress
        for features, targets in batches.draw(law, round_steps):
            cross_entropy_step_(weights, features, targets, rate=rate, decay=settings.weight_decay, total=total)
            averaged.lerp_(weights, 1 - settings.averaging)
        trace.add(law, gains, round_steps)
        promised = predicted_change(law, gains, rate=rate, steps=round_steps)
        step += round_steps
        weights, averaged = ranks.first(weights), ranks.first(averaged)  # last bits may differ between processors

        # what became of it, out of fold? Only the last heads stand for election (early ones wander with the large rate,
        # and the best of many would be the luckiest), and only those that beat the start by more than luck explains
        predictions = evidence.judge(averaged)
        ascent.update(predictions, scale=progress)  # as the heads slow down, so must the multipliers
        trace.constrain(step, ascent.multipliers)
        found = {"step": step, "largest_gain": largest, "predicted_change": promised}
        history.append(found | ascent.record(predictions))
        logger.debug("step %d of %d: %s %.4f out of fold", step, settings.steps, metric.name, history[-1]["metric"])
        if step >= settings.steps * (1 - ELECTION):
            rank = ascent.rank(predictions)
            if rank > best_rank and ascent.beats(rank, predictions):
                best, best_step, best_rank = averaged.clone(), step, rank
    best = ranks.first(best)
    return Refined(
        heads=[space.decode_head(weight) for weight in best],
        best_step=best_step,
        steps=step,
        confusion=evidence.confusion(evidence.judge(best)),
        support=evidence.support,
        trace=trace.traced(),
        history=history,
    )


def pair_gains(
    means: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, smoothing: torch.Tensor, settings: RefineSettings
) -> torch.Tensor:
    """Return the gains [r, r] of steps as the loop takes them: with its mean coefficient and its smoothed targets.

    Args:
        means: [r, d + 1] encoded mean feature of each row.
        weight: [k, d + 1] of the head.
        gradient: [r, k] of the metric in logit space.
        smoothing: [k] of the classes.
        settings: of the loop.
    """
    by_row = smoothing.repeat_interleave(len(means) // len(smoothing))
    return gain_matrix(means, weight, None, gradient, mix=(1 + settings.mix_low) / 2, smoothing=by_row)


class _Ascent:
    """What the loop climbs: the rounded metric, and the rounded slack of every constraint times its multiplier."""

    def __init__(
        self, metric: Metric, constraints: Sequence[Constraint], evidence: Evidence, settings: RefineSettings
    ) -> None:
        rounding = settings.rounding
        self.metric, self.constraints, self.evidence, self.settings = metric, constraints, evidence, settings
        self.rounded = metric.objective(evidence.support, rounding)
        self.rounded_slack = joint_smooth_slack(constraints, evidence.support, rounding)
        self.items = [item for constraint in constraints for item in constraint.items]
        self.multipliers = torch.zeros(len(self.items), dtype=torch.float64)

    def objective(self) -> MetricFunction:
        """Return psi, or the Lagrangian where there are constraints."""
        return lagrangian(self.rounded, self.rounded_slack, self.multipliers) if self.constraints else self.rounded

    def update(self, predictions: torch.Tensor, *, scale: float) -> None:
        """Take a step of dual ascent, `scale` times the rate of the settings."""
        if self.constraints:
            slack = self.rounded_slack(self.evidence.confusion(predictions))
            self.multipliers = ascend_multipliers(self.multipliers, slack, rate=scale * self.settings.multiplier_rate)

    def slack(self, predictions: torch.Tensor) -> torch.Tensor:
        """Return the slack of every constrained item, [m]."""
        confusion = self.evidence.confusion(predictions)
        return joint_slack(self.constraints, confusion) if self.constraints else confusion.new_zeros(0)

    def violated(self, predictions: torch.Tensor) -> bool:
        """Return whether a constraint is not met."""
        return not self.rank(predictions)[0]

    def rank(self, predictions: torch.Tensor) -> tuple[bool, float, float]:
        """Return what candidates are ranked by: the rounded metric has less noise than the metric."""
        smoothed = self.evidence.confusion(predictions, pseudo_count=self.settings.pseudo_count)
        return rank_key(float(self.rounded(smoothed)), self.slack(predictions))

    def begin(self, predictions: torch.Tensor) -> None:
        """Remember what the start predicts."""
        self.start, self.start_rank = predictions, self.rank(predictions)

    def beats(self, rank: tuple[bool, float, float], predictions: torch.Tensor) -> bool:
        """Return whether a candidate keeps the constraints better than the start, or is better by the margin."""
        if rank[:2] > self.start_rank[:2]:
            return True
        difference, standard_error = self.evidence.difference(
            self.rounded, predictions, self.start, pseudo_count=self.settings.pseudo_count
        )
        return difference > MARGIN * standard_error

    def record(self, predictions: torch.Tensor) -> dict[str, float]:
        """Return the figures of a refresh."""
        record = {"metric": float(self.metric(self.evidence.confusion(predictions)))}
        if self.constraints:
            record["violation"] = float((-self.slack(predictions)).clamp_min(0).sum())
            record["largest_multiplier"] = float(self.multipliers.max())
        return record
