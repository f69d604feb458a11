"""Feature extraction: each image goes through the frozen backbone once."""

from collections.abc import Callable, Iterable

import torch

from selmix.backbones import Backbone, checksum
from selmix.data.images import ImageSplit

Track = Callable[[Iterable[int], str, int], Iterable[int]]


def extract_features(
    backbone: Backbone, split: ImageSplit, *, device: torch.device, batch_size: int = 256, track: Track | None = None
) -> torch.Tensor:
    """Return the features of a split's images, float32 [n, d] on the CPU, in the order of `split.ids`.

    Args:
        backbone: frozen; its parameters and buffers are checked to be the same afterwards.
        split: the images.
        device: where the backbone runs.
        batch_size: images a forward pass.
        track: wraps the loop over images to show progress: (positions, description, total) -> positions.

    Raises:
        DataError: if an image cannot be read.
        RuntimeError: if the forward passes changed the backbone, which is a fault of the model's code.
    """
    model = backbone.model.to(device).to(memory_format=torch.channels_last)
    before = checksum(model)
    positions: Iterable[int] = range(len(split.ids))
    if track:
        positions = track(positions, "features", len(split.ids))
    blocks, batch = [], []
    with torch.inference_mode():
        for position in positions:
            batch.append(backbone.transform(split.images.open(position)))
            if len(batch) == batch_size or position == len(split.ids) - 1:
                images = torch.stack(batch).to(device, memory_format=torch.channels_last)
                blocks.append(model(images).float().cpu())
                batch.clear()
    if checksum(model) != before:
        raise RuntimeError(f"the backbone {backbone.name} changed while it was frozen")
    return torch.cat(blocks)
