"""Which pseudo-labels to believe.

Every rule is judged by itself, on all samples that have a pseudo-label; a sample must pass all of them:

- threshold: its confidence p_c is at least so much (FixMatch);
- margin: p_c leads the second class by at least so much;
- quota: it is among the share mu_l of its class's samples of most confidence, mu_l = (N_{K+1-l} / N_1)^(1 / alpha) for
  the class of rank l by labeled samples N_1 >= ... >= N_K: all of the smallest class, of whose pseudo-labels few are
  wrong, and the fewest of the largest (CReST);
- cap: no more of its class than `cap` times what the pool's prior lets one expect, the most confident ones;
- divergence: KL(target row of its class || p) is below a bound (CSST). A one-hot target has -log p_c, so 0.05 is
  p_c > 0.9512; a target that spreads over classes accepts what is spread likewise.

Sources: Sohn et al., NeurIPS 2020 (FixMatch); Wei et al., CVPR 2021 (CReST); Rangwani et al., NeurIPS 2022 (CSST).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from selmix.errors import UsageError, check_settings


@dataclass(frozen=True)
class Selection:
    """The rules; as it is made, every sample that has a pseudo-label is selected.

    Attributes:
        threshold: least confidence.
        margin: least lead over the second class.
        quota: alpha > 0 of the quotas, 3 in the paper (the larger, the more is kept); None for no quotas.
        cap: most samples of a class, in units of its expected number in the pool; None for no caps.
        divergence: KL divergences must be below; None for no such rule.
    """

    threshold: float = 0.0
    margin: float = 0.0
    quota: float | None = None
    cap: float | None = None
    divergence: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot mean anything."""
        check_settings(
            self,
            {
                "threshold": ("in [0, 1]", 0 <= self.threshold <= 1),
                "margin": ("in [0, 1]", 0 <= self.margin <= 1),
                "quota": ("> 0", self.quota is None or self.quota > 0),
                "cap": ("> 0", self.cap is None or self.cap > 0),
                "divergence": ("> 0", self.divergence is None or self.divergence > 0),
            },
        )


class Candidates(NamedTuple):
    """What selection needs to know of m samples, whatever the number of classes.

    Attributes:
        classes: int64 [m], the most likely one; -1 where the source abstains.
        confidence: float32 [m], its probability; 0 where the source abstains.
        lead: float32 [m], over the second class.
        divergence: float32 [m], KL(target row of the class || p).
    """

    classes: torch.Tensor
    confidence: torch.Tensor
    lead: torch.Tensor
    divergence: torch.Tensor


def candidates(blocks: Iterable[torch.Tensor], *, targets: torch.Tensor | None = None) -> Candidates:
    """Return what to select from.

    Args:
        blocks: probabilities, each [b, k], of consecutive rows; zeros where the source abstains.
        targets: float64 [k, k] from `target_rows`; one-hot, if not given.
    """
    parts = [_candidates(block, targets) for block in blocks]
    empty = Candidates(torch.empty(0, dtype=torch.int64), *(torch.empty(0) for _ in range(3)))
    return Candidates(*(torch.cat(each) for each in zip(empty, *parts, strict=True)))


def target_rows(gains: torch.Tensor) -> torch.Tensor:
    """Return what p should look like for each pseudo-class: rows of a gain matrix [k, k], scaled to sum to 1, float64.

    Raises:
        UsageError: a gain is negative, or a row has none.
    """
    sums = gains.double().sum(1, keepdim=True)
    if bool((gains < 0).any()) or not bool((sums > 0).all()):
        raise UsageError("gains of the divergence rule must be >= 0 with one > 0 in every row; shift them before")
    return gains.double() / sums


def select(
    found: Candidates,
    selection: Selection,
    *,
    class_counts: torch.Tensor | None = None,
    prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the pseudo-labels, int64 [m]; -1 where there is none or a rule rejects it.

    Where a quota or a cap cuts through equal confidences, the larger lead goes first, then the earlier row: confidences
    of a good head are rounded to 1 by the thousand, so neither all of them nor none would do.

    Args:
        found: the candidates of the whole pool.
        selection: the rules.
        class_counts: int64 [k], labeled samples, for quotas.
        prior: [k], of the pool, for caps.

    Raises:
        UsageError: quotas without class counts, or caps without a prior.
    """
    passed = (found.classes >= 0) & (found.confidence >= selection.threshold) & (found.lead >= selection.margin)
    if selection.divergence is not None:
        passed &= found.divergence < selection.divergence
    if selection.quota is not None:
        if class_counts is None:
            raise UsageError("quotas need the class counts of labeled samples")
        own = torch.bincount(found.classes[found.classes >= 0], minlength=len(class_counts))
        passed &= _within(found, quotas(class_counts, alpha=selection.quota) * own)
    if selection.cap is not None:
        if prior is None:
            raise UsageError("caps need the class prior of the pool")
        passed &= _within(found, selection.cap * len(found.classes) * prior.double())
    return torch.where(passed, found.classes, -1)


def quotas(class_counts: torch.Tensor, *, alpha: float) -> torch.Tensor:
    """Return the share mu of its pseudo-labels that each class keeps, float64 [k].

    Classes of equal counts keep the mean of what their ranks would; a class without labeled samples counts as one of 1.

    >>> quotas(torch.tensor([100, 10, 1]), alpha=1.0).tolist()
    [0.01, 0.1, 1.0]
    """
    counts = class_counts.double().clamp_min(1)
    rank = counts.argsort(descending=True, stable=True)
    shares = torch.empty_like(counts)
    shares[rank] = (counts.sort().values / counts.max()) ** (1 / alpha)
    _, size = counts.unique(return_inverse=True)
    return (torch.bincount(size, shares) / torch.bincount(size))[size]


def _candidates(probabilities: torch.Tensor, targets: torch.Tensor | None) -> Candidates:
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=1)
    confidence, classes = best.values[:, 0], best.indices[:, 0]
    lead = confidence - best.values[:, 1] if best.values.shape[1] > 1 else confidence
    if targets is None:  # one-hot
        divergence = -confidence.log()
    else:
        wanted = targets[classes]
        # 0 log 0 = 0; a class that is wanted and has no probability makes the divergence infinite
        divergence = (wanted.xlogy(wanted) - wanted.xlogy(probabilities.double())).sum(1).float()
    return Candidates(torch.where(confidence > 0, classes, -1), confidence, lead, divergence)


def _within(found: Candidates, most: torch.Tensor) -> torch.Tensor:
    """Return who is among the first `most` [k] of its class, rounded up, but not for an error of rounding."""
    return _rank(found) < (most * (1 - 1e-9)).ceil()[found.classes]


def _rank(found: Candidates) -> torch.Tensor:
    """Return how many samples of the same pseudo-class go before each one, int64 [m]; abstentions are one class."""
    order = found.lead.argsort(descending=True, stable=True)
    order = order[found.confidence[order].argsort(descending=True, stable=True)]
    order = order[found.classes[order].argsort(stable=True)]
    counts = torch.bincount(found.classes + 1)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[found.classes[order] + 1]
    return rank
