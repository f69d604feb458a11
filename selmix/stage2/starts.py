"""Heads to start the tuning from: the raw head of a long-tailed backbone is rarely the best one."""

from collections.abc import Sequence

import torch

from selmix.baselines.logit_adjustment import logit_adjusted
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction
from selmix.pairs import ClassMembers
from selmix.significance import paired_difference
from selmix.stage2.crossfit import CrossFit

# few samples want the first decay, many the second; label-aware smoothing helps where the backbone has overfitted: the
# average over them is close to the best of them on all data that were tried, and takes no choosing
# (docs/method-study.md)
_DECAYS = (1e-4, 1e-5)
_CAUTION = 2  # standard errors by which another start must beat the balanced one


def starting_heads(
    given: LinearHead,
    train_counts: torch.Tensor,
    plan: CrossFit,
    *,
    smoothing: float,
    steps: int = RetrainSettings.steps,
    generator: torch.Generator,
) -> dict[str, list[LinearHead]]:
    """Return what tuning may start from, one head for each head of the plan.

    Args:
        given: trained on the train split alone.
        train_counts: [k] samples per class that trained it.
        plan: who learns from what.
        smoothing: label-aware smoothing of the largest class, for half of the heads that are averaged.
        steps: of the retraining.
        generator: its source of randomness.

    Returns:
        `balanced`, the average of fresh heads retrained with class-balanced sampling on what each may learn from;
        `given` as it came; `logit_adjusted`, the same with the log prior of the training counts subtracted.
    """
    copies = len(plan.members)
    return {
        "balanced": balanced_heads(plan, plan.class_members, smoothing=smoothing, steps=steps, generator=generator),
        "given": [given] * copies,
        "logit_adjusted": [logit_adjusted(given, train_counts)] * copies,
    }


def balanced_heads(
    plan: CrossFit, members: list[ClassMembers], *, smoothing: float, steps: int, generator: torch.Generator
) -> list[LinearHead]:
    """Return, for each head of the plan, the average of fresh heads retrained with class-balanced sampling.

    Args:
        plan: whose pool they learn from.
        members: of the pool that each head may learn from, by class.
        smoothing: label-aware smoothing of the largest class, for half of the heads that are averaged.
        steps: of the retraining.
        generator: its source of randomness.
    """
    retrained = [
        retrain_heads(
            plan.pool,
            members,
            sampling_power=0,
            settings=RetrainSettings(steps=steps, weight_decay=decay, smoothing=eps),
            generator=generator,
        )
        for decay in _DECAYS
        for eps in sorted({0.0, smoothing})
    ]
    return [_average(heads) for heads in zip(*retrained, strict=True)]


def best_start(
    starts: dict[str, list[LinearHead]],
    plan: CrossFit,
    objective: MetricFunction,
    *,
    pseudo_count: float,
) -> str:
    """Return the start with the best objective on validation; `balanced`, unless luck does not explain the difference.

    Judged on validation alone: a head that came with the backbone has learnt the train split.
    """
    rows = plan.ranks.gathered(plan.rows[plan.num_train :])
    predictions = {name: plan.val_predictions(heads).classes for name, heads in starts.items()}
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
        if difference > _CAUTION * standard_error:
            best = name
    return best


def _average(heads: Sequence[LinearHead]) -> LinearHead:
    """Return the average head, each scaled to the same size of logits, that of the first."""
    # in float64: squares of weights on features of 1e25 or 1e-30 leave float32, and the average would be NaN
    size = [torch.linalg.vector_norm(head.weight, dtype=torch.float64).to(head.weight) for head in heads]
    scales = [size[0] / own / len(heads) for own in size]
    return LinearHead(
        torch.stack([head.weight * scale for head, scale in zip(heads, scales, strict=True)]).sum(0),
        torch.stack([head.bias * scale for head, scale in zip(heads, scales, strict=True)]).sum(0),
    )
