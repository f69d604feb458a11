"""Heads to start the tuning from: the raw head of a long-tailed backbone is rarely the best one."""

import torch

from selmix.baselines.logit_adjustment import logit_adjusted
from selmix.baselines.retrain import RetrainSettings, retrain_head
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead


def starting_heads(given: LinearHead, train: LabeledFeatures, *, generator: torch.Generator) -> dict[str, LinearHead]:
    """Return the heads that tuning may start from.

    Returns:
        `given` as it came; `logit_adjusted`, the same with the log prior of the training counts subtracted; `balanced`,
        a fresh head retrained with class-balanced sampling.
    """
    num_classes = given.num_classes
    class_counts = torch.bincount(train.labels, minlength=num_classes)
    return {
        "given": given,
        "logit_adjusted": logit_adjusted(given, class_counts),
        "balanced": retrain_head(train, num_classes, sampling_power=0, settings=RetrainSettings(), generator=generator),
    }
