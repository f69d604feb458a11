"""A run folder as its report needs it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from selmix.errors import DataError
from selmix.metrics.groups import HEAD_ABOVE, TAIL_BELOW
from selmix.report.record import read_record
from selmix.report.samples import SAMPLES

BANDS = {
    "head": f"head: more than {HEAD_ABOVE} training samples",
    "medium": f"medium: {TAIL_BELOW} to {HEAD_ABOVE} training samples",
    "tail": f"tail: fewer than {TAIL_BELOW} training samples",
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where it lies.
        document: `result.json`.
        record: `record.npz`.
        samples: `samples.json`.
        history: `metrics.jsonl`.
        recipe: the text of `recipe.toml`.
        diagnosis: `diagnose.json`, where there is one.
    """

    folder: Path
    document: dict[str, Any]
    record: dict[str, np.ndarray]
    samples: dict[str, Any]
    history: list[dict[str, float]]
    recipe: str
    diagnosis: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run folder.

        Raises:
            DataError: naming what is missing or damaged.
        """
        document = read_json(folder / "result.json")
        if not {"before", "balanced", "after", "recall", "diagnosis"} <= set(document):
            raise DataError(f"{folder / 'result.json'} is no result of demo or finetune; name the folder of such a run")
        try:
            history = [json.loads(line) for line in read_text(folder / "metrics.jsonl").splitlines()]
        except ValueError as error:
            raise DataError(f"{folder / 'metrics.jsonl'} is damaged ({error}); repeat the run") from error
        diagnosed = folder / "diagnose.json"
        return cls(
            folder=folder,
            document=document,
            record=read_record(folder),
            samples=read_json(folder / SAMPLES),
            history=history,
            recipe=read_text(folder / "recipe.toml"),
            diagnosis=read_json(diagnosed) if document["diagnosis"] and diagnosed.is_file() else None,
        )

    @property
    def split(self) -> str:
        """Return the split that is reported."""
        return "val" if self.document["optimistic"] else "test"

    @property
    def names(self) -> list[str]:
        """Return the class names."""
        return self.document["class_names"]

    @cached_property
    def order(self) -> list[int]:
        """Return the classes, the one of the most training samples first."""
        counts = self.document["support"]["train"]
        return sorted(range(len(counts)), key=lambda label: -counts[label])

    def band(self, label: int) -> str:
        """Return `head`, `medium` or `tail`."""
        count = self.document["support"]["train"][label]
        return "head" if count > HEAD_ABOVE else "tail" if count < TAIL_BELOW else "medium"

    @cached_property
    def place(self) -> np.ndarray:
        """Return the row of each class in the matrices that are shown, int64 [k]: in order, binned if there are many.

        The bins of the record are in order already.
        """
        bins = self.record["pair_bins"].astype(np.int64)
        if int(bins.max()) + 1 < len(bins):
            return bins
        place = np.empty(len(bins), np.int64)
        place[self.order] = np.arange(len(bins))
        return place

    @cached_property
    def rows(self) -> list[str]:
        """Return what the rows of the matrices are called."""
        size = int(self.place.max()) + 1
        if size == len(self.names):
            return [self.names[label] for label in self.order]
        members: list[list[int]] = [[] for _ in range(size)]
        for rank, label in enumerate(self.order):
            members[self.place[label]].append(rank)
        return [
            f"classes {own[0] + 1} to {own[-1] + 1} by size ({self.names[self.order[own[0]]]} …)" if len(own) > 1
            else self.names[self.order[own[0]]]
            for own in members
        ]  # fmt: skip

    def shown(self, matrix: np.ndarray) -> np.ndarray:
        """Return a matrix of the record with its rows and columns in the order that is shown."""
        if len(matrix) < len(self.names):
            return matrix
        return matrix[np.ix_(self.order, self.order)]

    def confusion(self, head: str) -> np.ndarray:
        """Return the shares [b, b] of the samples of each true row that are predicted as each; NaN without samples."""
        size = int(self.place.max()) + 1
        labels, predictions = (self.place[own] for own in self.predicted(head))
        counts = np.bincount(labels * size + predictions, minlength=size * size).reshape(size, size)
        total = counts.sum(1, keepdims=True)
        return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)

    def predicted(self, head: str) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and predictions of the split that is reported."""
        return self.record[f"{self.split}_labels"], self.record[f"{self.split}_{head}_predictions"]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of a run folder.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); repeat the run") from error


def read_text(path: Path) -> str:
    """Read a text file of a run folder.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise DataError(f"{path} cannot be read ({reason}); a report needs the whole folder of a run") from error
