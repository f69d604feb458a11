"""The SelMix loop: move a linear head along the class-pair mixups that raise the metric."""

import logging
import math
from dataclasses import dataclass, field
from functools import partial

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.descent import cross_entropy_step_
from selmix.errors import check_settings
from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.gains import gain_matrix
from selmix.heads import LinearHead
from selmix.metrics import Metric, MetricFunction, logit_gradient, soft_minimum
from selmix.pairs import pair_distribution
from selmix.significance import paired_difference
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit

logger = logging.getLogger("selmix")

STARTS = ("best", "given", "logit_adjusted", "balanced")


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the SelMix loop; rates and decay are those of centred features of unit mean square.

    Attributes:
        folds: parts into which the validation labels are dealt, so that they train the heads as well; 0 lets them only
            steer.
        start: head to begin with: given, logit_adjusted, balanced, or best, the one of them with the best metric on
            validation.
        steps: SGD steps.
        refresh: steps between two updates of confusion matrix, gains and pair law.
        batch_size: mixups a step.
        learning_rate: at the start of the cosine to 0.
        weight_decay: L2 coefficient.
        inverse_temperature: s of the pair law, on gains divided by the largest.
        exploration: share of the pair law that is spread evenly over all pairs.
        mix_low: the kept sample's coefficient is uniform on [mix_low, 1].
        sharpness: of the soft minimum in metrics that have a minimum, per standard error of what it compares.
        pseudo_count: samples per class that smooth the confusion matrix of the gains.
        caution: standard errors of the paired difference by which a later step must beat the best one so far.
        averaging: decay per step of the exponential average of the iterates; 0 keeps the last iterate.
    """

    folds: int = 5
    start: str = "best"
    steps: int = 5000
    refresh: int = 50
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    inverse_temperature: float = 10.0
    exploration: float = 0.0
    mix_low: float = 0.6
    sharpness: float = 2.0
    pseudo_count: float = 1.0
    caution: float = 1.0
    averaging: float = 0.99

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
                "folds": ("0 or >= 2", self.folds == 0 or self.folds >= 2),
                "start": (f"one of {', '.join(STARTS)}", self.start in STARTS),
                "steps": (">= 1", self.steps >= 1),
                "refresh": (">= 1", self.refresh >= 1),
                "batch_size": (">= 1", self.batch_size >= 1),
                "learning_rate": ("> 0", self.learning_rate > 0),
                "weight_decay": (">= 0", self.weight_decay >= 0),
                "inverse_temperature": (">= 0", self.inverse_temperature >= 0),
                "exploration": ("in [0, 1)", 0 <= self.exploration < 1),
                "mix_low": ("in [0, 1]", 0 <= self.mix_low <= 1),
                "sharpness": ("> 0", self.sharpness > 0),
                "pseudo_count": ("> 0", self.pseudo_count > 0),
                "caution": (">= 0", self.caution >= 0),
                "averaging": ("in [0, 1)", 0 <= self.averaging < 1),
            },
        )


@dataclass
class Refined:
    """What the loop returns.

    Attributes:
        heads: the heads at the best step; the last is the result.
        best_step: the last step that beat all before it on validation by more than luck explains; 0 is the start.
        steps: steps taken.
        history: one record per refresh: step, metric (of the averaged heads on validation), largest_gain.
    """

    heads: list[LinearHead]
    best_step: int
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)


def smooth_form(metric: Metric, support: torch.Tensor, settings: RefineSettings) -> MetricFunction:
    """Return what tuning ascends, given the validation samples of each class."""
    return metric.objective(support, partial(soft_minimum, sharpness=settings.sharpness))


def score(counts: torch.Tensor, metric: Metric, settings: RefineSettings) -> tuple[float, float]:
    """Return what starting heads are ranked by: the metric, and among equals its smooth form."""
    smoothed = joint_confusion(counts, pseudo_count=settings.pseudo_count)
    return float(metric(joint_confusion(counts))), float(smooth_form(metric, counts.sum(1), settings)(smoothed))


def refine(
    heads: list[LinearHead],
    plan: CrossFit,
    val: LabeledFeatures,
    metric: Metric,
    settings: RefineSettings,
    *,
    generator: torch.Generator,
) -> Refined:
    """Tune heads for `metric` by selective feature mixup; the backbone never enters, only its features.

    Args:
        heads: where to start, one for each head of the plan.
        plan: who learns from what and who judges what; every class must have a sample to learn from.
        val: features that give class means, confusion matrix and the choice of the best step.
        metric: what to raise.
        settings: see `RefineSettings`.
        generator: source of pairs, members and coefficients, on the device of the features.

    Source: SelMix, ICLR 2024, algorithm 1, on cached features; the cross-fitting is ours.
    """
    space = FeatureSpace.fit(plan.pool.features)
    num_classes = heads[0].num_classes
    val_features = space.encode(val.features)
    means = class_means(val_features, val.labels, num_classes)
    objective = smooth_form(metric, torch.bincount(val.labels, minlength=num_classes), settings)
    batches = PairBatches(
        features=space.encode(plan.pool.features),
        members=plan.members,
        batch_size=settings.batch_size,
        mix_low=settings.mix_low,
        generator=generator,
    )

    def judge(weights: torch.Tensor) -> torch.Tensor:
        predictions = torch.empty_like(val.labels)
        for weight, rows in zip(weights, plan.judged, strict=True):
            predictions[rows] = (val_features[rows] @ weight.T).argmax(1)
        return predictions

    def confusion_of(predictions: torch.Tensor, pseudo_count: float = 0.0) -> torch.Tensor:
        return joint_confusion(confusion_counts(val.labels, predictions, num_classes), pseudo_count=pseudo_count)

    weights = torch.stack([space.encode_head(head) for head in heads])
    averaged = weights.clone()
    best_weights, best_step, step = weights.clone(), 0, 0
    best_predictions = judge(weights)
    best_metric = float(metric(confusion_of(best_predictions)))
    history = [{"step": 0, "metric": best_metric}]
    while step < settings.steps:
        # which pairs raise the metric from here?
        gradient = logit_gradient(objective, confusion_of(judge(weights), settings.pseudo_count))
        gains = gain_matrix(means, weights[-1], None, gradient, mix=(1 + settings.mix_low) / 2)
        if not (gains > 0).any():
            logger.info("no pair raises the metric any more: stopped after %d steps", step)
            break
        law = pair_distribution(
            gains, inverse_temperature=settings.inverse_temperature, exploration=settings.exploration
        )

        # descend on their mixups
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        round_steps = min(settings.refresh, settings.steps - step)
        for features, targets in batches.draw(law, round_steps):
            cross_entropy_step_(weights, features, targets, rate=rate, decay=settings.weight_decay)
            averaged.lerp_(weights, 1 - settings.averaging)
        step += round_steps

        # keep the best heads seen, unless luck would explain that they are better
        predictions = judge(averaged)
        val_metric = float(metric(confusion_of(predictions)))
        history.append({"step": step, "metric": val_metric, "largest_gain": float(gains.max())})
        difference, standard_error = paired_difference(
            objective, val.labels, predictions, best_predictions, num_classes, pseudo_count=settings.pseudo_count
        )
        if val_metric >= best_metric and difference > settings.caution * standard_error:
            best_weights, best_step = averaged.clone(), step
            best_predictions, best_metric = predictions, val_metric
    return Refined([space.decode_head(weight) for weight in best_weights], best_step, step, history)
