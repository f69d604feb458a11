"""Several runs on one page: the ladder of a comparison, and the spread over seeds."""

from typing import Any

from markupsafe import Markup

from selmix.report.command import command_of
from selmix.report.marks import Axis, Series, axis, plot, track
from selmix.report.material import repeated
from selmix.report.section import TRACKED, Section
from selmix.report.tables import Cell, Content, Row, change, figure, soft, table
from selmix.report.words import LOWER_IS_BETTER, count, percent, points
from selmix.verdict import OURS


def comparison(document: dict[str, Any]) -> tuple[str, list[str], list[Section]]:
    """Return title, what is said below it, and sections of a comparison.

    Args:
        document: `compare.json`.
    """
    summary, seeds = document["summary"], document["request"]["seeds"]
    won = [name for name, own in summary.items() if own["best"] == OURS]
    title = f"{count(len(document['methods']), 'method')} on {', '.join(summary)}: "
    title += f"SelMix has the best mean on {len(won)} of {len(summary)}"
    if won:
        clear = [own for own in map(summary.get, won) if "difference" in own and own["difference"]["interval"][0] > 0]
        title += f", beyond what the test samples leave to chance on {len(clear)}"
    lines = [own["verdict"] + "." for own in summary.values()]
    lines.append(
        f"{count(len(seeds), 'seed')}, {document['val_samples']:,} validation and {document['test_samples']:,} test "
        "samples. The rival was chosen by its test mean, which favours it; intervals cover test samples, not seeds."
    )
    sections = [_ladder(document, name) for name in summary]
    if document["left_out"]:
        reasons = Markup("").join(Markup("<li>{}: {}</li>").format(*own) for own in document["left_out"].items())
        lead = f"{count(len(document['left_out']), 'method')} could not run."
        sections.append(Section("left-out", "Left out", lead, Markup("<ul>{}</ul>").format(reasons), "Left out"))
    request = document["request"]
    command = command_of("compare", request, 0)
    return title, lines, [*sections, repeated(command, document, "")]


def _ladder(document: dict[str, Any], name: str) -> Section:
    """Return the methods from the best to the worst, each seed a mark, with what they are."""
    methods = document["summary"][name]["methods"]
    ranked = sorted(methods, key=lambda own: -methods[own]["test"]["mean"])
    rows: list[Row] = []
    for method in ranked:
        own = methods[method]
        mean, interval = own["test"]["mean"], own["test"].get("interval")
        seeds = [row["test"] for row in document["rows"] if (row["method"], row["metric"]) == (method, name)]
        shown = Cell(spread_of(own["test"]), mean, "best" if method == OURS else "")
        between = f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–"
        val, seconds = Cell(spread_of(own["val"]), own["val"]["mean"]), own["seconds"]["mean"]
        drawn = track(None, None, mean, span=interval or [min(seeds), max(seeds)])
        rows.append(
            [
                Cell(method, None, "best" if method == OURS else ""),
                drawn,
                shown,
                between,
                val,
                Cell(f"{seconds:.1f}", seconds),
                Cell(document["methods"][method], None, "text"),
            ]
        )
    columns = ["method", " test, 0 to 100 %", "test, %", "95 % interval", "val, %", "seconds", "what it is"]
    best, last = methods[ranked[0]]["test"]["mean"], methods[ranked[-1]]["test"]["mean"]
    place = f" SelMix comes {_ordinal(ranked.index(OURS) + 1)} of {len(ranked)}." if OURS in ranked else ""
    lead = f"{ranked[0]} has {percent(best)} %, {ranked[-1]} {percent(last)} %.{place}"
    body = figure(table(columns, [("", rows)], label=f"methods by {name}"), label=f"the ladder on {name}")
    return Section(f"ladder-{list(document['summary']).index(name)}", f"The ladder on {name}", lead, body, name)


def _ordinal(number: int) -> str:
    """Return a place in words.

    >>> [_ordinal(number) for number in (1, 2, 3, 4)]
    ['first', 'second', 'third', '4th']
    """
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def seeds(
    document: dict[str, Any], runs: list[dict[str, Any]], recipe: dict[str, Any]
) -> tuple[str, list[str], list[Section]]:
    """Return title, what is said below it, and sections of several runs that differ in their seed.

    Args:
        document: `seeds.json`.
        runs: `result.json` of each run.
        recipe: of one of them.
    """
    split, name, numbers = "val" if document["optimistic"] else "test", document["metric"], document["seeds"]
    after, moved = document["after"][split][name], document["change"][split][name]
    title = f"{name} is {spread_of(after)} % on {split} over {count(len(numbers), 'seed')}"
    lines = [
        f"{spread_of(moved, signed=True)} points from {spread_of(document['before'][split][name])}, "
        f"the {document['before_is']}."
    ]
    balanced = document["change_from_balanced"][split][name]
    lines.append(
        f"{spread_of(balanced, signed=True)} points from {spread_of(document['balanced'][split][name])}, "
        "the head retrained with class-balanced sampling on the same labels."
    )
    lines.append(
        "A seed changes what is random in stage two and, without a val split, which part of train is set aside for it; "
        "never the backbone or a split of the data, which vary more."
    )
    sections = [_each(document, runs, split), _spread_metrics(document, split), _spread_classes(document, split)]
    sections += [_kept(document)] if document["constraints"] else []
    command = command_of(document["command"], recipe, len(document["class_names"]), seeds=numbers)
    return title, lines, [*sections, repeated(command, document, "")]


