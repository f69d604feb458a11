"""What the head had to work with and how sure it is of itself: the geometry of the classes, and calibration."""

import math

import numpy as np
import torch
from markupsafe import Markup

from selmix.calibration import reliability
from selmix.report.geometry import NEIGHBOURS
from selmix.report.marks import RATES, Axis, Series, plot, track
from selmix.report.reading import BANDS, Run
from selmix.report.section import TRACKED, Section
from selmix.report.tables import Cell, Row, details, figure, table
from selmix.report.words import count, listed, percent

_FEW = 10  # samples, under which a bin is left out of the drawing
_LOST = 0.5  # recall of neighbours under which a class counts as not separated


def geometry(run: Run) -> Section:
    """Return how well the nearest neighbours of each class are of the same class, before any tuning."""
    record, names = run.record, run.names
    recall = {label: float(value) for label, value in enumerate(record["neighbour_recall"]) if math.isfinite(value)}
    hardest = sorted(recall, key=lambda label: recall[label])
    lost = [label for label in hardest if recall[label] < _LOST]
    if not hardest:
        text = "no class has validation samples that could be judged"
    elif lost:
        shown = [f"{names[label]} ({percent(recall[label])} %{_mistaken(run, label)})" for label in lost]
        text = f"the features do not separate {count(len(lost), 'class', 'classes')}: {listed(shown)}"
    else:
        label = hardest[0]
        text = f"the hardest class is {names[label]}: {percent(recall[label])} % are found{_mistaken(run, label)}"
    lead = (
        f"By their {NEIGHBOURS} nearest neighbours, all classes taken for equally frequent, {text}. What is low here "
        "is limited by the backbone; a linear head can only choose who pays."
    )
    columns = [
        "class",
        "train",
        "judged",
        " 0 to 100 %",
        "neighbours' recall, %",
        "mostly taken for",
        "nearest mean",
        "separation",
    ]
    if len(names) <= TRACKED:
        bodies = [(BANDS[band], [_row(run, label) for label in run.order if run.band(label) == band]) for band in BANDS]
        body = figure(table(columns, bodies, label="geometry of each class"), label="neighbours' recall of each class")
    else:
        body = figure(_scatter(run, recall), label="neighbours' recall against the head's")
        plain = [column for column in columns if not column.startswith(" ")]
        rows = [[cell for cell in _row(run, label) if not isinstance(cell, Markup)] for label in hardest]
        content = table(plain, [("", rows)], label="geometry of each class", tall=True)
        body += details("Every class, the hardest first", content)
    note = (
        "Validation samples are judged among those of train and validation, as the backbone may know train by heart. "
        "Separation is the distance to the nearest class mean over the spread of the class's own samples: around 1 and "
        "below, they overlap."
    )
    return Section(
        "geometry", "What the features can separate", lead, body + Markup('<p class="note">{}</p>').format(note)
    )


def _mistaken(run: Run, label: int) -> str:
    other = int(run.record["mistaken_for"][label])
    return f", the others mostly taken for {run.names[other]}" if other >= 0 else ""


def _row(run: Run, label: int) -> Row:
    record, names = run.record, run.names
    recall, separation = (float(record[name][label]) for name in ("neighbour_recall", "separation"))
    others = [
        names[other] if other >= 0 else "–"
        for other in (int(record[name][label]) for name in ("mistaken_for", "nearest_class"))
    ]
    known = math.isfinite(recall)
    counts = run.document["support"]["train"][label], int(record["neighbour_judged"][label])
    return [
        names[label],
        *(Cell(f"{own:,}", own) for own in counts),
        track(None, None, recall if known else None),
        Cell(percent(recall), recall if known else None),
        *others,
        Cell(
            f"{separation:.2f}" if math.isfinite(separation) else "–", separation if math.isfinite(separation) else None
        ),
    ]


def _scatter(run: Run, recall: dict[int, float]) -> Markup:
    tuned = run.document["recall"]["after"][run.split]
    found = [(recall[label], tuned[label]) for label in run.order if label in recall and tuned[label] is not None]
    x, y = Axis("neighbours' recall, %", 0, 1, RATES), Axis(f"recall of the tuned head on {run.split}, %", 0, 1, RATES)
    label = "recall of the tuned head against that of the neighbours, a dot a class"
    return plot([Series("a class", found, "dots", "after small")], x, y, label=label, diagonal=True, square=True)


def calibration(run: Run) -> Section:
    """Return reliability before and after."""
    document, record, split = run.document, run.record, run.split
    errors = [document[head][split]["ece"] for head in ("before", "after")]
    lead = (
        f"The expected calibration error went from {percent(errors[0])} to {percent(errors[1])} %. On the diagonal a "
        "confidence of 80 % means 80 % right; below it the head is too sure of itself."
    )
    lines: list[Series] = []
    rows: list[tuple[str, list[Row]]] = []
    for head, kind in (("before", "rings"), ("after", "dots")):
        labels, predictions = run.predicted(head)
        confidence = torch.from_numpy(record[f"{split}_{head}_confidence"].astype(np.float64))
        bins = reliability(confidence, torch.from_numpy(labels == predictions))
        filled = bins.samples >= _FEW
        found = list(zip(bins.confidence[filled].tolist(), bins.accuracy[filled].tolist(), strict=True))
        lines += [Series("", found, "line", head), Series(head, found, kind, head)]
        rows.append((head, [
            [f"{percent(own[0])} %", Cell(percent(own[1]), own[1]), Cell(f"{number:,}", number)]
            for own, number in zip(found, bins.samples[filled].tolist(), strict=True)
        ]))  # fmt: skip
    x, y = Axis("confidence, %", 0, 1, RATES), Axis("right, %", 0, 1, RATES)
    label = f"reliability on {split}: share that is right against confidence, before and after"
    caption = f"bins of fewer than {_FEW} samples are left out"
    body = figure(plot(lines, x, y, label=label, diagonal=True, square=True), label=label, caption=caption)
    content = table(["mean confidence", "right, %", "samples"], rows, label=label)
    return Section(
        "calibration", "Is the head as sure as it should be?", lead, body + details("The same as a table", content)
    )
