"""Room on disk: what features need, said and checked beforehand, and what is said when it runs out all the same."""

import logging
import shutil
from pathlib import Path

from selmix.errors import FULL, DataError
from selmix.features.blocks import DTYPES
from selmix.features.cache import Sidecar

logger = logging.getLogger("selmix")

_RECORD_BYTES = 160  # of the record of one image
_ELSEWHERE = "put it elsewhere (extract --out, finetune --cache, or SELMIX_CACHE)"


def check_disk(folder: Path, sidecar: Sidecar, missing: int) -> None:
    """Say what the missing rows need and what there is.

    Raises:
        DataError: if that is too little.
    """
    if not missing:
        return
    need, free = missing * (sidecar.row_bytes + _RECORD_BYTES), shutil.disk_usage(folder).free
    size = DTYPES[sidecar.identity.dtype].itemsize
    words = (
        f"features of {missing:,} images need {shown_bytes(need)}"
        f" ({missing:,} x {sidecar.width} x {size} bytes, and records) in {folder}, where {shown_bytes(free)} are free"
    )
    if need > free:
        raise DataError(f"{words}; {_ELSEWHERE}, or take a smaller --dtype")
    logger.info(words)


def shown_bytes(count: float) -> str:
    """Return a number of bytes for people.

    >>> shown_bytes(1536), shown_bytes(2.5e9)
    ('1.5 kB', '2.5 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def disk_fault(error: OSError, folder: Path) -> str:
    """Return what went wrong with a cache on disk, and what helps."""
    if error.errno in FULL:
        return (
            f"the disk of {folder} is full; what is complete stays: make room and repeat the command, or {_ELSEWHERE}"
        )
    return f"the feature cache {folder} cannot be written ({error.strerror or error}); {_ELSEWHERE}"
