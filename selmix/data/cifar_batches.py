"""CIFAR as the official Python version has it, which torchvision downloads: pickled batches of rows of pixels."""

from pathlib import Path
from typing import Any

import numpy as np

from selmix.data.pickles import read_plain_pickle
from selmix.errors import DataError

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def read_cifar10_batches(folder: Path) -> tuple[list[str], Arrays]:
    """Read `cifar-10-batches-py`.

    Raises:
        DataError: if a file is missing or is not what it must be.
    """
    files = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _names(folder / "batches.meta", "label_names"), _splits(folder, files, "labels")


def read_cifar100_batches(folder: Path) -> tuple[list[str], Arrays]:
    """Read `cifar-100-python`, with the 100 fine labels.

    Raises:
        DataError: if a file is missing or is not what it must be.
    """
    return _names(folder / "meta", "fine_label_names"), _splits(
        folder, {"train": ["train"], "test": ["test"]}, "fine_labels"
    )


def _splits(folder: Path, files: dict[str, list[str]], key: str) -> Arrays:
    arrays = {}
    for split, names in files.items():
        batches = [_batch(folder / name, key) for name in names]
        arrays[split] = (
            np.concatenate([pixels for pixels, _ in batches]),
            np.concatenate([labels for _, labels in batches]),
        )
    return arrays


def _batch(path: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 [n, 32, 32, 3] and int64 [n]; a row on disk is the red plane, the green one, the blue one."""
    content = _content(path)
    rows, labels = content.get("data"), content.get(key)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
        raise DataError(f"{path} has no uint8 `data` of 3072 columns; fetch it again")
    if not isinstance(labels, list) or len(labels) != len(rows) or not all(map(is_label, labels)):
        raise DataError(f"{path} has no list `{key}` of one integer for each of its {len(rows)} images; fetch it again")
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, dtype=np.int64)


def is_label(value: object) -> bool:
    """Return whether a label of a foreign file is an integer, and one that int64 holds."""
    return type(value) is int and abs(value) < 2**63


def _names(path: Path, key: str) -> list[str]:
    names = _content(path).get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{path} has no list `{key}` of names; fetch it again")
    if len(set(names)) < len(names):
        raise DataError(f"{path} has no list `{key}` of different names; fetch it again")
    return [_word(name) for name in names]


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = read_plain_pickle(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no pickled dictionary; fetch it again")
    return {_word(key): value for key, value in content.items() if isinstance(key, str | bytes)}


def _word(key: str | bytes) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else key
