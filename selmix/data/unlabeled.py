"""The unlabeled pool of a data set, where it lies elsewhere or shall be left aside."""

from dataclasses import replace
from pathlib import Path

from selmix.data.assembly import audit_labels, digest_of_images, split_of_rows
from selmix.data.cifar import survey_cifar
from selmix.data.findings import Finding, said
from selmix.data.folder import read_folder
from selmix.data.images import ImageData, ImageSplit
from selmix.data.lists import read_list
from selmix.data.manifest import MANIFEST_ENDINGS, read_manifest
from selmix.data.rows import SPLITS, Coded, Rows
from selmix.data.sources import open_images

_LIST_ENDING = ".txt"


def with_pool(data: ImageData, spec: str | None) -> ImageData:
    """Replace the unlabeled pool of a data set by another one, or by none.

    Classes that the source knows for the images are looked up in the class table by name, and serve the audit alone.

    Args:
        data: with or without a pool.
        spec: None; a folder of images, in class folders or not; a manifest: its rows of `unlabeled`, all if it has no
            split column; a list file (.txt); or what else `open_images` takes: its `unlabeled`, or train without one.

    Raises:
        UsageError: for a specification that cannot be understood.
        DataError: naming the first faults, if the pool is missing or faulty.
    """
    splits = {split: part for split, part in data.splits.items() if split != "unlabeled"}
    if spec is not None:
        splits["unlabeled"] = _pool(spec, data.class_names)
    in_order = {split: splits[split] for split in SPLITS if split in splits}
    return replace(data, splits=in_order, digest=digest_of_images(data.class_names, in_order, data.group_names))


def pool_alone(data: ImageData) -> ImageData:
    """Return the unlabeled pool of a data set, which has one, without the rest."""
    splits = {"unlabeled": data.splits["unlabeled"]}
    return replace(data, splits=splits, digest=digest_of_images(data.class_names, splits, data.group_names))


def _pool(spec: str, table: list[str]) -> ImageSplit:
    path = Path(spec)
    findings: list[Finding] = []
    rows: Rows | None
    if path.suffix.lower() in MANIFEST_ENDINGS:
        manifest = read_manifest(path, root=path.parent, prefix="", findings=findings, only="unlabeled")
        rows = None if manifest is None else manifest["unlabeled"]
    elif path.suffix.lower() == _LIST_ENDING:
        rows = read_list(path, split="unlabeled", root=path.parent, prefix="", findings=findings)
    elif path.is_dir() and not _is_data_set(path):
        rows = read_folder(path, "", "unlabeled", findings)
    else:
        pool = open_images(spec)
        part = pool.splits.get("unlabeled", pool.splits["train"]).as_pool()
        classes = None if part.audit is None else Coded([*pool.class_names, ""], part.audit)  # -1 is the last
        return replace(part, audit=None if classes is None else audit_labels(classes, table))
    said(findings, spec)
    assert rows is not None, "rows are missing only where a finding says why"
    return split_of_rows(rows, table, [])


def _is_data_set(folder: Path) -> bool:
    """Return whether it has splits, of which one is meant."""
    return any((folder / name).exists() for name in ("train", "data.toml")) or survey_cifar(folder) is not None
