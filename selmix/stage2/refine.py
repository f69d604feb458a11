"""The SelMix loop: move a linear head along the class-pair mixups that raise the metric."""

import logging
import math
from dataclasses import dataclass, field

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.descent import cross_entropy_step_
from selmix.errors import check_settings
from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.gains import gain_matrix
from selmix.heads import LinearHead
from selmix.metrics import Metric, logit_gradient
from selmix.pairs import ClassMembers, pair_distribution
from selmix.stage2.batches import PairBatches

logger = logging.getLogger("selmix")

STARTS = ("best", "given", "logit_adjusted", "balanced")


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the SelMix loop; rates and decay are those of centred features of unit mean square.

    Attributes:
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
        sharpness: of the smooth minimum in metrics that have a minimum.
        pseudo_count: samples per class that smooth the confusion matrix of the gains.
        averaging: decay per step of the exponential average of the iterates; 0 keeps the last iterate.
    """

    start: str = "best"
    steps: int = 5000
    refresh: int = 50
    batch_size: int = 64
    learning_rate: float = 0.2
    weight_decay: float = 0.0
    inverse_temperature: float = 10.0
    exploration: float = 0.0
    mix_low: float = 0.6
    sharpness: float = 20.0
    pseudo_count: float = 1.0
    averaging: float = 0.99

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
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
                "averaging": ("in [0, 1)", 0 <= self.averaging < 1),
            },
        )


@dataclass
class Refined:
    """What the loop returns.

    Attributes:
        head: the head with the best metric on validation, the starting one included.
        best_step: the step it was seen at; 0 is the start.
        steps: steps taken.
        history: one record per refresh: step, metric (of the averaged head on validation), largest_gain.
    """

    head: LinearHead
    best_step: int
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)


def score(counts: torch.Tensor, metric: Metric, settings: RefineSettings) -> tuple[float, float]:
    """Return what heads are ranked by: the metric, and among equals (many, on a small split) its smooth form."""
    smoothed = joint_confusion(counts, pseudo_count=settings.pseudo_count)
    return float(metric(joint_confusion(counts))), float(metric.objective(settings.sharpness)(smoothed))


def refine(
    head: LinearHead,
    train: LabeledFeatures,
    val: LabeledFeatures,
    metric: Metric,
    settings: RefineSettings,
    *,
    generator: torch.Generator,
) -> Refined:
    """Tune a head for `metric` by selective feature mixup; the backbone never enters, only its features.

    Args:
        head: where to start.
        train: features to mix; every class must have a sample.
        val: features that give class means, confusion matrix and the choice of the best head.
        metric: what to raise.
        settings: see `RefineSettings`.
        generator: source of pairs, members and coefficients, on the device of the features.

    Source: SelMix, ICLR 2024, algorithm 1, on cached features.
    """
    space = FeatureSpace.fit(train.features)
    num_classes = head.num_classes
    val_features = space.encode(val.features)
    means = class_means(val_features, val.labels, num_classes)
    objective = metric.objective(settings.sharpness)
    batches = PairBatches(
        features=space.encode(train.features),
        members=ClassMembers.from_labels(train.labels, num_classes),
        batch_size=settings.batch_size,
        mix_low=settings.mix_low,
        generator=generator,
    )

    def val_counts(weight: torch.Tensor) -> torch.Tensor:
        return confusion_counts(val.labels, (val_features @ weight.T).argmax(1), num_classes)

    weight = space.encode_head(head)
    averaged = weight.clone()
    best_weight, best_step, step = weight.clone(), 0, 0
    best_score = score(val_counts(weight), metric, settings)
    history = [{"step": 0, "metric": best_score[0]}]
    while step < settings.steps:
        # which pairs raise the metric from here?
        confusion = joint_confusion(val_counts(weight), pseudo_count=settings.pseudo_count)
        gains = gain_matrix(means, weight, None, logit_gradient(objective, confusion), mix=(1 + settings.mix_low) / 2)
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
            cross_entropy_step_(weight, features, targets, rate=rate, decay=settings.weight_decay)
            averaged.lerp_(weight, 1 - settings.averaging)
        step += round_steps

        # keep the best head seen
        val_score = score(val_counts(averaged), metric, settings)
        history.append({"step": step, "metric": val_score[0], "largest_gain": float(gains.max())})
        if val_score > best_score:
            best_score, best_weight, best_step = val_score, averaged.clone(), step
    return Refined(space.decode_head(best_weight), best_step, step, history)
