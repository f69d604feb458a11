"""Processes that fill a feature cache slowly, so that tests can kill them."""

import os
import signal
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from selmix.backbones import Backbone
from selmix.data.images import ArrayImages, ImageData, ImageSplit
from selmix.features import cache
from selmix.features.filling import Filling, fill_cache
from selmix.ranks import ALONE, Ranks


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1).contiguous()


class Slow(nn.Module):
    """A random projection that takes its time, and that may kill its process in the middle of its work."""

    def __init__(self, pause: float = 0.0, calls_to_live: int = -1):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3 * 8 * 8, 16, generator=generator))
        self.pause, self.calls_to_live = pause, calls_to_live

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        if self.calls_to_live == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls_to_live -= 1
        return x.flatten(1) @ self.weight


def images(counts: dict[str, int]) -> ImageData:
    """Return images of noise in memory."""
    generator = np.random.default_rng(0)
    splits = {
        name: ImageSplit(
            [f"{name}/{index}" for index in range(count)],
            np.arange(count) % 2,
            ArrayImages(generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)),
        )
        for name, count in counts.items()
    }
    return ImageData(["ant", "bee"], splits, "digest")


def slow_fill(
    folder: Path,
    *,
    pause: float = 0.0,
    calls_to_live: int = -1,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> int:
    """Fill a cache in 69 blocks; return the number of images that were extracted."""
    torch.set_num_threads(1)
    preprocessing = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    net = Backbone("slow", Slow(pause, calls_to_live), pixels_of, "weights", preprocessing, pixels=pixels_of)
    given = images({"train": 101, "val": 10, "test": 55})
    filling = Filling(given, net, torch.device("cpu"), views=1, workers=workers, ranks=ranks)
    with mock.patch.object(cache, "_FEWEST_ROWS", 4):
        return fill_cache(filling, folder).images


if __name__ == "__main__":  # under torchrun: the second of two processes dies after ten blocks
    import sys

    from selmix.ranks import join_ranks

    joined = join_ranks()
    slow_fill(Path(sys.argv[1]), pause=0.01, calls_to_live=10 if joined.rank == 1 else -1, ranks=joined)
