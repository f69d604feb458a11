"""Decoding images in worker processes: batches that never cross the border of a block, in order."""

import hashlib
import io
import logging
import os
import warnings
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from selmix.data.images import FileImages, ImageSource, ImageSplit, Stamp, origin_of
from selmix.errors import DataError
from selmix.features.views import view_of

logger = logging.getLogger("selmix")

_PREFETCHED = 2  # batches a worker is ahead
_FEW = 512  # images for which no process is worth starting
_MOST_WORKERS = 16

_Made = TypeVar("_Made", covariant=True)


class Numbered(Protocol[_Made]):
    """What a number stands for, 0..len - 1; it can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> _Made: ...


class Reading(NamedTuple):
    """An image, or why there is none, and the file that was read."""

    image: Image.Image | None
    fault: str
    stamp: Stamp | None
    digest: str | None


class Batch(NamedTuple):
    """Decoded images of one block: pixels [b, 3, h, w], and what was read for each; `faults` names bad positions."""

    task: int
    pixels: torch.Tensor
    stamps: list[Stamp | None]
    digests: list[str | None]
    faults: dict[int, str]


@dataclass(frozen=True)
class Task:
    """A block that is to be made: some images of a split, or a view of them.

    Attributes:
        split: name of the split.
        rows: which of its images.
        view: 0 for the images themselves.
        view_seed: of the augmentation.
    """

    split: str
    rows: range
    view: int = 0
    view_seed: int = 0


def read_image(source: ImageSource, position: int) -> Reading:
    """Read an image; a file is read once, for its pixels and its digest alike."""
    source, position = origin_of(source, position)
    stamp = digest = None
    try:
        # the stamp comes first: whoever writes to the file later changes it
        stamp = source.stamp(position)
        if isinstance(source, FileImages):
            try:
                content = source.paths[position].read_bytes()
            except OSError as error:
                raise DataError(
                    f"unreadable image {source.paths[position]} ({error.strerror}); bring it back, or mend its rights"
                ) from error
            digest = hashlib.sha256(content).hexdigest()
            return Reading(source.decode(position, io.BytesIO(content)), "", stamp, digest)
        digest = None if stamp is None else source.digest(position)
        return Reading(source.open(position), "", stamp, digest)
    except DataError as error:
        return Reading(None, str(error), stamp, digest)


class Batches(Dataset[Batch]):
    """All batches of some tasks, by number."""

    def __init__(
        self,
        splits: dict[str, ImageSplit],
        tasks: Sequence[Task],
        transform: Callable[[Image.Image], torch.Tensor],
        *,
        batch_size: int,
    ) -> None:
        self.splits, self.tasks, self.transform, self.batch_size = splits, tasks, transform, batch_size
        self.ends = list(accumulate(-(-len(task.rows) // batch_size) for task in tasks))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, number: int) -> Batch:
        position = bisect_right(self.ends, number)
        task = self.tasks[position]
        first = (number - (self.ends[position - 1] if position else 0)) * self.batch_size
        split = self.splits[task.split]
        pixels, readings = [], []
        for row in task.rows[first : first + self.batch_size]:
            reading = read_image(split.images, row)
            # a bad image leaves a black one: the others' batch keeps its size, and with it their bits
            own = self.transform(reading.image or Image.new("RGB", (32, 32)))
            own = view_of(own, split.ids[row], task.view, seed=task.view_seed)
            pixels.append(own.permute(1, 2, 0))  # channels last, as convolutions like it
            readings.append(reading)
        return Batch(
            position,
            torch.stack(pixels).permute(0, 3, 1, 2),
            [reading.stamp for reading in readings],
            [reading.digest for reading in readings],
            {row: reading.fault for row, reading in enumerate(readings) if reading.image is None},
        )


def read_ahead(batches: Numbered[_Made], *, workers: int, pinned: bool = False) -> Generator[_Made, None, None]:
    """Yield all batches in order, decoded in worker processes; in this one if they cannot start, or die.

    Args:
        batches: what to decode.
        workers: processes; 0 for none.
        pinned: whether tensors go into memory from which a GPU can fetch them by itself.
    """
    done = 0
    if workers and len(batches):
        # what comes out is the same with and without workers, so one that dies costs speed alone
        loader = DataLoader(
            cast(Dataset[_Made], batches),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_PREFETCHED,
            pin_memory=pinned,
            generator=torch.Generator(),  # else the seeds of the workers are drawn from the global stream
        )
        try:
            with warnings.catch_warnings():
                # the user asked for so many; and forking beside threads is safe here, as no worker uses these
                warnings.filterwarnings("ignore", message="This DataLoader will create")
                warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
                decoded = iter(loader)
            for batch in decoded:
                yield batch
                done += 1
            return
        except (OSError, RuntimeError, AttributeError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            logger.warning("decoding goes on without worker processes: %s", reason)
    for number in range(done, len(batches)):
        yield batches[number]


def default_workers(images: int, *, processes: int) -> int:
    """Return how many workers decode so many images on this machine, one of several processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if images < _FEW else max(1, min(cores // processes, _MOST_WORKERS))
