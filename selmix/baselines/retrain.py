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


def retrain_head(
    train: LabeledFeatures,
    num_classes: int,
    *,
    sampling_power: float,
    settings: RetrainSettings,
    generator: torch.Generator,
) -> LinearHead:
    """Train a fresh head by SGD on cross-entropy, class k being drawn with probability proportional to n_k ** power.

    Args:
        train: labeled features; every class must have a sample.
        num_classes: k.
        sampling_power: q of the class law; 1 instance-balanced, 0.5 square-root, 0 class-balanced.
        settings: of the optimiser.
        generator: source of classes and members.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020 (cRT; the
    sampling law is its equation 1).
    """
    space = FeatureSpace.fit(train.features)
    features = space.encode(train.features)
    one_hot = F.one_hot(train.labels, num_classes).to(features)
    members = ClassMembers.from_labels(train.labels, num_classes)
    class_law = members.counts.double() ** sampling_power

    shape = (settings.steps, settings.batch_size)
    classes = torch.multinomial(class_law, math.prod(shape), replacement=True, generator=generator)
    batches = members.draw(classes, generator=generator).view(shape)
    weight = features.new_zeros(num_classes, features.shape[1])
    for step, batch in enumerate(batches):
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        cross_entropy_step_(weight, features[batch], one_hot[batch], rate=rate, decay=settings.weight_decay)
    return space.decode_head(weight)
