"""How sure may a tuned head be? One temperature for its logits, fitted on validation out of fold."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from selmix.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.predictions import logit_blocks
from selmix.ranks import ALONE, Ranks
from selmix.stage2.crossfit import CrossFit

_CELLS, _FEWEST = 1 << 20, 128  # logits to fit on, and samples if there are very many classes


@dataclass(frozen=True)
class Calibration:
    """The temperature of a head, and what it is worth.

    Attributes:
        temperature: T of softmax(logits / T).
        samples: validation samples that it was fitted on.
        figures: split -> `plain` and `calibrated` -> `nll`, the mean negative log-likelihood, and `ece`.
    """

    temperature: float
    samples: int
    figures: dict[str, dict[str, dict[str, float]]]


def calibrate(heads: list[LinearHead], plan: CrossFit, test: LabeledFeatures | None) -> Calibration:
    """Fit the temperature of the last head on validation, each sample judged by the head that has not learnt it.

    Samples count alike, so probabilities hold for the class shares of validation. What the temperature is worth on
    validation is told by those of the other folds; on test it is used as it is. Of a large validation every so manieth
    sample is taken: it is one number.

    Args:
        heads: of the cross-fit; the last is the result.
        plan: who judges what.
        test: judged by the last head; None if there is none.
    """
    logits, labels, fold = _judged(heads, plan)
    temperature = fit_temperature(logits, labels)
    tempered = logits.double()
    for own in fold.unique().tolist():
        others = fold != own
        tempered[~others] /= (
            fit_temperature(logits[others], labels[others], start=temperature) if others.any() else temperature
        )
    figures = {"val": _figures([({"plain": logits, "calibrated": tempered}, labels)])}
    if test is not None:
        blocks = (
            ({"plain": own, "calibrated": own.double() / temperature}, test.labels[place])
            for place, own in logit_blocks(heads[-1], test.features)
        )
        figures["test"] = _figures(blocks, plan.ranks)
    return Calibration(temperature, len(labels), figures)


def _judged(heads: list[LinearHead], plan: CrossFit) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits [m, k], labels [m] and folds [m] of validation samples of all ranks."""
    most = max(_CELLS // plan.num_classes, _FEWEST)
    every = -(-int(plan.val_counts.sum()) // most)
    logits, labels, folds = [torch.zeros(0, plan.num_classes)], [], []
    for fold, (head, positions) in enumerate(zip(heads, plan.judged, strict=False)):
        own = positions[positions >= plan.num_train][::every].contiguous()
        logits += [block for _, block in logit_blocks(head, plan.features, own)]
        labels.append(plan.labels[own])
        folds.append(torch.full_like(own, fold))
    ranks = plan.ranks
    return ranks.gathered(torch.cat(logits)), ranks.gathered(torch.cat(labels)), ranks.gathered(torch.cat(folds))


_Block = tuple[dict[str, torch.Tensor], torch.Tensor]  # logits [b, k], of several kinds, and labels [b]


def _figures(blocks: Iterable[_Block], ranks: Ranks = ALONE) -> dict[str, dict[str, float]]:
    """Return for each kind of logits, `plain` and `calibrated`, what it is worth."""
    seen: dict[str, list[torch.Tensor]] = {kind: [torch.zeros(0, 3).double()] for kind in ("plain", "calibrated")}
    for kinds, labels in blocks:
        for kind, logits in kinds.items():
            confidence, predicted = logits.double().softmax(1).max(1)
            losses = negative_log_likelihood(logits, labels)
            seen[kind].append(torch.stack([losses, confidence, (predicted == labels).double()], dim=1))
    figures = {}
    for kind, parts in seen.items():
        losses, confidence, correct = ranks.gathered(torch.cat(parts)).T.contiguous()
        figures[kind] = {"nll": float(losses.mean()), "ece": expected_calibration_error(confidence, correct)}
    return figures
