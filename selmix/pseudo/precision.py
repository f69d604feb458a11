"""How often is a pseudo-label right? Asked of labeled samples that its source has not learnt.

Labeled samples go through source and selection as the pool does. With R[i, j] = P(selected as j | y = i), where what is
selected as nothing is one more column, and the pool's prior pi, the precision of pseudo-class j in the pool is

    pi_j R_jj / sum_i pi_i R_ij:

a weighted mean, over the labeled samples that are selected as j, of whether they are of class j. Sample s of class i
weighs v_s = w_s pi_i / sum of w over class i, so the mean is worth n_j = (sum v)^2 / sum v^2 equal samples (Kish).

What is not seen may still be there: a class that is frequent in the pool and has few labels weighs much, and if none of
its labels happens to be selected as j, the mean knows nothing of it. So the lower bound is that of Wilson for the same
samples and one more that is wrong, of the other class whose samples weigh most. Without
it the bound of a class that is rare in the pool and frequent among the labels would hold in half of the cases.

Where nothing is known the guard says no: a class as which no labeled sample is selected has precision nan and bound 0.
What a class without judged samples contributes to others cannot be known and is not counted; neither is what images of
no known class contribute (`novelty.py`).

Sources: Wilson, JASA 1927; Kish, Survey Sampling, 1965 (effective size); Fay and Feuer, Statistics in Medicine 1997
(a bound of a weighted sum of rates that counts one more of the heaviest).
"""

from dataclasses import dataclass
from statistics import NormalDist

import torch


@dataclass(frozen=True)
class Precision:
    """Of each pseudo-class, in the pool.

    Attributes:
        estimate: float64 [k]; nan where no labeled sample is selected.
        lower: float64 [k], one-sided lower confidence bound; 0 where no labeled sample is selected.
        evidence: float64 [k], how many equal samples the estimate is worth.
        unseen: float64 [k], weight of a sample of the other class whose samples weigh most.
        share: float64 [k], of the pool, that is to be expected as this pseudo-class.
    """

    estimate: torch.Tensor
    lower: torch.Tensor
    evidence: torch.Tensor
    unseen: torch.Tensor
    share: torch.Tensor

    @property
    def overall(self) -> float:
        """Return the precision of all pseudo-labels together; nan if there are none."""
        return float((self.estimate.nan_to_num() * self.share).sum() / self.share.sum())

    def together(self, classes: torch.Tensor, *, level: float = 0.95) -> tuple[float, float]:
        """Return the precision of the pseudo-labels of some classes, bool [k], as one, and its lower bound.

        Sums of v and of v^2 add up over pseudo-classes. (nan, 0) where no labeled sample is selected.
        """
        kept = classes & (self.evidence > 0)
        share = self.share[kept].sum()
        squares = (self.share[kept].square() / self.evidence[kept]).sum()
        right = (self.estimate[kept] * self.share[kept]).sum()
        unseen = self.unseen[kept].amax() if kept.any() else share
        return float(right / share), float(_lower(right, share, squares, unseen, level=level))

    def trusted(self, bound: float) -> torch.Tensor:
        """Return the pseudo-classes whose precision is at least `bound`, surely: bool [k]; none without evidence."""
        return (self.lower >= bound) & (self.evidence > 0)


def pseudo_precision(
    labels: torch.Tensor,
    pseudo: torch.Tensor,
    prior: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    level: float = 0.95,
) -> Precision:
    """Estimate the precision of each pseudo-class from labeled samples that were judged out of fold.

    Args:
        labels: int64 [n], the truth.
        pseudo: int64 [n], as what they are selected; -1 = not.
        prior: [k], of the pool.
        weights: [n], what each sample is worth as evidence (`worth.py`); 1, if not given.
        level: of the bound.
    """
    num_classes = len(prior)
    weights = torch.ones_like(labels, dtype=torch.float64) if weights is None else weights.double()

    def per_class(classes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.bincount(classes, values, minlength=num_classes).double()  # of nothing it is int64

    support = per_class(labels, weights)
    importance = weights * (prior.double() / support.clamp_min(1e-300))[labels]
    chosen = pseudo >= 0
    as_class, own = pseudo[chosen], importance[chosen]
    share = per_class(as_class, own)
    right = per_class(as_class, own * (labels[chosen] == as_class))
    # a sample of weight w < 1 is worth w samples, not a whole one: v^2 / w
    squares = per_class(as_class, own.square() / weights[chosen].clamp_min(1e-300))
    evidence = torch.where(share > 0, share.square() / squares.clamp_min(1e-300), 0)
    heaviest = torch.where(support > 0, prior.double() / support.clamp_min(1), 0)  # no class is more than its share
    first, second = (*heaviest.topk(min(2, num_classes)).values, heaviest.new_zeros(()))[:2]
    unseen = first.repeat(num_classes)
    unseen[heaviest.argmax()] = second
    lower = torch.where(evidence > 0, _lower(right, share, squares, unseen, level=level), 0)
    return Precision(right / share, lower, evidence, unseen, share)  # the estimate is nan where there is none


def _lower(
    right: torch.Tensor, share: torch.Tensor, squares: torch.Tensor, unseen: torch.Tensor, *, level: float
) -> torch.Tensor:
    """Return the bound of right / share, sums of v, with one more sample that is wrong; `squares` are sums of v^2."""
    total = share + unseen
    count = total.square() / (squares + unseen.square()).clamp_min(1e-300)
    return wilson_lower(right / total.clamp_min(1e-300), count, level=level)


def wilson_lower(rate: torch.Tensor, count: torch.Tensor, *, level: float) -> torch.Tensor:
    """Return the one-sided lower bound of rates that were seen in so many samples; 0 where there are none.

    >>> wilson_lower(torch.tensor([1.0]), torch.tensor([10.0]), level=0.975).item()  # doctest: +ELLIPSIS
    0.72...
    """
    z = NormalDist().inv_cdf(level)
    spread = (rate * (1 - rate) * count + z**2 / 4).sqrt()
    return (rate * count + z**2 / 2 - z * spread) / (count + z**2)
