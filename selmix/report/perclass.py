"""What the classes gained and paid, and who is taken for whom."""

import numpy as np
from markupsafe import Markup

from selmix.report.heat import heat
from selmix.report.marks import RATES, Axis, Series, plot, track
from selmix.report.reading import BANDS, Run
from selmix.report.section import TRACKED, Section
from selmix.report.tables import Cell, Content, Row, change, details, figure, table
from selmix.report.words import changes_of_recall, count, percent, points

_CONFUSED = 25  # pairs of classes that are listed
_POINTS = 1000  # of a plot


def classes(run: Run) -> Section:
    """Return recall by class."""
    document, split, names = run.document, run.split, run.names
    moved = changes_of_recall(document, split)
    (fall, loser), (rise, winner) = moved[0], moved[-1]
    risen, fallen = (sum(sign * own > 0.0005 for own, _ in moved) for sign in (1, -1))
    best = f"{winner} gained {percent(rise)} points" if rise > 0 else "No class gained"
    worst = f"{loser} paid {percent(-fall)}" if fall < 0 else "none paid"
    lead = f"{best}; {worst}. Recall rose in {risen} of {count(len(moved), 'class', 'classes')} and fell in {fallen}."
    columns = ["class", "train", split, " recall, 0 to 100 %", "change", "before", "balanced", "after"]
    if len(names) <= TRACKED:
        bodies = [
            (BANDS[band], [_class_row(run, label) for label in run.order if run.band(label) == band]) for band in BANDS
        ]
        body = figure(table(columns, bodies, label="recall of each class"), label=f"recall of each class on {split}")
        return Section("classes", "Recall of each class", lead, body + _groups(run))
    body = figure(_class_plot(run), label=f"recall of each class on {split}, by size")
    plain = [column for column in columns if not column.startswith(" ")]
    rows = [[cell for cell in _class_row(run, label) if not isinstance(cell, Markup)] for label in run.order]
    body += details("Every class as a table", table(plain, [("", rows)], label="recall of each class", tall=True))
    return Section("classes", "Recall of each class", lead, body + _groups(run))


def _class_row(run: Run, label: int) -> list[Content]:
    recalls = [run.document["recall"][head][run.split][label] for head in ("before", "balanced", "after")]
    before, _, after = recalls
    moved = None if after is None else after - before
    support = (run.document["support"][split][label] for split in ("train", run.split))
    counts = [Cell(f"{own:,}", own) for own in support]
    shown = [Cell(percent(own), own) for own in recalls]
    return [run.names[label], *counts, track(*recalls), change(moved, points(moved)), *shown]


def _class_plot(run: Run) -> Markup:
    """Return recalls over the rank by size; of very many classes of some, evenly spaced."""
    document, split, size = run.document, run.split, len(run.order)
    ranks = np.linspace(0, size - 1, min(size, _POINTS)).round().astype(int).tolist()
    recall = document["recall"]
    pairs = [(rank + 0.5, *(recall[head][split][run.order[rank]] for head in ("before", "after"))) for rank in ranks]
    pairs = [own for own in pairs if own[2] is not None]
    series = []
    for tone, sign in (("rise", 1), ("fall", -1)):
        own = [(x, low, high) for x, low, high in pairs if sign * (high - low) > 0]
        series.append(Series("", [(x, low) for x, low, _ in own], "stems", tone, [high for *_, high in own]))
    series.append(Series("before", [(x, low) for x, low, _ in pairs], "rings", "before small"))
    series.append(Series("after", [(x, high) for x, _, high in pairs], "dots", "after small"))
    bands, start = [], 0
    for band in BANDS:
        end = start + sum(run.band(label) == band for label in run.order)
        bands += [(float(start), float(end), band)] if end > start else []
        start = end
    ticks = [(0.5, "largest"), (size - 0.5, "smallest")]
    x = Axis(
        f"{size:,} classes by training samples" + (f", {_POINTS:,} of them drawn" if size > _POINTS else ""),
        0,
        size,
        ticks,
    )
    label = f"recall of {size} classes before and after, ordered by training samples"
    return plot(series, x, Axis(f"recall on {split}, %", 0, 1, RATES), label=label, bands=bands)


