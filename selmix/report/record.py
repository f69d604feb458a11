"""What a run keeps for its report, beside `result.json`: `record.npz`, plain arrays of bounded size."""

import io
from pathlib import Path

import numpy as np
import torch

from selmix.data.arrays import read_npz
from selmix.errors import DataError
from selmix.pipeline import Tuning
from selmix.report.geometry import class_geometry
from selmix.writing import write_atomically

RECORD, REPORT = "record.npz", "report.html"
HEADS = ("before", "balanced", "after")


def write_record(out: Path, tuning: Tuning) -> None:
    """Write `record.npz`; keys as in docs/report.md."""
    content = io.BytesIO()
    np.savez_compressed(content, **record_of(tuning))  # type: ignore[arg-type]
    write_atomically(out / RECORD, content.getvalue())


def read_record(run: Path) -> dict[str, np.ndarray]:
    """Read `record.npz` of a run folder.

    Raises:
        DataError: if it is missing or damaged.
    """
    if not (run / RECORD).is_file():
        raise DataError(f"{run} has no {RECORD}: it is incomplete, or of a selmix that made no reports; repeat the run")
    return read_npz(run / RECORD)


def record_of(tuning: Tuning) -> dict[str, np.ndarray]:
    """Return labels and predictions of every evaluated sample, what the loop decided, and how the features lie.

    Args:
        tuning: what stage two did.
    """
    data, trace = tuning.data, tuning.refined.trace
    arrays: dict[str, np.ndarray] = {}
    for split, heads in tuning.evaluations.items():
        arrays[f"{split}_labels"] = _small(tuning.rows[split] // data.num_groups)
        for head in HEADS:
            predicted = heads[head].predicted
            arrays[f"{split}_{head}_predictions"] = _small(predicted.classes)
            arrays[f"{split}_{head}_confidence"] = _small(predicted.confidence)
            if predicted.of_truth is not None:
                arrays[f"{split}_{head}_of_truth"] = _small(predicted.of_truth)
    geometry = class_geometry(data.splits["train"], data.splits["val"], len(data.class_names))
    kept = {
        "pair_bins": trace.bins,
        "pair_drawn": trace.drawn,
        "drawn_pairs": trace.drawn_pairs,
        "drawn_shares": trace.drawn_shares,
        "gain_pairs": trace.gain_pairs,
        "gain_values": trace.gain_values,
        "multiplier_steps": trace.moments,
        "multipliers": trace.multipliers,
        "neighbour_recall": geometry.recall,
        "neighbour_judged": geometry.judged,
        "mistaken_for": geometry.mistaken_for,
        "nearest_class": geometry.nearest,
        "separation": geometry.separation,
    }
    if trace.gains is not None:
        kept["pair_gain"] = trace.gains
    arrays |= {name: _small(values) for name, values in kept.items()}
    return arrays | {"multiplier_items": np.array(trace.items, dtype=np.str_)}


def _small(values: torch.Tensor) -> np.ndarray:
    """Return integers and floats in 32 bits."""
    return values.numpy().astype(np.float32 if values.is_floating_point() else np.int32)
