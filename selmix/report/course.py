"""How it came about: the metric over the steps, the pairs that were drawn, what gains promised, constraints."""

from typing import Any

import numpy as np
from markupsafe import Markup

from selmix.report.heat import heat
from selmix.report.marks import Series, axis, plot
from selmix.report.reading import Run
from selmix.report.section import Section
from selmix.report.tables import Cell, Row, details, figure, table
from selmix.report.words import count, percent, points
from selmix.stage2.refine import ELECTION

_LISTED = 25  # pairs
_LINES = 6  # multipliers that have a line


def steps(run: Run) -> Section:
    """Return the metric on validation at every refresh, and the step that was chosen."""
    document, history = run.document, run.history
    name, best = document["metric"], document["best_step"]
    seen = [(row["step"], row["metric"]) for row in history]
    start, chosen = seen[0][1], next((value for step, value in seen if step == best), seen[-1][1])
    lead = f"Out of fold {name} went from {percent(start)} to {percent(chosen)} % at step {best:,}"
    kept = ": no step beat the start by a standard error, so the start was kept."
    lead += f" of {document['steps']:,}, which was chosen." if best else kept
    lead += " Only the last quarter of the steps can be chosen; the curve wanders while the learning rate is large."
    x = axis("step", [0, *(step for step, _ in seen)])
    y = axis(f"{name}, out of fold, %", [value for _, value in seen], scale=100)
    lines = [
        Series("at each refresh", seen, "line", "after"),
        Series("the start", [(x.low, start), (x.high, start)], "line", "start"),
        Series("chosen", [(best, chosen)], "dots", "after big"),
    ]
    bands = [((1 - ELECTION) * document["steps"], float(document["steps"]), "can be chosen")]
    label = f"{name} out of fold over {document['steps']} steps"
    body = figure(plot(lines, x, y, label=label, bands=bands, notes=[(best, f"step {best:,}")]), label=label)
    rows: list[Row] = [
        [Cell(f"{row['step']:,}", row["step"]), Cell(percent(row["metric"]), row["metric"])] for row in history
    ]
    body += details("The same as a table", table(["step", f"{name}, %"], [("", rows)], label=label, tall=True))
    return Section("steps", "The metric over the steps", lead, body)


def pairs(run: Run) -> Section | None:
    """Return which pairs promised most at the start, which were drawn, and what came of the promises."""
    record, names = run.record, run.names
    if "pair_gain" not in record:
        return None
    drawn, gain = (run.shown(record[name].astype(np.float64)) for name in ("pair_drawn", "pair_gain"))
    gain /= np.abs(gain).max() or 1.0
    first = record["drawn_pairs"][0]
    share = float(record["drawn_shares"][0])
    positive = float((gain > 0).mean())
    by_row = drawn.sum(1)
    most = run.rows[int(by_row.argmax())]
    lead = (
        f"Most drawn was {names[first[0]]} mixed with {names[first[1]]}: {percent(share)} % of all mixups. "
        f"{percent(by_row.max())} % of all kept the label of {most}. At the start {percent(positive)} % of the "
        "pairs promised to raise the metric (blue), the others to lower it (orange)."
    )
    binned = len(run.rows) < len(names)
    roles = "rows keep their label, columns are the partners"
    gains = heat(
        gain,
        run.rows,
        label="gain of each pair at the start",
        cell="{row} with {column}: {value} % of the largest gain",
    )
    draws = heat(
        drawn, run.rows, label="share of each pair of all draws", cell="{row} with {column}: {value} % of all", digits=1
    )
    figures = figure(gains, label="gains at the start", caption=f"gain at the start, % of the largest; {roles}")
    figures += figure(draws, label="pairs that were drawn", caption=f"share of all mixups, %; {roles}")
    body = Markup('<div class="duo">{}</div>').format(figures)
    if binned:
        body += Markup('<p class="note">{}</p>').format(
            f"{len(names):,} classes are summed up in {len(run.rows)} bins by size: shares added up, gains averaged."
        )
    body += details(f"The {_LISTED} pairs that were drawn most, and those of the largest gain", _listed(run))
    return Section("pairs", "Which pairs of classes taught the head", lead, body + _promises(run) + _diagnosis(run))


def _listed(run: Run) -> Markup:
    tables = Markup("")
    for what, which, values, show in (
        ("share, %", "drawn_pairs", "drawn_shares", percent),
        ("gain at the start", "gain_pairs", "gain_values", _short),
    ):
        rows: list[Row] = [
            [run.names[kept], run.names[partner], Cell(show(float(value)), float(value))]
            for (kept, partner), value in zip(run.record[which][:_LISTED], run.record[values][:_LISTED], strict=True)
        ]
        tables += table(["keeps its label", "partner", what], [("", rows)], label=f"pairs by {what}")
    return Markup('<div class="duo">{}</div>').format(tables)


