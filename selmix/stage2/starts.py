"""Heads to start the tuning from: the raw head of a long-tailed backbone is rarely the best one."""

import torch

from selmix.baselines.logit_adjustment import logit_adjusted
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.heads import LinearHead
from selmix.stage2.crossfit import CrossFit


def starting_heads(
    given: LinearHead, train_counts: torch.Tensor, plan: CrossFit, *, generator: torch.Generator
) -> dict[str, list[LinearHead]]:
    """Return what tuning may start from, one head for each head of the plan.

    Args:
        given: trained on the train split alone.
        train_counts: [k] samples per class that trained it.
        plan: who learns from what.
        generator: source of the retraining.

    Returns:
        `given` as it came; `logit_adjusted`, the same with the log prior of the training counts subtracted; `balanced`,
        fresh heads retrained with class-balanced sampling on what each may learn from.
    """
    balanced = retrain_heads(plan.pool, plan.members, sampling_power=0, settings=RetrainSettings(), generator=generator)
    copies = len(plan.members)
    return {
        "given": [given] * copies,
        "logit_adjusted": [logit_adjusted(given, train_counts)] * copies,
        "balanced": balanced,
    }
