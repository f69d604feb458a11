"""All checks of a data set, in the order in which they cost time, and what they found as a document and as CSV."""

import csv
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selmix.backbones import Backbone
from selmix.check.classes import (
    MIXED_CLASSES,
    class_counts,
    class_rows,
    imbalance_factor,
    named_counts,
    notes,
    support_findings,
)
from selmix.check.duplicates import duplicate_findings
from selmix.check.lookalikes import distinct, lookalike_findings
from selmix.check.pixels import image_findings
from selmix.check.reading import Reading, read_images
from selmix.data.findings import Finding
from selmix.data.images import ImageData
from selmix.data.sources import survey_images
from selmix.errors import DataError
from selmix.features.extract import Track, extract_features
from selmix.writing import new_file


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        findings: errors first.
        document: class tables, facts about the images, notes and fixes, ready for JSON, findings included.
    """

    findings: list[Finding]
    document: dict[str, Any]

    @property
    def faulty(self) -> bool:
        """Return whether there is an error among the findings."""
        return any(finding.severity == "error" for finding in self.findings)


def check_data(
    spec: str,
    *,
    backbone: Backbone | None = None,
    device: torch.device | None = None,
    workers: int | None = None,
    track: Track | None = None,
) -> Report:
    """Read a data set to the last pixel and collect everything that is wrong or odd.

    Args:
        spec: as for `selmix.data.sources.open_images`.
        backbone: compare images by its features, too, not by small thumbnails alone.
        device: where the backbone runs; None for the CPU.
        workers: processes that read images; None for one a core.
        track: shows progress.

    Raises:
        UsageError: for a specification that cannot be understood.
        DataError: if there is nothing at all.
    """
    started = time.perf_counter()
    data, found = survey_images(spec)
    findings = list(found)
    mixed = data is None or any(finding.kind in MIXED_CLASSES for finding in findings)
    counts = named_counts(spec) if mixed else {}  # what has another name is no part of the data
    if not counts and data is not None:
        counts = class_counts(data)
    if data is None and [finding.kind for finding in findings] == ["no folder"]:
        raise DataError(str(findings[0]))
    readings: dict[str, Reading] = {}
    if data is not None:
        readings = {
            name: read_images(split, name=name, workers=workers, track=track)
            for name, split in data.splits.items()
            if split.ids
        }
        findings += image_findings(data, readings)
        findings += duplicate_findings(data, readings)
        if "train" in readings and readings["train"].facts["readable"].any():
            alike = lookalike_findings(data, readings, track=track)
            if backbone is not None:
                features = _features(backbone, data, readings, device, track)
                alike = distinct(data, alike, lookalike_findings(data, readings, features, track=track))
            findings += alike
    findings += support_findings(counts)
    findings.sort(key=lambda finding: finding.severity)  # error, warning; stable
    splits = {split: {"images": sum(own.values()), "imbalance_factor": imbalance_factor(own)}
              for split, own in counts.items()}  # fmt: skip
    document = {
        "schema": 1,
        "command": "check",
        "data": spec,
        "digest": None if data is None else data.digest,
        "classes": class_rows(counts),
        "splits": splits,
        "unlabeled": len(data.splits["unlabeled"].ids) if data is not None and "unlabeled" in data.splits else 0,
        "groups": {} if data is None else _group_counts(data),
        "images": {split: _image_facts(reading) for split, reading in readings.items()},
        "backbone": None if backbone is None else backbone.name,
        "notes": notes(counts, [finding.split for finding in findings if finding.kind == "split name"]),
        "counts": {name: sum(finding.severity == name for finding in findings) for name in ("error", "warning")},
        "fixes": fixes(findings),
        "findings": [asdict(finding) for finding in findings],
        "seconds": time.perf_counter() - started,
    }
    return Report(findings, document)


def _features(
    model: Backbone, data: ImageData, readings: dict[str, Reading], device: torch.device | None, track: Track | None
) -> dict[str, torch.Tensor]:
    """Return the features of every split, float32 [n, d], zeros for unreadable images."""
    features: dict[str, torch.Tensor] = {}
    for name, reading in readings.items():
        readable = np.flatnonzero(reading.facts["readable"])
        part = data.splits[name].subset(readable)
        own = (
            extract_features(model, part, device=device or torch.device("cpu"), track=track) if len(readable) else None
        )
        width = next(iter(features.values())).shape[1] if own is None else own.shape[1]
        features[name] = torch.zeros(len(reading.facts), width)
        if own is not None:
            features[name][readable] = own
    return features


def _group_counts(data: ImageData) -> dict[str, dict[str, int]]:
    """Return group of samples -> split -> images."""
    counts: dict[str, dict[str, int]] = {name: {} for name in data.group_names}
    for split, content in data.splits.items():
        if content.groups is not None:
            for number, name in enumerate(data.group_names):
                counts[name][split] = int((content.groups == number).sum())
    return counts


def _image_facts(reading: Reading) -> dict[str, Any]:
    """Return how many images could be read, their modes, and the range of their sizes."""
    facts = reading.facts[reading.facts["readable"]]
    ranges = {side: [int(facts[side].min()), int(facts[side].max())] if len(facts) else None
              for side in ("width", "height")}  # fmt: skip
    return {"read": len(facts), "of": len(reading.facts), "modes": dict(Counter(facts["mode"].tolist())), **ranges}


def fixes(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each kind of finding and remedy, in the order of the findings."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.severity, finding.kind, finding.remedy), []).append(finding)
    lines = []
    for (_, kind, remedy), same in alike.items():
        splits = ", ".join(dict.fromkeys(finding.split for finding in same if finding.split))
        where = same[0].path if len(same) == 1 else f"{len(same)} times" + (f" in {splits}" if splits else "")
        lines.append(f"{kind}{', ' if where else ''}{where}: {remedy}")
    return lines


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write all findings as CSV, in one stroke.

    Raises:
        DataError: if the file cannot be written.
    """
    columns = ["severity", "kind", "split", "class", "path", "message", "remedy", "other_path", "similarity"]
    assert len(columns) == len(fields(Finding))
    try:
        # names that are no UTF-8 come back byte for byte
        with new_file(path) as own, own.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for finding in findings:
                row = asdict(finding)
                row["class"] = row["class_name"]
                writer.writerow("" if row[column] is None else row[column] for column in columns)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name another --out") from error
