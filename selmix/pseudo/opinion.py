"""The joint opinion of several sources: a calibrated logarithmic pool.

    logit_c(x) = b_c + sum_s a_s log p_s(c | x),        a_s > 0

Temperatures a and biases b are those of the largest likelihood of labeled samples that no source has learnt, each class
weighing the same, so that the softmax answers for a uniform class prior, whatever the sources were trained on. With one
source this is bias-corrected temperature scaling.

Sources: Genest and Zidek, Statistical Science 1986 (logarithmic pools); Alexandari et al., ICML 2020 (calibration for
label shift).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

_FLOOR = 1e-3  # of what a source leaves for classes that it rules out, spread over all classes
_ITERATIONS = 50


@dataclass(frozen=True)
class Opinion:
    """A fitted pool of s sources.

    Attributes:
        sharpness: float64 [s], a.
        bias: float64 [k], b.
    """

    sharpness: torch.Tensor
    bias: torch.Tensor

    def logits(self, scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return float64 logits [m, k], given the log-probabilities [m, k] of every source."""
        return self.bias + sum(a * own.double() for a, own in zip(self.sharpness, scores, strict=True))

    def probabilities(self, scores: Sequence[torch.Tensor], prior: torch.Tensor) -> torch.Tensor:
        """Return float32 probabilities [m, k] under a class prior [k]; zeros where all sources abstain."""
        told = torch.stack([own.any(1) for own in scores]).any(0)
        return torch.where(told[:, None], (self.logits(scores) + prior.log()).softmax(1), 0).float()

    def said(self, scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the most likely class under the uniform prior, int64 [m]; -1 where all sources abstain."""
        told = torch.stack([own.any(1) for own in scores]).any(0)
        return torch.where(told, self.logits(scores).argmax(1), -1)


def log_scores(probabilities: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities [m, k] that rule nothing out; an abstention, a row of zeros, prefers no class."""
    floored = (1 - _FLOOR) * probabilities.double() + _FLOOR / probabilities.shape[1]
    return torch.where((probabilities > 0).any(1, keepdim=True), floored.log(), 0)


def fit_opinion(scores: Sequence[torch.Tensor], labels: torch.Tensor, weights: torch.Tensor) -> Opinion:
    """Return the calibrated pool of sources.

    The biases have a standard normal prior, worth a sample, as has the logarithm of each temperature.

    Args:
        scores: of each source the log-probabilities [m, k] of labeled samples that it has not learnt.
        labels: int64 [m].
        weights: [m], how many samples each stands for; classes are weighed alike whatever they have of these.
    """
    num_classes = scores[0].shape[1]
    support = torch.bincount(labels, weights.double(), minlength=num_classes)
    share = weights.double() / support.clamp_min(1e-12)[labels] / (support > 0).sum()
    stacked = torch.stack([own.double() for own in scores])
    parameters = torch.zeros(len(scores) + num_classes, dtype=torch.float64, requires_grad=True)
    ridge = 0.5 / support.sum().clamp_min(1)
    optimizer = torch.optim.LBFGS([parameters], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        sharpness, bias = parameters[: len(scores)].exp(), parameters[len(scores) :]
        logits = torch.einsum("s,smk->mk", sharpness, stacked) + bias
        value = (share * F.cross_entropy(logits, labels, reduction="none")).sum() + ridge * parameters.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = parameters.detach()
    return Opinion(fitted[: len(scores)].exp(), fitted[len(scores) :])
