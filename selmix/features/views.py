"""Augmented views of an image: the same for an image and a view, whoever makes them and in whatever order."""

import torch

from selmix.seeding import torch_generator

_PADDING = 8  # an eighth of the side


def weak_view(pixels: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Crop an image at a random offset, as if an eighth of its side were added all round by reflection; mirror half.

    Args:
        pixels: [c, h, w].
        generator: source of offset and mirroring.

    Returns:
        [c, h, w].
    """
    height, width = pixels.shape[1:]
    rows, columns = (_reflected(side, generator) for side in (height, width))
    if torch.rand((), generator=generator) < 0.5:
        columns = columns.flip(0)
    return pixels[:, rows[:, None], columns]


def view_of(pixels: torch.Tensor, name: str, view: int, *, seed: int) -> torch.Tensor:
    """Return view 1, 2, ... of the image called `name`, [c, h, w]; view 0 is the image itself."""
    return pixels if view == 0 else weak_view(pixels, generator=torch_generator(seed, f"view {view} of {name}"))


def _reflected(side: int, generator: torch.Generator) -> torch.Tensor:
    """Return the positions that a crop at a random offset reads, int64 [side]; beyond an edge they turn back."""
    padding = side // _PADDING
    positions = torch.arange(side) + int(torch.randint(-padding, padding + 1, (), generator=generator))
    return (side - 1) - ((side - 1) - positions.abs()).abs()
