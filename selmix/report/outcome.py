"""What came out: the headline, and every metric."""

from typing import Any

from markupsafe import Markup

from selmix.report.marks import track
from selmix.report.reading import Run
from selmix.report.section import Section
from selmix.report.tables import Cell, Row, change, figure, soft, table
from selmix.report.words import COST, LOWER_IS_BETTER, between, costs, count, listed, percent, points


def headline(run: Run) -> tuple[str, list[str]]:
    """Return the page's title and what is said below it."""
    document, split = run.document, run.split
    name = document["metric"]
    before, balanced, after = (document[head][split][name] for head in ("before", "balanced", "after"))
    if None in (before, balanced, after):
        return f"{name} has no value on {split}", [document["undefined"].get(name, "")]
    title = f"{name} {'rose' if after > before else 'fell'} from {percent(before)} to {percent(after)} % on {split}"
    if percent(before) == percent(after):
        title = f"{name} stayed at {percent(after)} % on {split}"
    lines = []
    for rival, key, what in (
        (before, "change", document["before_is"]),
        (balanced, "change_from_balanced", "head retrained with class-balanced sampling on the same labels"),
    ):
        text = f"{points(after - rival)} points from {percent(rival)}, the {what}"
        bounds = document["interval"].get(key, {}).get("test", {}).get(name)
        if bounds:
            unsure = "; the samples do not tell the two apart" if bounds[0] <= 0 <= bounds[1] else ""
            unsure = "; the two are alike" if bounds[0] == bounds[1] == 0 else unsure
            text += f" (95 % interval {between(bounds)}{unsure})"
        lines.append(text + ".")
    paid = [f"{own} {points(fall)}" for fall, own in costs(document, split)]
    lines.append(f"Paid for with recall of {listed(paid)} points." if paid else "No class lost half a point of recall.")
    moved = _moves(document, split)
    fallen = [f"{own} {points(change)}" for own, change in sorted(moved.items(), key=_second) if change < -COST]
    lines += [f"Metrics that fell by half a point or more: {listed(fallen)}."] if fallen else []
    return title, lines


def overview(run: Run) -> Markup:
    """Return the metric that was asked for on a line of its own, and what else moved."""
    document, split = run.document, run.split
    name = document["metric"]
    span = document["interval"].get("after", {}).get("test", {}).get(name)
    values = [document[head][split][name] for head in ("before", "balanced", "after")]
    numbers = Markup("").join(
        Markup('<div><dt><span class="key {0}" aria-hidden="true">{1}</span> {0}</dt><dd>{2}</dd></div>').format(
            head, mark, percent(value)
        )
        for head, mark, value in zip(("before", "balanced", "after"), "○|●", values, strict=True)
    )
    drawn = track(*values, span=span)
    note = f"95 % interval of after: {between(span, percent)}" if span else "no interval: there is no test split"
    return Markup(
        '<figure class="hero" aria-label="{}"><dl>{}</dl>{}<p class="scale" aria-hidden="true">'
        "<span>0</span><span>50</span><span>100 %</span></p><figcaption>{}</figcaption></figure>"
    ).format(f"{name} before, balanced and after, in percent", numbers, drawn, note)


def metrics(run: Run) -> Section:
    """Return every metric on every split."""
    document, split = run.document, run.split
    ranked = sorted(_moves(document, split).items(), key=_second)
    up, down = ([(name, own) for name, own in ranked if sign * own > 0.0005] for sign in (1, -1))
    lead = f"Of {count(len(ranked), 'metric')} that have a value and of which more is better, {len(up)} rose on {split}"
    lead += f", most of all {up[-1][0]} by {percent(up[-1][1])} points" if up else ""
    fallen = listed([f"{name} {points(own)}" for name, own in down])
    lead += f"; {len(down)} fell (by 0.1 points or more): {fallen}." if down else "; none fell."
    body = Markup("")
    for part in sorted(document["after"], key=lambda own: own != split):
        role = "looked at once, at the end" if part == "test" else "out of fold, but it steered the tuning"
        content = figure(_metric_table(document, part), label=f"every metric on {part}")
        body += Markup("<h3>On {}: {}</h3>").format(part, role) + content
    if document["undefined"]:
        reasons = Markup("").join(Markup("<li>{}: {}</li>").format(*own) for own in document["undefined"].items())
        body += Markup('<ul class="note">{}</ul>').format(reasons)
    return Section("metrics", "Every metric", lead, body)


def _moves(document: dict[str, Any], split: str) -> dict[str, float]:
    """Return the change of every metric of which more is better."""
    return {
        name: after - document["before"][split][name]
        for name, after in document["after"][split].items()
        if after is not None and name not in LOWER_IS_BETTER
    }


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _metric_table(document: dict[str, Any], part: str) -> Markup:
    intervals = document["interval"].get("change", {}).get(part, {})
    spans = document["interval"].get("after", {}).get(part, {})
    columns = [
        "metric",
        " 0 to 100 %",
        "change",
        *(["95 % interval"] if intervals else []),
        "before",
        "balanced",
        "after",
    ]
    rows: list[Row] = []
    for name, after in document["after"][part].items():
        values = [document[head][part][name] for head in ("before", "balanced", "after")]
        moved = None if after is None else after - values[0]
        shown = [Cell(percent(own), own) for own in values]
        lower = name in LOWER_IS_BETTER
        drawn, moves = track(*values, span=spans.get(name)), change(moved, points(moved), lower_is_better=lower)
        certain = [between(intervals[name]) if name in intervals else "–"] if intervals else []
        rows.append([soft(name), drawn, moves, *certain, *shown])
    return table(columns, [("", rows)], label=f"every metric on {part}")
