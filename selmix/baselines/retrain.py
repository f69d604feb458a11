"""Retraining a linear head on frozen features, with any balance between classes.

`sampling_power` 1 draws samples as they come (the linear probe), 0 draws every class equally often (cRT).
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from selmix.descent import cross_entropy_step_
from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers


@dataclass(frozen=True)
class RetrainSettings:
    """Settings of head retraining; rates and decay are those of centred features of unit mean square.

    Attributes:
        steps: SGD steps.
        batch_size: samples a step.
        learning_rate: at the start of the cosine to 0.
        weight_decay: L2 coefficient.
    """

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1.0
    weight_decay: float = 5e-4


def retrain_heads(
    pool: LabeledFeatures,
    members: list[ClassMembers],
    *,
    sampling_power: float,
    settings: RetrainSettings,
    generator: torch.Generator,
) -> list[LinearHead]:
    """Train fresh heads by SGD on cross-entropy, class k being drawn with probability proportional to n_k ** power.

    Args:
        pool: labeled features.
        members: for each head, the samples of the pool it learns from; every class must have one.
        sampling_power: q of the class law; 1 instance-balanced, 0.5 square-root, 0 class-balanced.
        settings: of the optimiser.
        generator: source of classes and members.

    Returns:
        One head for each entry of `members`; they see the same classes in the same order.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020 (cRT; the
    sampling law is its equation 1).
    """
    space = FeatureSpace.fit(pool.features)
    features = space.encode(pool.features)
    num_classes = len(members[0].counts)
    class_law = members[-1].counts.double() ** sampling_power

    shape = (settings.steps, settings.batch_size)
    classes = torch.multinomial(class_law, math.prod(shape), replacement=True, generator=generator).view(shape)
    batches = torch.stack([own.draw(classes, generator=generator) for own in members], dim=1)
    weights = features.new_zeros(len(members), num_classes, features.shape[1])
    for step in range(settings.steps):
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        targets = F.one_hot(classes[step], num_classes).to(features)
        cross_entropy_step_(weights, features[batches[step]], targets, rate=rate, decay=settings.weight_decay)
    return [space.decode_head(weight) for weight in weights]
