"""Several runs that differ in their seed, as one document: means and spreads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

HEADS = ("before", "balanced", "after")
CHANGES = {"change": "before", "change_from_balanced": "balanced"}


def over_seeds(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return `seeds.json`: each figure as its mean and standard deviation (ddof 1; null for one seed) over the runs.

    Args:
        documents: `result.json` of each run.

    Returns:
        For each head every metric on every split; `change` and `change_from_balanced` of the tuned head likewise; the
        recall of every class; for each constraint the mean of its worst item and in how many runs it is met.
    """
    first = documents[0]
    summary: dict[str, Any] = {
        "schema": first["schema"],
        "command": first["command"],
        "metric": first["metric"],
        "subject_to": first["subject_to"],
        "seeds": [document["seed"] for document in documents],
        "class_names": first["class_names"],
        "optimistic": first["optimistic"],
        "before_is": first["before_is"],
    }
    for head in HEADS:
        summary[head] = _spreads([document[head] for document in documents])
    for name, rival in CHANGES.items():
        summary[name] = _spreads([_differences(document["after"], document[rival]) for document in documents])
    summary["recall"] = {
        head: {
            split: [spread(values) for values in zip(*(own["recall"][head][split] for own in documents), strict=True)]
            for split in first["recall"][head]
        }
        for head in HEADS
    }
    summary["constraints"] = constraints_over(documents)
    parts = {name: [document["seconds"][name] for document in documents] for name in first["seconds"]}
    return summary | {
        "seconds": {name: spread(values) for name, values in parts.items()},
        "versions": first["versions"],
        "digests": first["digests"],
    }


def constraints_over(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each constraint of the runs, the mean of its worst item and in how many of them it is met."""
    return [
        {
            "expression": runs[0]["expression"],
            "bound": runs[0]["bound"],
            "val": spread([run["val"] for run in runs]),
            "test": spread([run["test"] for run in runs]),
            "met": sum(run["met"] for run in runs),
            "met_on_test": None if documents[0]["optimistic"] else sum(run["met_on_test"] for run in runs),
        }
        for runs in zip(*(document["constraints"] for document in documents), strict=True)
    ]


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return mean and standard deviation; None if a value is undefined.

    >>> spread([1.0, 3.0]), spread([2.0]), spread([1.0, None])
    ({'mean': 2.0, 'std': 1.4142135623730951}, {'mean': 2.0, 'std': None}, None)
    """
    if None in values:
        return None
    array = np.array(values, dtype=np.float64)
    return {"mean": float(array.mean()), "std": float(array.std(ddof=1)) if len(array) > 1 else None}


def _spreads(runs: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, Any]]:
    return {
        split: {name: spread([run[split][name] for run in runs]) for name in metrics}
        for split, metrics in runs[0].items()
    }


def _differences(
    head: dict[str, dict[str, float | None]], rival: dict[str, dict[str, float | None]]
) -> dict[str, dict[str, float | None]]:
    return {
        split: {name: None if value is None else value - rival[split][name] for name, value in metrics.items()}  # type: ignore[operator]
        for split, metrics in head.items()
    }