def _each(document: dict[str, Any], runs: list[dict[str, Any]], split: str) -> Section:
    name = document["metric"]
    values = [[run[head][split][name] for run in runs] for head in ("before", "balanced", "after")]
    rows: list[Row] = []
    for seed, *own in zip(document["seeds"], *values, strict=True):
        link = Markup('<a href="seed{0}/report.html">seed {0}</a>').format(seed)
        moved = own[2] - own[0]
        rows.append([link, track(*own), *(Cell(percent(value), value) for value in own), change(moved, points(moved))])
    columns = ["run", " 0 to 100 %", "before", "balanced", "after", "change"]
    label = f"{name} of each seed"
    body = figure(table(columns, [("", rows)], label=label), label=label)
    low, high = min(values[2]), max(values[2])
    lead = f"The worst seed has {percent(low)} %, the best {percent(high)} %."
    x = Axis("seed", 0, len(runs) + 1, [(number + 1, str(seed)) for number, seed in enumerate(document["seeds"])])
    y = axis(f"{name}, %", [value for own in values for value in own], scale=100)
    marks = [
        Series(head, [(number + 1, value) for number, value in enumerate(own)], kind, head)
        for head, kind, own in zip(("before", "balanced", "after"), ("rings", "squares", "dots"), values, strict=True)
    ]
    return Section("each", "Seed by seed", lead, body + figure(plot(marks, x, y, label=label), label=label), "Seeds")


def _spread_metrics(document: dict[str, Any], split: str) -> Section:
    rows: list[Row] = []
    for name in document["after"][split]:
        moved = document["change"][split][name]
        cells = [
            Cell(spread_of(document[head][split][name]), _mean(document[head][split][name]))
            for head in ("before", "balanced", "after")
        ]
        means = [_mean(document[head][split][name]) for head in ("before", "balanced", "after")]
        lower = name in LOWER_IS_BETTER
        rows.append(
            [
                soft(name),
                track(*means),
                *cells,
                change(_mean(moved), spread_of(moved, signed=True), lower_is_better=lower),
            ]
        )
    columns = ["metric", " 0 to 100 %", "before", "balanced", "after", "change"]
    label = f"mean and standard deviation of every metric on {split}"
    unsure = [
        name
        for name, own in document["change"][split].items()
        if own and own["std"] is not None and abs(own["mean"]) < own["std"]
    ]
    lead = "Mean ± standard deviation over the seeds."
    lead += f" Smaller than their own spread are the changes of {', '.join(unsure)}." if unsure else ""
    return Section("metrics", "Every metric", lead, figure(table(columns, [("", rows)], label=label), label=label))


def _spread_classes(document: dict[str, Any], split: str) -> Section:
    recall, names = document["recall"], document["class_names"]
    rows: list[Row] = []
    moves: list[tuple[float, str]] = []
    for label, name in enumerate(names):
        own = [recall[head][split][label] for head in ("before", "balanced", "after")]
        means = [_mean(value) for value in own]
        moved = None if means[2] is None or means[0] is None else means[2] - means[0]
        moves += [] if moved is None else [(moved, name)]
        cells: list[Content] = [Cell(spread_of(value), mean) for value, mean in zip(own, means, strict=True)]
        rows.append([name, track(*means), *cells, change(moved, points(moved))])
    (low, loser), (high, winner) = min(moves), max(moves)
    lead = f"On average {winner} moved by {points(high)} points and {loser} by {points(low)}."
    columns = ["class", " recall, 0 to 100 %", "before", "balanced", "after", "change"]
    what = f"mean recall of each class on {split}"
    body = figure(table(columns, [("", rows)], label=what, tall=len(rows) > TRACKED), label=what)
    return Section("classes", "Recall of each class", lead, body)


def _kept(document: dict[str, Any]) -> Section:
    number = len(document["seeds"])
    rows: list[Row] = []
    for own in document["constraints"]:
        on_test = "–" if own["met_on_test"] is None else f"{own['met_on_test']} of {number}"
        rows.append([own["expression"], f"{own['bound']:.3f}", f"{own['met']} of {number}", on_test])
    columns = ["constraint", "bound", "seeds that meet it on val", "on test"]
    met = sum(own["met"] == number for own in document["constraints"])
    lead = f"{met} of {count(len(rows), 'constraint')} met by all seeds on validation."
    return Section(
        "constraints",
        "Constraints",
        lead,
        figure(table(columns, [("", rows)], label="constraints"), label="constraints"),
    )


def _mean(figures: dict[str, float | None] | None) -> float | None:
    return None if figures is None else figures["mean"]


def spread_of(figures: dict[str, float | None] | None, *, signed: bool = False) -> str:
    """Return a mean with its standard deviation over seeds, in percent or, `signed`, as a change in points."""
    mean = _mean(figures)
    if figures is None or mean is None:
        return "–"
    std = "" if figures["std"] is None else f" ± {percent(figures['std'])}"
    return (points(mean) if signed else percent(mean)) + std
