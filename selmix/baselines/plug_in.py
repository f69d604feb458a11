"""The Frank-Wolfe plug-in classifier: the best mixture of cost-sensitive decisions on calibrated probabilities."""

from dataclasses import dataclass

import torch

from selmix.baselines.logistic import balanced_log_loss
from selmix.confusion import confusion_counts, joint_confusion
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction, metric_gradient

STEPS = 200
DRAWS = 16  # confusion matrices over which a gradient is averaged
TEMPERATURES = torch.logspace(-4, 4, 161, base=2).tolist()


@dataclass(frozen=True)
class PlugInMixture:
    """A randomised classifier: each sample draws one of the plug-in decisions argmax_j sum_i G_ij P(i | z).

    The same features in the same order get the same draws; the seed is part of the classifier.

    Attributes:
        head: gives logits of a class-balanced world.
        temperature: divides them.
        prior: [k], the class law of the world in which the metric is taken.
        gains: float64 [t, k, k], one matrix G for each decision.
        weights: float64 [t], the law over decisions.
        seed: of the draws.
    """

    head: LinearHead
    temperature: float
    prior: torch.Tensor
    gains: torch.Tensor
    weights: torch.Tensor
    seed: int

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the expected gain of each prediction under the drawn decision, [n, k]."""
        probabilities = posterior(self.head.logits(features), self.prior, temperature=self.temperature)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.multinomial(self.weights, len(features), replacement=True, generator=generator)
        expected = torch.empty_like(probabilities)
        for decision in drawn.unique():
            rows = drawn == decision
            expected[rows] = probabilities[rows] @ self.gains[decision]
        return expected


def posterior(logits: torch.Tensor, prior: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return P(class | z), float64 [n, k], from logits of a balanced world, for a world with another prior [k]."""
    return (logits.double() / temperature + prior.double().log()).softmax(1)


def fitted_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature, of `TEMPERATURES`, with the smallest balanced log loss.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature scaling).
    """
    return min(TEMPERATURES, key=lambda temperature: balanced_log_loss(logits.double() / temperature, labels))


def frank_wolfe(
    probabilities: torch.Tensor, labels: torch.Tensor, metric: MetricFunction, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gain matrices [t, k, k] and weights [t] of the mixture whose confusion matrix on the samples is best.

    Each round adds the decision that is the best for the linearised metric, with weight 2 / (t + 2). The linearisation
    is the average of the rounds' gradients with the same weights: with the last gradient alone, a minimum sends every
    decision to the one class that is behind, and the rounds circle. For smooth metrics the two come to the same.

    Args:
        probabilities: float64 [n, k], P(class | z) of samples that the head has not learnt.
        labels: int64 [n].
        metric: what to raise; its kinks are rounded, see `rounded_gradient`.
        generator: source of the draws that round them.

    Source: Narasimhan et al., "Consistent Multiclass Algorithms for Complex Metrics and Constraints", arXiv
    2210.09695 (Frank-Wolfe for smooth concave metrics); averaged gradients for kinks: Abernethy and Wang, "On
    Frank-Wolfe and Equilibrium Computation", NeurIPS 2017.
    """
    num_classes = probabilities.shape[1]

    def confusion_of(predictions: torch.Tensor) -> torch.Tensor:
        return joint_confusion(confusion_counts(labels, predictions, num_classes))

    confusion = confusion_of(probabilities.argmax(1))
    gains = torch.zeros(STEPS, num_classes, num_classes, dtype=torch.float64)
    weights = torch.zeros(STEPS, dtype=torch.float64)
    for step in range(STEPS):
        share = 2 / (step + 2)
        gradient = rounded_gradient(metric, confusion, len(labels), generator=generator)
        gains[step] = share * gradient + (1 - share) * gains[step - 1]
        confusion = (1 - share) * confusion + share * confusion_of((probabilities @ gains[step]).argmax(1))
        weights *= 1 - share
        weights[step] = share
    return gains, weights


def rounded_gradient(
    metric: MetricFunction, confusion: torch.Tensor, samples: int, *, generator: torch.Generator
) -> torch.Tensor:
    """Return the metric's gradient [k, k], averaged over how a confusion matrix of so many samples may come out.

    The rows are drawn from Dirichlet laws around the given ones and smoothed by one pseudo-sample. Where the metric is
    smooth that changes little; a minimum becomes a soft one, as soft as the samples leave it open which class is last.
    """
    support = confusion.sum(1, keepdim=True)
    law = (confusion * samples + 1 / len(confusion)).expand(DRAWS, -1, -1).contiguous()
    gammas = torch._standard_gamma(law, generator=generator)
    drawn = gammas / gammas.sum(2, keepdim=True) * support
    gradients = [metric_gradient(metric, joint_confusion(one * samples, pseudo_count=1)) for one in drawn]
    return torch.stack(gradients).mean(0)
