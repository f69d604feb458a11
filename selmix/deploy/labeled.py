"""Labeled samples to judge a head by: those of its run, images of another data set, or ready features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selmix.data.assembly import assemble
from selmix.data.findings import Finding, listed, said
from selmix.data.folder import read_folder
from selmix.data.images import ImageData, ImageSplit
from selmix.data.manifest import MANIFEST_ENDINGS, read_manifest
from selmix.data.rows import SPLITS, Rows
from selmix.data.sources import open_images
from selmix.deploy.opening import Run
from selmix.errors import DataError, UsageError, suggestion
from selmix.features.cached import load_cache
from selmix.features.file import load_features
from selmix.features.labeled import FeatureData, LabeledFeatures


def own_features(run: Run) -> FeatureData:
    """Return the features that a run was tuned on, from where they lay.

    Raises:
        DataError: if they are gone or changed.
    """
    kept = run.result["features"]
    path = Path(kept["folder"] if kept else run.recipe["features"])
    if not path.exists():
        raise DataError(f"the features of {run.folder} are no longer in {path}; name samples with --data or --features")
    data = read_features(run, path)
    if data.digests["data"] != run.result["digests"]["data"]:
        raise DataError(
            f"{path} has changed since {run.folder} was tuned on it; name samples with --data or --features"
        )
    return data


def read_features(run: Run, path: Path) -> FeatureData:
    """Return ready features, after seeing that a run's head goes with them.

    Raises:
        DataError: if they are faulty, or of another backbone, width or class table.
    """
    data = load_cache(path) if path.is_dir() else load_features(path)
    theirs, ours = data.digests.get("backbone"), run.result["digests"].get("backbone")
    width, wanted = data.splits["train"].features.shape[1], run.head.weight.shape[1]
    if width != wanted:
        raise DataError(
            f"{path} has features of width {width}, the head of {run.folder} takes {wanted}; name those of its backbone"
        )
    if theirs and ours and theirs != ours:
        raise DataError(
            f"{path} holds features of another backbone than {run.folder} was tuned on; name those of that one"
        )
    order = _order(data.class_names, run.class_names, str(path), run)
    splits = {name: replace(split, labels=order[split.labels]) for name, split in data.splits.items()}
    head = data.head
    if head is not None:
        places = order.argsort()
        head = replace(head, weight=head.weight[places], bias=head.bias[places])
    return replace(data, class_names=run.class_names, splits=splits, head=head)


def split_of(data: FeatureData, split: str, place: str) -> LabeledFeatures:
    """Return a split of features.

    Raises:
        UsageError: if there is none.
    """
    if split not in data.splits:
        hint = "; what was set aside of train for it is told out of fold in result.json" if split == "val" else ""
        raise UsageError(
            f"{place} has no split {split} (it has {', '.join(data.splits)}); choose one with --split{hint}"
        )
    return data.splits[split]


def labeled_images(spec: str, split: str, run: Run) -> tuple[ImageSplit, ImageData]:
    """Return the labeled images of one split, and the data that they are of, with a run's class table.

    Besides all that `finetune` takes: a folder with SPLIT/CLASS/image or CLASS/image alone, and a manifest whose rows
    are all of that split, or have no split.

    Raises:
        UsageError: if there is no such split.
        DataError: for faulty data, or other classes than the run's, by name.
    """
    path = Path(spec)
    findings: list[Finding] = []
    rows: Rows | None = None
    if path.suffix.lower() in MANIFEST_ENDINGS:
        everything = read_manifest(path, root=path.parent, prefix="", findings=[])
        if everything is None or split not in everything:  # no data set with a train split, so all of it is meant
            manifest = read_manifest(path, root=path.parent, prefix="", findings=findings, only=split)
            said(findings, spec)
            assert manifest is not None, "rows are missing only where a finding says why"
            rows = manifest[split]
    elif path.is_dir() and (path / split).is_dir() and not (path / "train").is_dir():
        rows = read_folder(path, split, split, findings)
    elif path.is_dir() and not any((path / name).exists() for name in (*SPLITS, "data.toml")) and _has_class(path, run):
        rows = read_folder(path, "", split, findings)
    if rows is None:
        data = open_images(spec)
        if split not in data.splits:
            raise UsageError(f"{spec} has no split {split} (it has {', '.join(data.splits)}); choose one with --split")
        order = _order(data.class_names, run.class_names, spec, run).numpy()
        images = data.splits[split]
        return replace(images, labels=order[np.asarray(images.labels)]), data
    # held to the run's table as the train split of other data is held to an explicit one
    found = assemble({"train": rows}, findings, class_names=run.class_names)
    said(findings, spec)
    assert found is not None, "data are missing only where a finding says why"
    return found.splits["train"], found


def _has_class(folder: Path, run: Run) -> bool:
    return any((folder / name).is_dir() for name in run.class_names)


def _order(names: list[str], table: list[str], place: str, run: Run) -> torch.Tensor:
    """Return the position in `table` of each name, int64 [k].

    Raises:
        DataError: if they are not the same names.
    """
    lacks, adds = [name for name in table if name not in names], [name for name in names if name not in table]
    if lacks or adds:
        parts = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"adds {listed(adds)}"] * bool(adds)
        near = f" ({suggestion(adds[0], lacks, listed=False)})" if lacks and adds else ""
        raise DataError(
            f"the classes of {place} are not those of {run.folder}: it {' and '.join(parts)}{near}; a head is judged "
            "on its own classes, by the same names"
        )
    position = {name: label for label, name in enumerate(table)}
    return torch.tensor([position[name] for name in names])
