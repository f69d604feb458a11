"""Mixing of examples: input mixup for stage one, feature mixup for stage two."""

import torch


def mix_inputs(images: torch.Tensor, partner: torch.Tensor, mix: float) -> torch.Tensor:
    """Return mix * images + (1 - mix) * partner; the loss is mixed likewise, mix * CE(y) + (1 - mix) * CE(y_partner).

    Args:
        images: [b, c, h, w].
        partner: [b, c, h, w], a permutation of the batch.
        mix: the coefficient lam in [0, 1].

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    return torch.lerp(partner, images, mix)


def mix_features(kept: torch.Tensor, partner: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Return mix * kept + (1 - mix) * partner; the label of the mixture is that of `kept`.

    Args:
        kept: [..., d] features of the samples that keep their label (class i of the pair).
        partner: [..., d] features of their partners (class j).
        mix: [...] coefficients lam of `kept`.

    Source: SelMix, ICLR 2024, section on feature mixup; the label is not mixed.
    """
    return torch.lerp(partner, kept, mix.unsqueeze(-1))
