"""A bias for every class, tuned for any metric of the confusion matrix by coordinate ascent."""

from collections.abc import Iterator

import torch

from selmix.baselines.choice import Score, score_counts, score_logits
from selmix.metrics import MetricFunction

SWEEPS = 10
POSITIONS = 33  # biases tried at once on the way from coarse to fine
FIRST_STRENGTHS = torch.linspace(-1, 2, 61).tolist()


def tuned_bias(
    logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor, metric: MetricFunction
) -> torch.Tensor:
    """Return the bias, float64 [k], that coordinate ascent finds, from the best multiple of the log prior.

    One class after the other gets its best bias, the others being kept, until a sweep over the classes changes nothing.
    No step lowers the metric on these samples.

    Args:
        logits: [n, k] of samples that the head has not learnt.
        labels: int64 [n].
        class_counts: [k] training samples, all positive.
        metric: what to raise.
    """
    logits = logits.double()
    log_prior = (class_counts.double() / class_counts.sum()).log()
    starts = [-strength * log_prior for strength in FIRST_STRENGTHS]
    bias = max(starts, key=lambda start: score_logits(logits + start, labels, metric))
    best = score_logits(logits + bias, labels, metric)
    for _ in range(SWEEPS):
        before = best
        for label in range(logits.shape[1]):
            value, found = _best_coordinate(logits + bias, labels, label, metric)
            if found > best:
                best = found
                bias[label] += value
        if best == before:
            break
    return bias


def _best_coordinate(
    logits: torch.Tensor, labels: torch.Tensor, label: int, metric: MetricFunction
) -> tuple[float, Score]:
    """Return the best change of one class's logit that was tried, and its score.

    Sample s is predicted as `label` once the change exceeds its threshold: its largest other logit minus its logit of
    the class. So with the thresholds sorted, a change stands for the number of samples that it takes, 0..n. Up to
    `POSITIONS` of these numbers are tried, evenly spread, and then as many around the best, down to single samples:
    with n < POSITIONS the search is exhaustive.
    """
    others = logits.clone()
    others[:, label] = -torch.inf
    rival, runner_up = others.max(1)
    thresholds, order = (rival - logits[:, label]).sort()
    kept, moved = (
        labels[order] * logits.shape[1] + runner_up[order],
        labels[order] * logits.shape[1] + label,
    )
    edges = torch.cat([thresholds[:1] - 2, thresholds, thresholds[-1:] + 2])
    changes = (edges[:-1] + edges[1:]) / 2
    # equal thresholds fall together
    possible = torch.cat([torch.tensor([True]), thresholds.diff() > 0, torch.tensor([True])]).nonzero()[:, 0]

    best: tuple[Score, int] = ((-torch.inf, -torch.inf), 0)
    low, high = 0, len(possible) - 1
    while True:
        tried = torch.linspace(low, high, min(POSITIONS, high - low + 1)).round().long().unique()
        for place, counts in zip(tried.tolist(), _counts_after(kept, moved, possible[tried], logits), strict=True):
            best = max(best, (score_counts(counts, metric), place), key=lambda candidate: candidate[0])
        step = -(-(high - low) // max(len(tried) - 1, 1))
        if step <= 1:
            return float(changes[possible[best[1]]]), best[0]
        low, high = max(low, best[1] - step + 1), min(high, best[1] + step - 1)


def _counts_after(
    kept: torch.Tensor, moved: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yield the confusion counts [k, k] when the first p samples are predicted as the class, for rising positions p.

    Args:
        kept: int64 [n], the flat cell of each sample, in the order of the thresholds, while it is not.
        moved: int64 [n], its cell once it is.
        positions: int64 [p], rising.
        logits: [n, k].
    """
    num_classes = logits.shape[1]
    # rank r has moved at every position above r
    since = torch.searchsorted(positions, torch.arange(len(kept)), right=True)
    ones = torch.ones(len(kept), dtype=torch.float64)
    change = torch.zeros(len(positions) + 1, num_classes**2, dtype=torch.float64)
    change.index_put_((since, moved), ones, accumulate=True)
    change.index_put_((since, kept), -ones, accumulate=True)
    counts = torch.bincount(kept, minlength=num_classes**2).double() + change[:-1].cumsum(0)
    yield from counts.view(-1, num_classes, num_classes)
