"""Heads to start the tuning from: the raw head of a long-tailed backbone is rarely the best one."""

import torch
from torch.nn import functional as F

from selmix.baselines.logit_adjustment import logit_adjusted
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction
from selmix.significance import paired_difference
from selmix.stage2.crossfit import CrossFit

DECAYS = (1e-4, 1e-5)  # L2 coefficients to choose from: few samples want the first, many the second


def starting_heads(
    given: LinearHead,
    train_counts: torch.Tensor,
    plan: CrossFit,
    val: LabeledFeatures,
    *,
    steps: int = RetrainSettings.steps,
    generator: torch.Generator,
) -> dict[str, list[LinearHead]]:
    """Return what tuning may start from, one head for each head of the plan.

    Args:
        given: trained on the train split alone.
        train_counts: [k] samples per class that trained it.
        plan: who learns from what.
        val: chooses the decay of the retrained heads, by their out-of-fold cross-entropy.
        steps: of the retraining.
        generator: its source of randomness.

    Returns:
        `balanced`, fresh heads retrained with class-balanced sampling on what each may learn from; `given` as it came;
        `logit_adjusted`, the same with the log prior of the training counts subtracted.
    """
    copies = len(plan.members)
    retrained = [
        retrain_heads(
            plan.features,
            plan.class_members,
            sampling_power=0,
            settings=RetrainSettings(steps=steps, weight_decay=decay),
            generator=generator,
        )
        for decay in DECAYS
    ]
    return {
        "balanced": min(retrained, key=lambda heads: _balanced_cross_entropy(plan.val_logits(heads, val), val.labels)),
        "given": [given] * copies,
        "logit_adjusted": [logit_adjusted(given, train_counts)] * copies,
    }


def best_start(
    starts: dict[str, list[LinearHead]],
    plan: CrossFit,
    val: LabeledFeatures,
    objective: MetricFunction,
    *,
    pseudo_count: float,
) -> str:
    """Return the start with the best objective on validation; `balanced`, unless luck would not explain the difference.

    Judged on validation alone: a head that came with the backbone has learnt the train split.
    """
    rows = plan.rows[plan.num_train :]
    predictions = {name: plan.val_logits(heads, val).argmax(1) for name, heads in starts.items()}
    best = "balanced"
    for name in starts:
        difference, standard_error = paired_difference(
            objective,
            rows,
            predictions[name],
            predictions[best],
            plan.num_classes,
            pseudo_count=pseudo_count,
            groups=plan.groups,
        )
        if difference > standard_error:
            best = name
    return best


def _balanced_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    counts = torch.bincount(labels)
    return float((losses / counts[labels]).sum() / (counts > 0).sum())
