"""The layout of a feature cache on disk: its key, its folder, its sidecar."""

import hashlib
import io
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from selmix.data.images import ImageData, file_of
from selmix.errors import DataError
from selmix.features.blocks import DTYPES, Absent, Torn, read_sealed, record_path, write_sealed
from selmix.heads import LinearHead

logger = logging.getLogger("selmix")

FORMAT = 2
SIDECAR = "cache.json"
EXTRACTED = ("train", "val", "test", "unlabeled")
VIEWED = ("train", "unlabeled")  # what is learnt from
_FEWEST_ROWS, _MOST_BLOCKS = 1024, 16384
_MOST_VIEWS = 10_000  # that a sidecar of others may claim


@dataclass(frozen=True)
class Identity:
    """What the features in a cache depend on; two caches with the same identity hold the same features.

    Attributes:
        backbone: digest of weights and preprocessing.
        data: digest of classes, ids and labels; the content of files is checked image by image.
        dtype: of the numbers on disk, and how they are computed.
        views: augmented views of each image of train and of the unlabeled pool.
        view_seed: of their augmentation.
    """

    backbone: str
    data: str
    dtype: str
    views: int = 0
    view_seed: int = 0

    @property
    def key(self) -> str:
        """Return the sha256 of it all."""
        return hashlib.sha256(json.dumps([FORMAT, vars(self)], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Part:
    """The rows of a split, or of a view of it, in blocks.

    Attributes:
        split: whose images they are of.
        view: 0 for the images themselves.
        rows: n.
    """

    split: str
    view: int
    rows: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.split}.view{self.view}" if self.view else self.split

    @property
    def height(self) -> int:
        """Return the rows of a block, the last one apart: at least 1,024, and so many that blocks stay countable."""
        return max(_FEWEST_ROWS, 1 << (-(-self.rows // _MOST_BLOCKS) - 1).bit_length())

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.rows // self.height)

    def rows_of(self, number: int) -> range:
        """Return the rows of a block."""
        return range(number * self.height, min((number + 1) * self.height, self.rows))


@dataclass(frozen=True)
class Sidecar:
    """What `cache.json` says.

    Attributes:
        identity: what the features depend on.
        about: the same in words, for people: names of backbone and data, versions, device.
        width: d.
        sizes: split -> n.
        class_names: the class table.
        group_names: the groups of samples.
        files: name of a file of labels (of the pool: for the audit), groups, ids or the head -> its sha256.
        complete: whether all blocks were there once.
        origin: backbone and images, so that they can be opened again; empty in older caches.
    """

    identity: Identity
    about: dict[str, Any]
    width: int
    sizes: dict[str, int]
    class_names: list[str]
    group_names: list[str]
    files: dict[str, str]
    complete: bool = False
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Return all that has blocks."""
        plain = [Part(name, 0, rows) for name, rows in self.sizes.items()]
        viewed = [name for name in VIEWED if name in self.sizes]
        views = range(1, self.identity.views + 1)
        return plain + [Part(name, view, self.sizes[name]) for name in viewed for view in views]

    @property
    def bytes(self) -> int:
        """Return what all rows take on disk."""
        return sum(part.rows for part in self.parts) * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Return what one row takes."""
        return self.width * DTYPES[self.identity.dtype].itemsize

    @property
    def possible(self) -> bool:
        """Whether blocks can be looked for where it says."""
        own = self.identity
        known = self.sizes.keys() <= set(EXTRACTED) and own.dtype in DTYPES and 0 <= own.views <= _MOST_VIEWS
        return known and self.width > 0 and min(self.sizes.values(), default=0) >= 0

    def write(self, folder: Path) -> None:
        """Write it."""
        write_sealed(folder / SIDECAR, {"format": FORMAT, "key": self.identity.key} | _plain(self))


_SIDECAR = TypeAdapter(Sidecar)


def _plain(sidecar: Sidecar) -> dict[str, Any]:
    return vars(sidecar) | {"identity": vars(sidecar.identity)}


def read_sidecar(folder: Path) -> Sidecar:
    """Read `cache.json` of a folder.

    Raises:
        Torn: if it is missing or damaged.
        DataError: if it is of another format.
    """
    document = read_sealed(folder / SIDECAR)
    if document.pop("format", None) != FORMAT:
        raise DataError(f"{folder} is a feature cache of another version of selmix; extract into another folder")
    try:
        key = document.pop("key")
        sidecar = _SIDECAR.validate_python(document)
    except (KeyError, ValueError) as error:  # the seal tells damage, and not who wrote it
        raise Torn(f"{SIDECAR} is damaged") from error
    if sidecar.identity.key != key or not sidecar.possible:
        raise Torn(f"{SIDECAR} is damaged")
    return sidecar


def known_sidecar(folder: Path, identity: Identity, *, named: bool) -> Sidecar | None:
    """Return the sidecar of a folder if it holds the features of this identity, whole or in part.

    Args:
        folder: of the cache.
        identity: what the features shall depend on.
        named: whether a person chose the folder; one that is named by its key may be mended.

    Returns:
        None if there is nothing yet.

    Raises:
        DataError: if it holds something else, or what it holds cannot be told.
    """
    try:
        sidecar = read_sidecar(folder)
    except Absent:
        others = [path.name for path in folder.iterdir() if not _may_be_ours(path)] if folder.is_dir() else []
        if others and named:
            raise DataError(f"{folder} holds {others[0]}, but no feature cache; name a new folder") from None
        return None
    except Torn as error:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; name a folder") from error
        if not named or _has_blocks_of(identity, folder):
            logger.warning("%s: %s; written anew", folder, error)
            return None
        raise DataError(
            f"{folder}: {error}, or belongs to something else; remove the folder or name another one"
        ) from error
    theirs, ours = vars(sidecar.identity), vars(identity)
    differing = [
        name if len(str(ours[name])) > 20 else f"{name} ({theirs[name]} there, {ours[name]} asked for)"
        for name in ours
        if theirs[name] != ours[name]
    ]
    if differing:
        raise DataError(
            f"{folder} holds other features; what differs: {', '.join(differing)}"
            f" (there: {', '.join(f'{name} {value}' for name, value in sidecar.about.items())});"
            " name another folder, or remove this one"
        )
    return sidecar


def _may_be_ours(path: Path) -> bool:
    """Return whether it is what a process leaves that is killed before the sidecar is there."""
    return path.name.startswith(".") or (path.is_dir() and not any(path.iterdir()))


def _has_blocks_of(identity: Identity, folder: Path) -> bool:
    """Return whether the first block of train is one of these features."""
    try:
        return read_sealed(record_path(folder / "train", 0)).get("key") == identity.key
    except Torn:
        return False


def default_folder(identity: Identity, images: ImageData) -> Path:
    """Return the folder under the cache root: by what the features depend on, and by where the images lie.

    Two data sets may have the same classes, ids and labels, and so may two pools.
    """
    parts = [images.splits[name] for name in VIEWED if name in images.splits]
    firsts = [file_of(part.images, 0) for part in parts if part.ids]
    places = " ".join("" if first is None else os.path.abspath(first) for first in firsts)
    return cache_root() / hashlib.sha256(f"{identity.key} {places}".encode()).hexdigest()[:20]


def cache_root() -> Path:
    """Return the folder of all caches: $SELMIX_CACHE, else $XDG_CACHE_HOME/selmix, else ~/.cache/selmix."""
    own = os.environ.get("SELMIX_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selmix"


def facts(images: ImageData, head: LinearHead | None) -> dict[str, bytes]:
    """Return the content of the files beside the blocks: ids and all labels of every split, and the head."""
    files: dict[str, bytes] = {}
    for name in EXTRACTED:
        if name in images.splits:
            split = images.splits[name]
            files[f"{name}.ids.json"] = json.dumps(split.ids).encode()
            for kind in ("labels", "groups", "audit"):
                numbers = getattr(split, kind)
                if numbers is not None:
                    files[f"{name}.{kind}.npy"] = _npy(numbers)
    if head is not None:
        files |= {f"head.{part}.npy": _npy(getattr(head, part).float().numpy()) for part in ("weight", "bias")}
    return files


def read_fact(folder: Path, name: str, sidecar: Sidecar) -> Any:
    """Return a file that `facts` made: an array, or a list of ids; None if the cache has none.

    Raises:
        Torn: if it is missing or damaged.
    """
    if name not in sidecar.files:
        return None
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise Torn(f"{name} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != sidecar.files[name]:
        raise Torn(f"{name} is damaged")
    return json.loads(content) if name.endswith(".json") else np.load(io.BytesIO(content))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