def _groups(run: Run) -> Markup:
    """Return the recall of every class in every group of samples that has some."""
    groups, split = run.document["groups"], run.split
    if not groups:
        return Markup("")
    rows: list[Row] = []
    for label in run.order:
        for group, name in enumerate(groups["names"]):
            support = [groups["support"][part][label][group] for part in ("train", split)]
            if support[1]:
                recalls = [groups["recall"][head][split][label][group] for head in ("before", "balanced", "after")]
                moved = recalls[2] - recalls[0]
                shown = [Cell(percent(own), own) for own in recalls]
                counts = [Cell(f"{own:,}", own) for own in support]
                rows.append(
                    [f"{run.names[label]}, {name}", *counts, track(*recalls), change(moved, points(moved)), *shown]
                )
    columns = ["class, group", "train", split, " recall, 0 to 100 %", "change", "before", "balanced", "after"]
    content = table(
        columns, [("", rows)], label="recall of each class in each group of samples", tall=len(rows) > TRACKED
    )
    return Markup("<h3>In each group of samples</h3>") + figure(content, label="recall of each class in each group")


def confusion(run: Run) -> Section:
    """Return the confusion matrices, and the pairs of classes that changed most."""
    matrices = {head: run.confusion(head) for head in ("before", "after")}
    rows, moved = _confused(run)
    lead = "Rows are the truth, columns the prediction; cells are shares of their row, %."
    if moved:
        truth, named, *ends = moved[0]
        lead = f"What changed most is {truth} predicted as {named}: from {' to '.join(map(percent, ends))} %. {lead}"
    binned = len(run.rows) < len(run.names)
    if binned:
        lead += f" {len(run.names):,} classes are summed up in {len(run.rows)} bins by size."
    shares, moves = "{row} predicted as {column}: {value} %", "{row} predicted as {column}: {value} points"
    pictures = [
        (head, heat(own, run.rows, label=f"confusion matrix {head}", cell=shares, largest=1.0))
        for head, own in matrices.items()
    ]
    difference = matrices["after"] - matrices["before"]
    moved_by = heat(difference, run.rows, label="confusion matrix, after minus before", cell=moves, signed=True)
    pictures.append(("after minus before", moved_by))
    figures = Markup("").join(figure(own, label=f"confusion matrix, {name}", caption=name) for name, own in pictures)
    key = Markup(
        '<p class="note">In the difference <span class="key more" aria-hidden="true">■</span> blue is more than '
        'before, <span class="key less" aria-hidden="true">■</span> orange less.</p>'
    )
    body = Markup('<div class="trio">{}</div>{}').format(figures, key)
    columns = ["truth", "predicted as", "samples", "before, %", "after, %", "change"]
    body += details(
        f"The {count(len(rows), 'pair')} of classes that changed most",
        table(columns, [("", rows)], label="changed pairs"),
    )
    return Section("confusion", "Who is taken for whom", lead, body)


def _confused(run: Run) -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    size, names = len(run.names), run.names
    shares: dict[int, list[float]] = {}
    support = np.bincount(run.predicted("after")[0], minlength=size)
    for number, head in enumerate(("before", "after")):
        labels, predictions = (own.astype(np.int64) for own in run.predicted(head))
        wrong = labels != predictions
        for pair, found in zip(*np.unique(labels[wrong] * size + predictions[wrong], return_counts=True), strict=True):
            shares.setdefault(int(pair), [0.0, 0.0])[number] = found / support[pair // size]
    most = sorted(shares.items(), key=lambda item: -abs(item[1][1] - item[1][0]))[:_CONFUSED]
    rows: list[Row] = []
    for pair, (before, after) in most:
        truth, named = divmod(pair, size)
        moved = change(after - before, points(after - before), lower_is_better=True)
        shown = Cell(percent(before), before), Cell(percent(after), after)
        rows.append([names[truth], names[named], Cell(f"{support[truth]:,}", int(support[truth])), *shown, moved])
    return rows, [(names[pair // size], names[pair % size], before, after) for pair, (before, after) in most]
