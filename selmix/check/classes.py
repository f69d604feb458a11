"""How many images every class has in every split, and what follows for the metrics."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from selmix.data.findings import Finding, caution, fault, listed
from selmix.data.folder import read_folder
from selmix.data.images import ImageData
from selmix.data.manifest import MANIFEST_ENDINGS, read_manifest
from selmix.data.rows import Rows
from selmix.metrics.groups import HEAD_ABOVE, TAIL_BELOW

LABELED = ("train", "val", "test")
FEW = 10  # images of a class in val or test below which its recall is rough
MIXED_CLASSES = ("classes", "case twins")  # kinds of findings that say so
Counts = dict[str, dict[str, int]]


def class_counts(data: ImageData) -> Counts:
    """Return split -> class -> images, every class of the table in every labeled split, in the table's order."""
    counts: Counts = {}
    for split in LABELED:
        if split in data.splits:
            labels = data.splits[split].labels
            assert labels is not None
            own = np.bincount(labels, minlength=len(data.class_names)).tolist()
            counts[split] = dict(zip(data.class_names, own, strict=True))
    return counts


def named_counts(spec: str) -> Counts:
    """Return split -> class -> images of a folder or manifest whose splits have no common class table."""
    root = Path(spec)
    found: dict[str, Rows] = {}
    if root.suffix.lower() in MANIFEST_ENDINGS and root.is_file():
        found = read_manifest(root, root=root.parent, prefix="", findings=[]) or {}
    elif root.is_dir() and not (root / "data.toml").exists():
        found = {split: read_folder(root, split, split, []) for split in LABELED if (root / split).is_dir()}
    counts: Counts = {}
    for split, rows in found.items():
        if split in LABELED and rows.classes is not None:
            own = np.bincount(rows.classes.codes, minlength=len(rows.classes.names)).tolist()
            counts[split] = dict(zip(rows.classes.names, own, strict=True))
    every = dict.fromkeys(name for own in counts.values() for name in own)
    return {split: {name: own.get(name, 0) for name in every} for split, own in counts.items()}


def class_rows(counts: Counts) -> list[dict[str, str | int | None]]:
    """Return a row for each class: its name, its images in every split, and its group by those in train."""
    names = next(iter(counts.values()), {})
    return [{"class": name, **{split: own[name] for split, own in counts.items()}, "group": _group(counts, name)}
            for name in names]  # fmt: skip


def _group(counts: Counts, name: str) -> str | None:
    if "train" not in counts:
        return None
    count = counts["train"][name]
    return "head" if count > HEAD_ABOVE else "tail" if count < TAIL_BELOW else "medium"


def imbalance_factor(counts: dict[str, int]) -> float | None:
    """Return the largest count / the smallest, None if a class has no image."""
    return max(counts.values()) / min(counts.values()) if counts and min(counts.values()) else None


def support_findings(counts: Counts) -> Iterator[Finding]:
    """Refuse a single class, and warn of classes with few images to judge by."""
    if len(counts.get("train", {})) == 1:
        yield fault(
            "one class",
            f"there is only one class, {next(iter(counts['train']))!r}, and a classifier needs at least two",
            "bring images of another",
        )
    for split in ("val", "test"):
        few = [f"{name} ({count})" for name, count in counts.get(split, {}).items() if 0 < count < FEW]
        if few:
            message = f"{len(few)} class(es) have fewer than {FEW} images in {split}, so recall is rough: {listed(few)}"
            yield caution("few images", message, f"bring more images to {split}", split=split)


def notes(counts: Counts, misnamed: Collection[str] = ()) -> list[str]:
    """Return what the splits mean for what can be said of a result; `misnamed` ones are there under another name."""
    said = []
    for split in ("val", "test"):
        factor = imbalance_factor(counts.get(split, {}))
        if factor is not None and factor >= 2:
            said.append(
                f"{split} is imbalanced ({factor:.3g}): accuracy and micro_f1 count a class by its share of {split}; "
                "mean_recall, min_recall, geometric_mean and harmonic_mean do not, macro_f1 in part"
            )
    if "train" in counts and "val" not in {*counts, *misnamed}:
        said.append(
            "there is no val: a fifth of train will be set aside, class by class, and the rest says which classes are "
            "head, medium and tail"
        )
    if "train" in counts and "test" not in {*counts, *misnamed}:
        said.append("there is no test: figures of val steered the tuning and are optimistic")
    return said
