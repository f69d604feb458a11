"""Bytes of a file of an image, opened by Pillow alone, and what is wrong where they are none."""

import os
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from selmix.data.packed import bomb

# Pillow hands EPS to Ghostscript, which runs it, and the others to whatever a program has registered
_FOREIGN = ("EPS", "WMF", "BUFR", "GRIB", "HDF5")
_PIXEL_BYTES = 4  # in memory


def open_image(content: Path | BinaryIO) -> Image.Image:
    """Open an image of any format that is read without another program; no pixel is read yet.

    Raises:
        Image.DecompressionBombError: if it is too large for its file, or for Pillow.
        OSError: and what else Pillow raises on foreign bytes.
    """
    size = content.stat().st_size if isinstance(content, Path) else content.seek(0, os.SEEK_END)
    image = Image.open(content, formats=_formats())
    fault = bomb(size, image.width * image.height * _PIXEL_BYTES)
    if fault:
        image.close()
        raise Image.DecompressionBombError(f"its {image.width * image.height} pixels {fault}")
    return image


@cache
def _formats() -> list[str]:
    Image.preinit()  # the common ones come first
    Image.init()
    return [name for name in Image.OPEN if name not in _FOREIGN]


def unreadable(error: Exception) -> str:
    """Return why an image cannot be read, for people, of what Pillow raised."""
    if isinstance(error, UnidentifiedImageError):
        return "no image in a format that is known"
    if isinstance(error, Image.DecompressionBombError):
        return str(error).partition(", could be")[0].replace("Image", "its", 1).replace("limit", "the limit", 1)
    return getattr(error, "strerror", None) or (str(error).splitlines() or ["it is damaged"])[0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; 16-bit grey is scaled down, where Pillow would clip it to white.

    Raises:
        ValueError: for floating-point pixels, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")
