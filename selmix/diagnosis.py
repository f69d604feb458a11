"""The diagnosis of a run as a document and a figure."""

import json
from pathlib import Path
from typing import Any

from selmix.figures import Panel, draw_scatters
from selmix.metrics import Metric
from selmix.pipeline import Tuning
from selmix.stage2.diagnose import LARGE_RATE, SMALL_RATE, Diagnosis, agreement
from selmix.writing import write_atomically

SCHEMA = 1


def describe_diagnosis(tuning: Tuning, metric: Metric) -> dict[str, Any]:
    """Return `diagnose.json`: for the head at the start and the tuned one, the pairs, their gains and what they did.

    A pair is [kept, partner], rows of the confusion matrix: classes, or class * groups + group.
    """
    return {
        "schema": SCHEMA,
        "metric": metric.name,
        "class_names": tuning.data.class_names,
        "group_names": tuning.data.group_names,
        "rate": {"soft": SMALL_RATE, "hard": LARGE_RATE},
        "heads": {
            name: {
                "pairs": list(map(list, zip(own.kept.tolist(), own.partner.tolist(), strict=True))),
                "predicted": own.predicted.tolist(),
                "measured": {kind: values.tolist() for kind, values in own.measured.items()},
                "agreement": agreements(own),
            }
            for name, own in tuning.diagnoses.items()
        },
    }


def agreements(diagnosis: Diagnosis) -> dict[str, dict[str, float | None]]:
    """Return the correlations of prediction and measurement, soft and hard."""
    return {kind: agreement(diagnosis.predicted, values) for kind, values in diagnosis.measured.items()}


def write_diagnosis(out: Path, document: dict[str, Any]) -> None:
    """Write `diagnose.json` and `diagnose.svg`: a row a head, soft and hard."""
    write_atomically(out / "diagnose.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    rows = [
        [
            Panel(f"{document['metric'][:30]}, {name} head, {kind}", own["predicted"], values)
            for kind, values in own["measured"].items()
        ]
        for name, own in document["heads"].items()
    ]
    draw_scatters(rows, out / "diagnose.svg")
