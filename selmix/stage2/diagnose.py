"""Do the gains predict what happens? Real steps on single class pairs, and what the metric made of them.

The gain of a pair is a derivative of a model of the metric: it knows each row by its mean feature alone, and takes the
rows of the confusion matrix for softmax outputs there. So each of some pairs gets a real step of its own, from the same
heads, on many mixups of its members, and the metric is measured before and after, out of fold as in the loop:

soft    of the softened predictions of the judged samples, from which the gains are computed, after a small step: nearly
        the true derivative of a differentiable stand-in for the metric;
hard    of the counted predictions, after a large step: what is tuned for, but it moves in jumps.

Both are differences divided by the rate, as the gain is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from selmix.descent import cross_entropy_step_
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import Metric, logit_gradient
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence
from selmix.stage2.refine import TEMPERATURE, pair_gains
from selmix.stage2.settings import RefineSettings

PAIRS, MIXUPS = 200, 256
# on features of unit mean square: logits move by about a thousandth, and by about one
SMALL_RATE, LARGE_RATE = 1e-3, 1.0


@dataclass(frozen=True)
class Diagnosis:
    """What was predicted and what was measured, one entry a pair.

    Attributes:
        kept: int64 [p], rows that keep their label.
        partner: int64 [p].
        predicted: float64 [p], gains.
        measured: `soft` and `hard` -> float64 [p], change of the rounded metric divided by the rate of the step.
    """

    kept: torch.Tensor
    partner: torch.Tensor
    predicted: torch.Tensor
    measured: dict[str, torch.Tensor]


def diagnose(
    heads: list[LinearHead],
    plan: CrossFit,
    metric: Metric,
    settings: RefineSettings,
    *,
    generator: torch.Generator,
    pairs: int = PAIRS,
) -> Diagnosis:
    """Compare predicted gains with what single steps do.

    Args:
        heads: where the steps start, one for each head of the plan.
        plan: who learns from what and who judges what.
        metric: whose gains; its minima are rounded as in the loop.
        settings: of the loop.
        generator: source of pairs, members and coefficients.
        pairs: how many to try, drawn evenly over the ranks of all gains, negative ones too; all, if there are fewer.
    """
    space = plan.pool.space
    weights = space.encode_heads(heads)
    evidence = Evidence.gather(plan, space, weights, generator=generator)
    objective = metric.objective(evidence.support, settings.rounding)

    def hard(own: torch.Tensor) -> float:
        predictions = evidence.judge(own.to(weights))
        return float(objective(evidence.confusion(predictions, pseudo_count=settings.pseudo_count)))

    def soft(own: torch.Tensor) -> float:
        return float(objective(evidence.soft_confusion(own, temperature=TEMPERATURE)))

    confusion = evidence.soft_confusion(weights, temperature=TEMPERATURE, pseudo_count=settings.pseudo_count)
    gradient = logit_gradient(objective, confusion)
    gains = pair_gains(evidence.row_means(), weights[-1], gradient, plan.smoothing(settings.smoothing), settings)
    kept, partner = _over_all_ranks(gains, plan.members[-1].counts > 0, pairs, generator)

    start = weights.double()  # small changes are differences of nearly equal numbers
    before = {"soft": soft(start), "hard": hard(start)}
    measured: dict[str, list[float]] = {"soft": [], "hard": []}
    for step in _unit_steps(start, plan, space, settings, kept, partner, generator):
        measured["soft"].append((soft(start + SMALL_RATE * step) - before["soft"]) / SMALL_RATE)
        measured["hard"].append((hard(start + LARGE_RATE * step) - before["hard"]) / LARGE_RATE)
    return Diagnosis(
        kept=kept,
        partner=partner,
        predicted=gains[kept, partner],
        measured={name: torch.tensor(values, dtype=torch.float64) for name, values in measured.items()},
    )


def agreement(predicted: torch.Tensor, measured: torch.Tensor) -> dict[str, float | None]:
    """Return the correlations of predicted and measured changes, [p] each, and how often their signs agree.

    A change of 0 has no sign and is left out of `sign_agreement`. None where all numbers are the same.

    >>> agreement(torch.tensor([1.0, 2, 3]), torch.tensor([-1.0, 4, 9]))["sign_agreement"]
    0.6666666666666666
    """
    from scipy import stats  # takes a second to import, and few runs are diagnosed

    moved = (predicted != 0) & (measured != 0)
    right = (predicted.sign() == measured.sign())[moved].double()
    vary = len(predicted) > 1 and bool((predicted != predicted[0]).any() and (measured != measured[0]).any())
    return {
        "pearson": float(stats.pearsonr(predicted, measured).statistic) if vary else None,
        "spearman": float(stats.spearmanr(predicted, measured).statistic) if vary else None,
        "sign_agreement": float(right.mean()) if len(right) else None,
    }


def _over_all_ranks(
    gains: torch.Tensor, drawable: torch.Tensor, pairs: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of pairs: one at random of each of so many parts of the sorted gains."""
    kept, partner = (drawable[:, None] & drawable).nonzero().T
    order = gains[kept, partner].argsort()
    edges = torch.linspace(0, len(order), min(pairs, len(order)) + 1, dtype=torch.float64).long()
    uniform = torch.rand(len(edges) - 1, generator=generator, dtype=torch.float64)
    chosen = order[edges[:-1] + (uniform * edges.diff()).long()]
    return kept[chosen], partner[chosen]


def _unit_steps(
    start: torch.Tensor,
    plan: CrossFit,
    space: FeatureSpace,
    settings: RefineSettings,
    kept: torch.Tensor,
    partner: torch.Tensor,
    generator: torch.Generator,
) -> Iterator[torch.Tensor]:
    """Yield, for each pair, the step [h, k, d + 1] of rate 1 on the mean gradient of many of its mixups."""
    batches = PairBatches(
        pool=plan.pool,
        space=space,
        members=plan.members,
        batch_size=MIXUPS,
        mix_low=settings.mix_low,
        generator=generator,
        smoothing=plan.smoothing(settings.smoothing).to(start),
        groups=plan.groups,
    )
    law = torch.zeros(2 * (len(plan.members[-1].counts),), dtype=torch.float64)
    for pair in zip(kept.tolist(), partner.tolist(), strict=True):
        law[pair] = 1
        ((features, targets),) = batches.draw(law, 1)
        law[pair] = 0
        moved = start.clone()
        cross_entropy_step_(moved, features.double(), targets.double(), rate=1.0)
        yield moved - start
