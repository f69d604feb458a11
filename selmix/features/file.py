"""Ready features: one `.npz` with the features and labels of every split, checked completely before use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selmix.data.arrays import array_blocks, digest_of_arrays, read_npz
from selmix.errors import DataError
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.features.names import RowNames
from selmix.features.repeats import warn_of_leaks
from selmix.features.rows import MappedRows, Rows
from selmix.heads import LinearHead

_SPLITS = ("train", "val", "test")
_POOL, _AUDIT = "unlabeled_features", "unlabeled_labels"
_KEYS = {f"{split}_{part}" for split in _SPLITS for part in ("features", "labels", "groups")} | {
    "head_weight", "head_bias", "class_names",
} | {_POOL, _AUDIT}  # fmt: skip

_MOST_ROWS = 10_000  # classes times groups: gains are a matrix of so many rows and columns


def load_features(path: Path) -> FeatureData:
    """Load an `.npz` of ready features.

    Keys: `train_features` [n, d] and `train_labels` [n], the same for `val` and `test` (both optional), and optionally
    `train_groups` [n] (integers or strings; then for every split), `unlabeled_features` [u, d], `unlabeled_labels` [u],
    `head_weight` [k, d], `head_bias` [k], `class_names` [k]. The unlabeled pool may be empty. Its labels serve the
    audit of pseudo-labels and nothing else: the digest does not depend on them, and one outside 0..k-1 stands for a
    sample of no known class.

    Raises:
        DataError: naming every fault: keys, shapes, NaN, labels out of range, a class missing in a split, a group of
            test that train and val lack.
    """
    arrays = read_npz(path, mapped=True)
    faults = _key_faults(arrays) or _shape_faults(arrays) or _number_faults(arrays) + _content_faults(arrays)
    if faults:
        raise DataError(f"{path}: {'; '.join(faults)}; mend the arrays and write them with np.savez")
    warn_of_leaks({key.removesuffix("_features"): array for key, array in arrays.items() if key.endswith("_features")})
    groups = _known_groups(arrays)
    splits = {
        split: LabeledFeatures(
            _rows(arrays[f"{split}_features"]),
            torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64, copy=False)),
            torch.from_numpy(np.searchsorted(groups, arrays[f"{split}_groups"])) if len(groups) else None,
        )
        for split in _SPLITS
        if f"{split}_features" in arrays
    }
    return FeatureData(
        class_names=_class_names(arrays),
        splits=splits,
        ids={
            key.removesuffix("_features"): RowNames(range(len(array)))
            for key, array in arrays.items()
            if key.endswith("_features")
        },
        group_names=[str(name) for name in groups],
        head=_head(arrays),
        unlabeled=_pool(arrays, len(_class_names(arrays))),
        digests={"data": digest_of_arrays({key: array for key, array in arrays.items() if key != _AUDIT})},
    )


def with_pool_features(data: FeatureData, path: Path) -> FeatureData:
    """Replace the unlabeled pool by that of an `.npz` with the keys `unlabeled_features` and maybe `unlabeled_labels`.

    Other keys are left aside, so that a file of all splits may be named.

    Raises:
        DataError: naming every fault.
    """
    everything = read_npz(path, mapped=True)
    arrays = {key: everything[key] for key in (_POOL, _AUDIT) if key in everything}
    if _POOL not in arrays:
        raise DataError(f"{path} lacks {_POOL} (it has {', '.join(sorted(everything))}); write them with np.savez")
    width = data.splits["train"].features.shape[1]
    faults = _shape_faults(arrays, width, "train") or _number_faults(arrays)
    if faults:
        raise DataError(f"{path}: {'; '.join(faults)}; mend the arrays and write them with np.savez")
    pool = _pool(arrays, len(data.class_names))
    assert pool is not None
    if "test" in data.splits:
        warn_of_leaks({"test": data.splits["test"].tensor.numpy(), "unlabeled": _single(arrays[_POOL])})
    own = torch.arange(data.ranks.rank, len(pool.features), data.ranks.count)
    return replace(
        data,
        unlabeled=pool if data.ranks.count == 1 else pool.subset(own),
        ids=dict(data.ids) | {"unlabeled": RowNames(own)},
        digests=data.digests | {"unlabeled": digest_of_arrays({_POOL: arrays[_POOL]})},
    )


def _pool(arrays: dict[str, np.ndarray], num_classes: int) -> UnlabeledFeatures | None:
    if _POOL not in arrays:
        return None
    audit = arrays.get(_AUDIT)
    if audit is not None:
        audit = np.where((audit >= 0) & (audit < num_classes), audit, -1).astype(np.int64)
    return UnlabeledFeatures(_rows(arrays[_POOL]), audit=None if audit is None else torch.from_numpy(audit))


def _key_faults(arrays: dict[str, np.ndarray]) -> list[str]:
    wanted = []
    parts = ["features", "labels"] + ["groups"] * any(f"{split}_groups" in arrays for split in _SPLITS)
    for split in _SPLITS:
        keys = [f"{split}_{part}" for part in parts]
        wanted += keys if split == "train" or any(key in arrays for key in keys) else []
    if _AUDIT in arrays:
        wanted.append(_POOL)
    if "head_bias" in arrays:
        wanted.append("head_weight")
    missing = [key for key in wanted if key not in arrays]
    unknown = sorted(set(arrays) - _KEYS)
    faults = [f"lacks {', '.join(missing)}"] if missing else []
    if unknown:
        faults.append(f"has unknown keys {', '.join(unknown)} (known: {', '.join(sorted(_KEYS))})")
    return faults


_KINDS = {"names": "U", "labels": "iu", "groups": "iuU"}


def _shape_faults(
    arrays: dict[str, np.ndarray], width: int | None = None, reference: str = "train_features"
) -> list[str]:
    """Return the faults of shapes and types; `width`, d, is that of train_features if not given."""
    faults = []
    for key, array in arrays.items():
        dimensions = 2 if key.endswith(("features", "weight")) else 1
        kinds = _KINDS.get(key.rpartition("_")[2], "f")
        may_be_empty = key.startswith("unlabeled_") and array.shape[1:] != (0,)
        if array.ndim != dimensions or (array.size == 0 and not may_be_empty):
            faults.append(f"{key} must be a non-empty array of {dimensions} dimension(s), got shape {array.shape}")
        if array.dtype.kind not in kinds:
            kind = {"U": "strings", "iu": "integers", "f": "floats", "iuU": "integers or strings"}[kinds]
            remedy = "; use .astype(int)" if "iu" in kinds and array.dtype.kind == "f" else ""
            faults.append(f"{key} must hold {kind}, got {array.dtype}{remedy}")
    if faults:
        return faults
    width = width or arrays["train_features"].shape[1]
    for key, array in arrays.items():
        if array.ndim == 2 and array.shape[1] != width:
            remedy = "; transpose it" if len(array) == width else ""
            faults.append(f"{key} has {array.shape[1]} columns, {reference} has {width}{remedy}")
        features = f"{key.partition('_')[0]}_features"
        if key.endswith(("labels", "groups")) and len(array) != len(arrays[features]):
            faults.append(f"{key} has {len(array)} rows, {features} has {len(arrays[features])}")
    if len({array.dtype.kind == "U" for key, array in arrays.items() if key.endswith("groups")}) > 1:
        faults.append("groups must hold integers in every split, or strings in every split")
    sizes = {key: len(arrays[key]) for key in ("head_weight", "head_bias", "class_names") if key in arrays}
    if len(set(sizes.values())) > 1:
        faults.append(f"the number of classes differs: {', '.join(f'{key} has {size}' for key, size in sizes.items())}")
    return faults


def _number_faults(arrays: dict[str, np.ndarray]) -> list[str]:
    faults = []
    for key, array in arrays.items():
        if array.dtype.kind == "f":
            finite = [np.isfinite(_single(own)).all(axis=tuple(range(1, array.ndim))) for own in array_blocks(array)]
            bad_rows = np.flatnonzero(~np.concatenate([np.ones(0, dtype=bool), *finite]))
            if len(bad_rows):
                faults.append(f"{key} has NaN or infinite values in {len(bad_rows)} row(s), the first is {bad_rows[0]}")
    return faults


def _content_faults(arrays: dict[str, np.ndarray]) -> list[str]:
    faults = []
    names = _class_names(arrays)
    if len(set(names)) < len(names) or "" in names:
        faults.append("class_names must be different and not empty")
    for split in _SPLITS:
        labels = arrays.get(f"{split}_labels")
        if labels is None:
            continue
        if labels.min() < 0 or labels.max() >= len(names):
            faults.append(f"{split}_labels must lie in 0..{len(names) - 1}, got {labels.min()}..{labels.max()}")
            continue
        counts = np.bincount(labels.astype(np.int64), minlength=len(names))
        missing = [names[label] for label in np.flatnonzero(counts == 0)]
        if len(missing) == 1 and missing[0] == names[0]:
            missing[0] += " (labels start at 0; are these one too high?)"
        if missing:
            faults.append(f"{split} has no sample of class {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
    return faults + _group_faults(arrays, len(names))


def _group_faults(arrays: dict[str, np.ndarray], num_classes: int) -> list[str]:
    groups = _known_groups(arrays)
    faults = []
    if len(groups) * num_classes > _MOST_ROWS:
        faults.append(
            f"{num_classes} classes times {len(groups)} groups are more than {_MOST_ROWS}; a group has many samples"
        )
    unknown = np.setdiff1d(arrays.get("test_groups", groups), groups)
    if len(unknown):
        shown = ", ".join(map(str, unknown[:5])) + " ..." * (len(unknown) > 5)
        faults.append(f"test_groups has {shown}, which is no group of train or val")
    return faults


def _known_groups(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the groups of train and val in order, [g]; empty if there are none."""
    given = [arrays[f"{split}_groups"] for split in ("train", "val") if f"{split}_groups" in arrays]
    return np.unique(np.concatenate(given)) if given else np.array([])


def _class_names(arrays: dict[str, np.ndarray]) -> list[str]:
    if "class_names" in arrays:
        return [str(name) for name in arrays["class_names"]]
    if "head_weight" in arrays:
        return [str(label) for label in range(len(arrays["head_weight"]))]
    # a label beyond the number of samples is a fault that is named later; it must not cost memory here
    labels = arrays["train_labels"]
    return [str(label) for label in range(min(int(labels.max()) + 1, len(labels)))]


def _single(array: np.ndarray) -> np.ndarray:
    """Return the array as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _rows(features: np.ndarray) -> Rows:
    """Return features [n, d] that are read as float32; those on a memory map stay there."""
    return MappedRows(features) if isinstance(features, np.memmap) else torch.from_numpy(_single(features))


def _head(arrays: dict[str, np.ndarray]) -> LinearHead | None:
    if "head_weight" not in arrays:
        return None
    weight = torch.from_numpy(_single(arrays["head_weight"]))
    bias = arrays.get("head_bias")
    return LinearHead(weight, weight.new_zeros(len(weight)) if bias is None else torch.from_numpy(_single(bias)))
