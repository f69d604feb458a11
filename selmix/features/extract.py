"""Feature extraction: each image goes through the frozen backbone once."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from selmix.data.images import ImageSplit
from selmix.errors import DataError
from selmix.features.blocks import DTYPES
from selmix.features.loading import Batch, Batches, Task, read_ahead

if TYPE_CHECKING:
    from selmix.backbones import Backbone  # timm takes a while to import, and ready features need none

Track = Callable[[Iterable[int], str, int], Iterable[int]]

_MOST_THREADS = 16  # forward passes at the same time; more threads than that share them
# most images of a batch, and most pixels of one of its channels: on a CPU so few that the memory of a layer is used
# again by the next one; where it goes back to the system meanwhile, a quarter of the time goes into page faults
_BATCH = {"cpu": (128, 1 << 18), "gpu": (256, 1 << 24)}


@dataclass(frozen=True)
class Engine:
    """A backbone on its device, ready to run.

    Attributes:
        backbone: frozen.
        device: where it runs.
        dtype: of the features: float32 is computed as such, bfloat16 under autocast; float16 under autocast on CUDA and
            in float32 elsewhere.
    """

    backbone: "Backbone"
    device: torch.device
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Bring the model to the device, in the layout that convolutions like."""
        self.backbone.model.to(self.device).to(memory_format=torch.channels_last)

    @property
    def transform(self) -> Callable[[Image.Image], torch.Tensor]:
        """Return what a decoding process does: uint8 pixels where they can be normalised here, by the batch."""
        return self.backbone.pixels or self.backbone.transform

    def sample(self) -> torch.Tensor:
        """Return what `transform` makes of an image, a black one."""
        return self.transform(Image.new("RGB", (32, 32)))

    def width(self) -> int:
        """Return d."""
        return self.forward(self.sample()[None]).shape[1]

    def batch_size(self) -> int:
        """Return the number of images of a batch, a power of two.

        It depends on the size of images and the device alone: the last bits of features may change with it.
        """
        height, width = self.sample().shape[1:]
        most, pixels = _BATCH["cpu" if self.device.type == "cpu" else "gpu"]
        fitting = max(1, pixels // (height * width))
        return min(1 << (fitting.bit_length() - 1), most)

    @property
    def _computed(self) -> torch.dtype | None:
        """Return the dtype of autocast; None where all is float32."""
        if self.dtype == "bfloat16" or (self.dtype == "float16" and self.device.type == "cuda"):
            return DTYPES[self.dtype]
        return None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images, uint8 or normalised [b, 3, h, w], to features in the dtype [b, d], on the CPU."""
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=self._computed, enabled=self._computed is not None),
        ):
            normal = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            if normal.dtype == torch.uint8:
                # (x / 255 - mean) / std, in place: new memory costs more than the arithmetic
                std = torch.tensor(list(self.backbone.preprocessing["std"]), device=self.device).view(-1, 1, 1)
                mean = torch.tensor(list(self.backbone.preprocessing["mean"]), device=self.device).view(-1, 1, 1)
                normal = normal.float().mul_(1 / (255 * std)).sub_(mean / std)
            return self.backbone.model(normal).float().to(DTYPES[self.dtype]).cpu()

    def features(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, torch.Tensor], None, None]:
        """Yield every batch with its features, in order; on a CPU, several at a time, each on a thread of its own.

        One thread a batch beats many threads in each layer, and features do not depend on the number of threads.

        Raises:
            RuntimeError: if the forward passes changed the backbone, which is a fault of the model's code.
        """
        from selmix.backbones import checksum

        before = checksum(self.backbone.model)
        with _divided_threads(self.device) as at_a_time, ThreadPoolExecutor(at_a_time) as pool:
            under_way: deque[tuple[Batch, Future[torch.Tensor]]] = deque()
            for batch in batches:
                under_way.append((batch, pool.submit(self.forward, batch.pixels)))
                if len(under_way) > at_a_time:
                    done, future = under_way.popleft()
                    yield done, future.result()
            for done, future in under_way:
                yield done, future.result()
        if checksum(self.backbone.model) != before:
            raise RuntimeError(f"the backbone {self.backbone.name} changed while it was frozen")


@contextmanager
def _divided_threads(device: torch.device) -> Iterator[int]:
    """Give each forward pass on a CPU one thread, and return how many may run at a time."""
    threads = torch.get_num_threads()
    at_a_time = min(threads, _MOST_THREADS) if device.type == "cpu" else 1
    if device.type == "cpu":
        torch.set_num_threads(threads // at_a_time)
    try:
        yield at_a_time
    finally:
        torch.set_num_threads(threads)


def resolved_dtype(dtype: str, device: torch.device) -> str:
    """Return the dtype that `auto` stands for: bfloat16 where the device computes it by itself, else float32."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"


class Progress:
    """A progress bar that is moved by several images at a time."""

    def __init__(self, track: Track | None, total: int) -> None:
        self._positions = iter(track(range(total), "features", total)) if track else None

    def advance(self, images: int) -> None:
        """Move on by so many images."""
        if self._positions is not None:
            for _ in range(images):
                next(self._positions, None)

    def close(self) -> None:
        """Take the bar away."""
        if self._positions is not None:
            next(self._positions, None)


def extract_features(
    backbone: "Backbone",
    split: ImageSplit,
    *,
    device: torch.device,
    batch_size: int | None = None,
    workers: int = 0,
    track: Track | None = None,
) -> torch.Tensor:
    """Return the features of a split's images, float32 [n, d] on the CPU, in the order of `split.ids`; all in memory.

    Args:
        backbone: frozen; its parameters and buffers are checked to be the same afterwards.
        split: the images.
        device: where the backbone runs.
        batch_size: images a forward pass; by the size of images, if not given.
        workers: processes that decode; 0 for none.
        track: wraps the loop over images to show progress: (positions, description, total) -> positions.

    Raises:
        DataError: if an image cannot be read.
        RuntimeError: if the forward passes changed the backbone, which is a fault of the model's code.
    """
    blocks = []
    engine = Engine(backbone, device)
    with closing(feature_batches(engine, split, batch_size=batch_size, workers=workers, track=track)) as results:
        for _, features, faults in results:
            for fault in faults.values():
                raise DataError(fault)
            blocks.append(features)
    return torch.cat(blocks)


def feature_batches(
    engine: Engine, split: ImageSplit, *, batch_size: int | None = None, workers: int = 0, track: Track | None = None
) -> Generator[tuple[int, torch.Tensor, dict[int, str]], None, None]:
    """Yield the features [b, d] of a split's images in order, each batch with the position of its first image.

    The third is why images of the batch could not be read, by their place in it; their features mean nothing. The
    other arguments are those of `extract_features`.
    """
    tasks = [Task("", range(len(split.ids)))]
    batches = Batches({"": split}, tasks, engine.transform, batch_size=batch_size or engine.batch_size())
    progress, first = Progress(track, len(split.ids)), 0
    decoded = read_ahead(batches, workers=workers, pinned=engine.device.type == "cuda")
    with closing(decoded), closing(engine.features(decoded)) as results:
        for batch, features in results:
            yield first, features, batch.faults
            first += len(features)
            progress.advance(len(features))
    progress.close()
