"""Slow and obvious second ways to compute what selmix computes, and random small cases; no code of selmix is used."""

from collections.abc import Callable

import torch
from torch.nn import functional as F


def count_confusions(labels: torch.Tensor, predictions: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count sample by sample."""
    counts = [[0.0] * num_classes for _ in range(num_classes)]
    for truth, guess in zip(labels.tolist(), predictions.tolist(), strict=True):
        counts[truth][guess] += 1
    return torch.tensor(counts, dtype=torch.float64)


def random_prior(num_classes: int, *, generator: torch.Generator, empty: tuple[int, ...] = ()) -> torch.Tensor:
    """Return a prior whose largest entry is about 20 times the smallest, zero for the `empty` classes."""
    prior = 20.0 ** -torch.rand(num_classes, generator=generator, dtype=torch.float64)
    prior[list(empty)] = 0
    return prior / prior.sum()


def soft_confusion(prior: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return C_ij = pi_i softmax(A_i)_j."""
    odds = (logits - logits.amax(1, keepdim=True)).exp()
    return prior[:, None] * odds / odds.sum(1, keepdim=True)


def random_confusion(seed: int, num_classes: int = 5, *, empty: tuple[int, ...] = ()) -> torch.Tensor:
    """Return an unbalanced joint confusion matrix without zeros, except in the rows of the `empty` classes."""
    generator = torch.Generator().manual_seed(seed)
    prior = random_prior(num_classes, generator=generator, empty=empty)
    return soft_confusion(prior, torch.randn(num_classes, num_classes, generator=generator, dtype=torch.float64))


def random_labels(num_classes: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unbalanced labels and predictions right about half the time; every class is met and once recalled."""
    generator = torch.Generator().manual_seed(seed)
    prior = random_prior(num_classes, generator=generator)
    labels = torch.multinomial(prior, 500, replacement=True, generator=generator)
    right = torch.rand(500, generator=generator) < 0.5
    predictions = torch.where(right, labels, torch.randint(num_classes, (500,), generator=generator))
    every_class = torch.arange(num_classes)
    return torch.cat([every_class, labels]), torch.cat([every_class, predictions])


def numeric_gradient(
    function: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, *, step: float = 1e-6
) -> torch.Tensor:
    """Return the central differences of a scalar function, one entry at a time."""
    gradient = torch.zeros_like(point)
    for index in range(point.numel()):
        shift = torch.zeros_like(point)
        shift.view(-1)[index] = step
        gradient.view(-1)[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


def naive_gains(
    class_means: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gradient: torch.Tensor,
    mix: float,
    smoothing: torch.Tensor | None = None,
) -> torch.Tensor:
    """Move the head for every pair, note how each class mean's logits move, L[i, j, m, l], and contract with M.

    With several means a class, those of the first class come first.
    """
    rows, num_classes = len(class_means), len(weight)
    change = torch.zeros(rows, rows, rows, num_classes, dtype=class_means.dtype)
    for i in range(rows):
        for j in range(rows):
            mixture = mix * class_means[i] + (1 - mix) * class_means[j]
            logits = weight @ mixture if bias is None else weight @ mixture + bias
            label = i * num_classes // rows
            eps = 0 if smoothing is None else float(smoothing[i])
            target = (1 - eps) * torch.eye(num_classes, dtype=logits.dtype)[label] + eps / num_classes
            residual = target - logits.softmax(0)
            weight_change = torch.outer(residual, mixture)
            for m in range(rows):
                change[i, j, m] = weight_change @ class_means[m] + (0 if bias is None else residual)
    return torch.einsum("ijml,ml->ij", change, gradient)


def finite_difference_gains(
    metric: Callable[[torch.Tensor], torch.Tensor],
    prior: torch.Tensor,
    class_means: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    mix: float,
    *,
    step: float = 1e-5,
) -> torch.Tensor:
    """Difference psi(soft confusion at the class means) along -dCE/d(head) of every mixture, the CE by autograd."""
    parameters = [weight] if bias is None else [weight, bias]

    def value(rate: float, direction: list[torch.Tensor]) -> torch.Tensor:
        moved = [parameter - rate * slope for parameter, slope in zip(parameters, direction, strict=True)]
        return metric(soft_confusion(prior, F.linear(class_means, *moved)))

    gains = torch.zeros(len(class_means), len(class_means), dtype=class_means.dtype)
    for i in range(len(class_means)):
        for j in range(len(class_means)):
            mixture = mix * class_means[i] + (1 - mix) * class_means[j]
            leaves = [parameter.clone().requires_grad_() for parameter in parameters]
            loss = F.cross_entropy(F.linear(mixture[None], *leaves), torch.tensor([i]))
            direction = list(torch.autograd.grad(loss, leaves))
            gains[i, j] = (value(step, direction) - value(-step, direction)) / (2 * step)
    return gains


def soft_objective(metric, sharpness: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what tuning ascends with -log(mean exp(-sharpness v)) / sharpness for a minimum, whatever the errors."""

    def soft_minimum(values: torch.Tensor, standard_errors: torch.Tensor) -> torch.Tensor:
        return -(-sharpness * values).exp().mean().log() / sharpness

    return lambda confusion: metric.objective(torch.ones(len(confusion)), soft_minimum)(confusion)
