"""Findings about single images."""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from selmix.check.reading import Reading, class_of, place_of
from selmix.data.findings import Finding, caution, fault
from selmix.data.images import ImageData

SMALLEST = 8  # pixels a side
LONGEST = 4.0  # long side / short side
BLANK = 2.0  # grey levels: standard deviation within a thumbnail
_SKIP = ", or leave it out: finetune --on-bad-image skip"


def image_findings(data: ImageData, readings: dict[str, Reading]) -> Iterator[Finding]:
    """Yield what is wrong or odd about single images, split by split."""
    for split, reading in readings.items():
        yield from _faults(data, split, reading)
        yield from _oddities(data, split, reading.facts)


def _where(data: ImageData, split: str, position: int) -> dict[str, str]:
    path = place_of(split, data.splits[split], position)
    return {"path": path, "split": split, "class_name": class_of(data, split, position)}


def _faults(data: ImageData, split: str, reading: Reading) -> Iterator[Finding]:
    for position, (kind, reason) in sorted(reading.faults.items()):
        where = _where(data, split, position)
        message = f"{where['path']} cannot be read: {reason}"
        match kind:
            case "unreadable file":
                yield fault("unreadable file", message, f"bring it back, or mend its rights{_SKIP}", **where)
            case "empty file":
                yield fault("empty file", message, f"fetch it again, remove it{_SKIP}", **where)
            case "truncated image":
                yield fault("truncated image", message, f"fetch it again, remove it{_SKIP}", **where)
            case "decompression bomb":
                yield fault("decompression bomb", message, f"remove it, scale it down if you trust it{_SKIP}", **where)
            case _:
                yield fault("unreadable image", message, f"replace it, remove it{_SKIP}", **where)


def _oddities(data: ImageData, split: str, facts: np.ndarray) -> Iterator[Finding]:
    width, height = facts["width"].astype(np.int64), facts["height"].astype(np.int64)
    short, long = np.minimum(width, height), np.maximum(width, height)

    def each(odd: np.ndarray, kind: str, message: Callable[[int], str], remedy: str) -> Iterator[Finding]:
        for position in np.flatnonzero(facts["readable"] & odd).tolist():
            yield caution(kind, message(position), remedy, **_where(data, split, position))

    def size(position: int) -> str:
        return f"an image of {width[position]} x {height[position]} pixels"

    def turn(position: int) -> str:
        return f"EXIF orientation {facts['orientation'][position]}: viewers turn it, the backbone sees it unturned"

    yield from each(short < SMALLEST, "small image", size, "is it a placeholder? remove it")
    yield from each(long > LONGEST * short, "long image", size, "the backbone sees a part, or it squeezed: crop it")
    yield from each(width * height > (Image.MAX_IMAGE_PIXELS or np.inf), "huge image", size, "scale it down")
    yield from each(facts["spread"] < BLANK, "blank image", lambda _: "nearly one colour", "look at it; remove it")
    yield from each(facts["animated"], "animated image", lambda _: "several frames, the first is used", "extract it")
    yield from each(facts["orientation"] > 1, "turned image", turn, "turn its pixels (mogrify -auto-orient)")