def stretches(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    """Return the change that the gains predicted, and the one obtained, of every stretch between two refreshes."""
    changes = zip(history, history[1:], strict=False)
    return [(own["predicted_change"], own["metric"] - last["metric"]) for last, own in changes]


def _promises(run: Run) -> Markup:
    found = stretches(run.history)
    if not found:
        return Markup("")
    promised, obtained = np.array(found).T
    risen = int((obtained > 0).sum())
    text = (
        "Between two refreshes the gains predict a change to first order: the mean gain of the pairs that were "
        f"drawn, times learning rate and steps. All together that is {points(promised.sum())} points, and "
        f"{points(obtained.sum())} were obtained out of fold; the metric rose in {risen} of "
        f"{count(len(found), 'stretch', 'stretches')}. "
        "The steps between refreshes are far too many for a first order, and predictions flip in jumps: "
        "take the gains for a direction, not for a distance."
    )
    if run.document["constraints"]:
        text += " Under constraints the gains are those of the metric with the constraints, weighed by multipliers."
    if len(found) > 2 and promised.std() > 0 and obtained.std() > 0:
        text += f" Stretch by stretch the two correlate with {np.corrcoef(promised, obtained)[0, 1]:.2f}."
    x = axis("predicted change, points", promised.tolist(), scale=100, zero=True)
    y = axis("obtained change, points", obtained.tolist(), scale=100)
    label = "predicted against obtained change of the metric, a dot for each stretch between refreshes"
    lines = [Series("", found, "dots", "after"), Series("", [(x.low, 0), (x.high, 0)], "line", "start")]
    drawn = plot(lines, x, y, label=label)
    return Markup("<h3>Predicted against obtained</h3><p>{}</p>").format(text) + figure(drawn, label=label)


def _diagnosis(run: Run) -> Markup:
    """Return what --diagnose measured: single steps on single pairs."""
    if run.diagnosis is None:
        return Markup("")
    figures = Markup("")
    for head, own in run.diagnosis["heads"].items():
        for kind, measured in own["measured"].items():
            x, y = axis("predicted gain", own["predicted"]), axis("measured change / rate", measured)
            agreement = own["agreement"][kind]["pearson"]
            label = f"{head} head, {kind} predictions" + ("" if agreement is None else f": correlation {agreement:.2f}")
            points_of = list(zip(own["predicted"], measured, strict=True))
            drawn = plot([Series("", points_of, "dots", "after small")], x, y, label=label)
            figures += figure(drawn, label=label, caption=label)
    text = "A real step on each of some pairs, alone, from the same head, against its gain (--diagnose)."
    return Markup('<h3>Single steps, measured</h3><p>{}</p><div class="duo">{}</div>').format(text, figures)


def constraints(run: Run) -> Section | None:
    """Return whether each constraint is met, and its multipliers over the steps."""
    found = run.document["constraints"]
    if not found:
        return None
    met = sum(own["met"] for own in found)
    lead = f"{met} of {count(len(found), 'constraint')} met on validation"
    if run.split == "test":
        lead += f", {sum(own['met_on_test'] for own in found)} on test"
    columns = ["constraint", "bound", "on", "worst item", "value", "95 % interval", "met"]
    rows: list[Row] = []
    for own in found:
        for split, met_there in (("val", own["met"]), ("test", own["met_on_test"])):
            if met_there is not None:
                low, high = own["interval"][split]
                verdict = Cell("yes" if met_there else "NO", float(met_there), "up" if met_there else "down")
                bound = Cell(f"{own['bound']:.3f}", own["bound"])
                value = Cell(f"{own[split]:.3f}", own[split])
                rows.append(
                    [own["expression"], bound, split, own["worst"][split], value, f"{low:.3f} to {high:.3f}", verdict]
                )
    body = figure(table(columns, [("", rows)], label="constraints"), label="constraints")
    drawn = _multipliers(run.record)
    label = "multipliers of the constraints over the steps"
    if drawn:
        body += figure(drawn[0], label=label, caption="A multiplier grows while its constraint is violated.")
    lead += f". The largest multiplier was {drawn[1]}." if drawn else ". No multiplier ever left 0."
    return Section("constraints", "Constraints", lead, body)


def _multipliers(record: dict[str, Any]) -> tuple[Markup, str] | None:
    values, items = record["multipliers"], [str(own) for own in record["multiplier_items"]]
    if not values.size or not values.max() > 0:
        return None
    moments = record["multiplier_steps"].tolist()
    lines = [
        Series(items[item], list(zip(moments, values[:, item].tolist(), strict=True)), "step", f"line{item}")
        for item in range(min(_LINES, len(items)))
        if values[:, item].max() > 0
    ]
    x, y = axis("step", [0, *moments]), axis("multiplier", [0.0, float(values.max())])
    peak = int(values.max(0).argmax())
    label = "multipliers over the steps" + (f", the {_LINES} largest of {len(items)}" if len(items) > _LINES else "")
    return plot(lines, x, y, label=label), f"that of {items[peak]}, {values[:, peak].max():.3g}"


def _short(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")
