"""A number of samples shared out over those who hold them, exactly and without favour."""

import torch


def own_share(
    wanted: torch.Tensor, before: torch.Tensor, own: torch.Tensor, everyone: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Return how many of the wanted samples one holder gives; over all holders that adds up to what is wanted.

    Systematic sampling: the wanted samples lie at equal distances in the row of all, from a shift on. With a shift that
    is uniform, a holder gives wanted * own / everyone on average, and always that number rounded up or down.

    Args:
        wanted: int64 [m], at most `everyone`.
        before: int64 [m], what the holders before this one have.
        own: int64 [m], what this one has.
        everyone: int64 [m], what all have.
        shift: int64 [m], the same for all holders, in 0 .. everyone - 1 (0 where nobody has anything).
    """
    parts = everyone.clamp_min(1)
    return (wanted * (before + own) + shift) // parts - (wanted * before + shift) // parts


def random_shift(everyone: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Draw a shift for each row, int64 [m], uniform on 0 .. everyone - 1."""
    return (torch.rand(len(everyone), generator=generator, dtype=torch.float64) * everyone).long()
