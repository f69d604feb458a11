"""Every image read once, in worker processes: what it is, its digest, and a thumbnail to compare it by."""

import hashlib
import io
import logging
import os
import struct
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from selmix.data.decoding import open_image, to_rgb, unreadable
from selmix.data.images import ImageData, ImageSource, ImageSplit, file_of
from selmix.errors import DataError
from selmix.features.extract import Track

logger = logging.getLogger("selmix")

SIDE = 12  # of a thumbnail
FACTS = np.dtype(
    [
        ("readable", "?"),
        ("digest", "u1", 32),
        ("width", "i4"),
        ("height", "i4"),
        ("mode", "U8"),
        ("animated", "?"),
        ("orientation", "u1"),
        ("spread", "f4"),
        ("thumbnail", "u1", (SIDE, SIDE, 3)),
    ]
)
_BLOCK = 64  # images a worker reads between two reports
_FEW_BLOCKS = 8  # below which workers are not worth their start
_ORIENTATION = 0x0112


class Fault(NamedTuple):
    """Why an image cannot be read."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What was read of a split.

    Attributes:
        facts: of type FACTS, [n].
        faults: position -> why it cannot be read.
    """

    facts: np.ndarray
    faults: dict[int, Fault]


def read_images(split: ImageSplit, *, name: str, workers: int | None = None, track: Track | None = None) -> Reading:
    """Read every image of a split to its last byte.

    Args:
        split: the images.
        name: of the split, for progress.
        workers: processes; None for one a core.
        track: wraps the loop over images to show progress.

    Raises:
        DataError: if a worker process dies, as it does when memory runs out.
    """
    blocks = _Blocks(split.images)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(blocks) < _FEW_BLOCKS or workers < 2 or file_of(split.images, 0) is None:
        workers = 0
    facts = np.zeros(len(split.ids), FACTS)
    faults: dict[int, Fault] = {}
    positions = range(len(split.ids))
    shown = iter(positions if track is None else track(positions, f"reading {name}", len(positions)))
    done = 0
    try:
        loader = DataLoader(blocks, batch_size=None, num_workers=workers, collate_fn=_as_is)
        for own, own_faults in loader:
            facts[done : done + len(own)] = own
            faults |= {done + position: fault for position, fault in own_faults.items()}
            done += len(own)
            for _ in zip(range(len(own)), shown, strict=False):
                pass
    except RuntimeError as error:
        raise DataError(
            f"a worker process died reading {name}, near {split.ids[min(done, len(split.ids) - 1)]}; "
            "is there enough memory for the images there?"
        ) from error
    for _ in shown:
        pass
    return Reading(facts, faults)


class _Blocks(Dataset[tuple[np.ndarray, dict[int, Fault]]]):
    """The images of a source, some at a time; worker processes get a copy."""

    def __init__(self, images: ImageSource) -> None:
        self._images = images

    def __len__(self) -> int:
        return -(-len(self._images) // _BLOCK)

    def __getitem__(self, block: int) -> tuple[np.ndarray, dict[int, Fault]]:
        start = block * _BLOCK
        facts = np.zeros(min(_BLOCK, len(self._images) - start), FACTS)
        faults = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about odd files: what matters here is a finding
            for offset in range(len(facts)):
                fault = _read(self._images, start + offset, facts[offset])
                if fault is not None:
                    faults[offset] = fault
        return facts, faults


def _as_is(block: object) -> object:
    return block


def _read(images: ImageSource, position: int, facts: np.void) -> Fault | None:
    path = file_of(images, position)
    if path is None:
        try:
            facts["digest"] = np.frombuffer(bytes.fromhex(images.digest(position)), np.uint8)
            image = images.open(position)
        except DataError as error:
            return Fault("unreadable image", str(error))
        _look(image, image, facts)
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        return Fault("unreadable file", error.strerror or "the disk does not give it")
    facts["digest"] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    if not content:
        return Fault("empty file", "it has zero bytes")
    try:
        with open_image(io.BytesIO(content)) as image:
            rgb = to_rgb(image)  # before anything else that loads pixels, as Pillow raises on damage only once
            facts["animated"] = getattr(image, "n_frames", 1) > 1
            facts["orientation"] = _orientation(image)
            _look(image, rgb, facts)
    except Image.DecompressionBombError as error:
        return Fault("decompression bomb", unreadable(error))
    except MemoryError:
        return Fault("unreadable image", "memory does not suffice")
    except Exception as error:  # whatever the readers raise on foreign bytes
        kind = "truncated image" if "truncated" in str(error).lower() else "unreadable image"
        return Fault(kind, unreadable(error))
    return None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or it makes no sense."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _look(image: Image.Image, rgb: Image.Image, facts: np.void) -> None:
    facts["width"], facts["height"], facts["mode"] = *image.size, image.mode
    facts["orientation"] = facts["orientation"] or 1
    facts["thumbnail"] = np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    facts["spread"] = facts["thumbnail"].std((0, 1)).max()
    facts["readable"] = True


def place_of(name: str, split: ImageSplit, position: int) -> str:
    """Return how findings call an image: its file, or its split and id."""
    own = split.ids[position]
    return str(file_of(split.images, position) or (own if own.startswith(f"{name}/") else f"{name}:{own}"))


def class_of(data: ImageData, name: str, position: int) -> str:
    """Return the class of an image of the split `name`; empty for an unlabeled one."""
    labels = data.splits[name].labels
    return "" if labels is None else data.class_names[labels[position]]
