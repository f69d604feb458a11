"""The images that somebody names on the command line: files, folders, globs and manifests."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from selmix.data.columns import Unusable, read_columns
from selmix.data.findings import Finding, said
from selmix.data.folder import read_folder
from selmix.data.images import FileImages, ImageSplit
from selmix.data.listing import image_ids, missing_files, missing_remedy, refuse_strays
from selmix.data.manifest import MANIFEST_ENDINGS
from selmix.data.rows import PathsUnder
from selmix.errors import DataError, UsageError
from selmix.shipped import PREFIX

logger = logging.getLogger("selmix")

_WILD = ("*", "?", "[")


def named_images(words: Sequence[str], *, skip_bad: bool = False) -> ImageSplit:
    """Return the images that words name, in their order, without labels.

    A word is an image file; a folder, with all images in it at any depth; a glob, with `**` for folders at any depth;
    or a .csv or .parquet manifest with a column `path`, relative to the manifest's folder. `ids` are the names that can
    be opened from the working directory, and for a manifest those that stand in it. With `skip_bad` a file that a
    manifest names may be missing, and is a bad image when it is read.

    Raises:
        UsageError: if a pattern matches nothing.
        DataError: if there is no such file, or a folder or manifest cannot be read, or has no images.
    """
    ids: list[str] = []
    files: list[str] = []
    for word in words:
        own_ids, own_files = _of_word(word, skip_bad)
        ids += own_ids
        files += own_files
    return ImageSplit(ids, None, FileImages(PathsUnder(Path(), files)))


def _of_word(word: str, skip_bad: bool) -> tuple[list[str], list[str]]:
    """Return names to show and files to open."""
    path = Path(word).expanduser()
    if path.is_dir():
        found = _of_folder(path)
    elif path.is_file():
        if path.suffix.lower() in MANIFEST_ENDINGS:
            return _of_manifest(path, skip_bad)
        found = [str(path)]
    elif any(mark in word for mark in _WILD):
        found = _of_glob(str(path))
    elif word.startswith(PREFIX):
        raise UsageError(f"{word} is a data set in memory; predict takes files, folders, globs and manifests")
    else:
        raise DataError(f"no such file or folder: {word}; check the path")
    return found, found


def _of_folder(folder: Path) -> list[str]:
    findings: list[Finding] = []
    ids = read_folder(folder, "", "unlabeled", findings).ids
    said(findings if ids else [own for own in findings if own.severity == "error"], str(folder))
    if not ids:
        raise DataError(f"{folder} has no images; they end in {', '.join(IMG_EXTENSIONS)}")
    return [str(folder / name) for name in ids]


def _of_glob(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    found = [name for name in matches if name.lower().endswith(IMG_EXTENSIONS) and Path(name).is_file()]
    others = len(matches) - len(found)
    if not found:
        what = f"{others} name(s), none of them an image" if others else "nothing"
        raise UsageError(f"{pattern} matches {what}; images end in {', '.join(IMG_EXTENSIONS)}")
    if others:
        logger.warning("ignored %d name(s) that %s matches and that are no images", others, pattern)
    return found


def _of_manifest(path: Path, skip_bad: bool) -> tuple[list[str], list[str]]:
    findings: list[Finding] = []
    try:
        columns = read_columns(path, findings, required=("path",))
    except Unusable as error:
        raise DataError(f"{path} {error.args[0]}; {error.args[1]}") from error
    names = columns.of["path"].to_pylist()
    ids = image_ids(names, "", None)
    astray = refuse_strays(columns.listing, np.arange(len(ids)), names, ids, root=path.parent)
    gone = [] if skip_bad or astray else missing_files(path.parent, ids)
    if gone:
        what = f"no such file, the first is {path.parent / ids[gone[0]]}"
        columns.listing.refuse(gone, "missing file", what, missing_remedy(path.parent, ids[gone[0]]))
    said(
        [own for own in findings if own.kind != "columns"], str(path)
    )  # a manifest to predict may hold anything beside
    if not names:
        raise DataError(f"{path} has no rows; every row names an image under `path`")
    return names, [str(path.parent / name) for name in ids]
