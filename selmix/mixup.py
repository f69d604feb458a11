"""Mixing of examples: input mixup for stage one, feature mixup for stage two."""

import torch


def mix_inputs(
    images: torch.Tensor, labels: torch.Tensor, *, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mix a batch with a permutation of itself, one coefficient for the batch.

    Args:
        images: [b, c, h, w].
        labels: [b] integer labels.
        alpha: parameter of the symmetric Beta law of the coefficient; > 0.
        generator: source of the coefficient and the permutation (on the CPU).

    Returns:
        The mixed images [b, c, h, w], the labels [b] of the permuted partners, and the coefficient lam in [0, 1] of the
        original: the loss is lam * CE(logits, labels) + (1 - lam) * CE(logits, partner_labels).

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    concentration = torch.full((2,), alpha, dtype=torch.float64)
    gammas = torch._standard_gamma(concentration, generator=generator)
    mix = float(gammas[0] / gammas.sum())
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    return mix * images + (1 - mix) * images[partner], labels[partner], mix


def mix_features(kept: torch.Tensor, partner: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Return mix * kept + (1 - mix) * partner; the label of the mixture is that of `kept`.

    Args:
        kept: [..., d] features of the samples that keep their label (class i of the pair).
        partner: [..., d] features of their partners (class j).
        mix: [...] coefficients lam of `kept`.

    Source: SelMix, ICLR 2024, section on feature mixup; the label is not mixed.
    """
    return torch.lerp(partner, kept, mix.unsqueeze(-1))
