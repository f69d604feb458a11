"""Retraining a linear head on frozen features, with any balance between classes.

`sampling_power` 1 draws samples as they come (the linear probe), 0 draws every class equally often (cRT).
"""

import math
from dataclasses import dataclass

import torch

from selmix.descent import cross_entropy_step_
from selmix.features.pool import Pool
from selmix.heads import LinearHead
from selmix.losses.smoothing import label_aware_smoothing, smoothed_targets
from selmix.pairs import ClassMembers


@dataclass(frozen=True)
class RetrainSettings:
    """Settings of head retraining; rates and decay are those of centred features of unit mean square.

    Attributes:
        steps: SGD steps.
        batch_size: samples a step; None for `batch_size_for` the number of classes.
        learning_rate: at the start of the cosine to 0.
        weight_decay: L2 coefficient.
        averaging: decay per step of the exponential average of the iterates, which is the result.
        smoothing: label-aware smoothing of the largest class.
    """

    steps: int = 5000
    batch_size: int | None = None
    learning_rate: float = 10.0
    weight_decay: float = 1e-4
    averaging: float = 0.99
    smoothing: float = 0.0


def batch_size_for(num_classes: int) -> int:
    """Return two samples a class, at least 64 and at most 1024."""
    return min(max(64, 2 * num_classes), 1024)


def retrain_heads(
    pool: Pool,
    members: list[ClassMembers],
    *,
    sampling_power: float,
    settings: RetrainSettings,
    generator: torch.Generator,
) -> list[LinearHead]:
    """Train fresh heads by SGD on cross-entropy, class k being drawn with probability proportional to n_k ** power.

    Args:
        pool: what is drawn from, the views of a sample included.
        members: for each head, the samples of the pool it learns from, by class; every class must have one.
        sampling_power: q of the class law; 1 instance-balanced, 0.5 square-root, 0 class-balanced.
        settings: of the optimiser.
        generator: source of classes and members.

    Returns:
        One head for each entry of `members`; they see the same classes in the same order.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020 (cRT; the
    sampling law is its equation 1).
    """
    space = pool.space
    num_classes = len(members[0].counts)
    class_law = members[-1].counts.double() ** sampling_power

    shape = (settings.steps, settings.batch_size or batch_size_for(num_classes))
    classes = torch.multinomial(class_law, math.prod(shape), replacement=True, generator=generator).view(shape)
    drawn = torch.stack([own.draw(classes, generator=generator) for own in members], dim=1)
    drawn = pool.any_version(drawn, generator=generator)
    smoothing = label_aware_smoothing(members[-1].counts, head=settings.smoothing).to(pool.dtype)
    weights = torch.zeros(len(members), num_classes, pool.width + 1, dtype=pool.dtype)
    averaged = weights.clone()
    for step in range(settings.steps):
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        batch = pool.encoded(space, drawn[step])
        targets = smoothed_targets(classes[step], smoothing)
        cross_entropy_step_(weights, batch, targets, rate=rate, decay=settings.weight_decay, total=pool.total)
        averaged.lerp_(weights, 1 - settings.averaging)
    return [space.decode_head(weight) for weight in pool.ranks.first(averaged)]
