"""Samplers: which images an epoch of training goes through, in which order."""

from typing import Literal

import torch

Sampler = Literal["instance", "square_root", "class_balanced", "progressive", "class_aware"]


def epoch_order(
    labels: torch.Tensor, sampler: Sampler, *, progress: float, generator: torch.Generator
) -> torch.Tensor:
    """Return the positions of an epoch's images, int64 [n]."""
    return torch.randperm(len(labels), generator=generator)
