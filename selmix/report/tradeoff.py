"""Several metrics on one page: what each head is worth in all of them, and who is on the front."""

import base64
from typing import Any

from markupsafe import Markup

from selmix.report.command import command_of
from selmix.report.material import repeated
from selmix.report.section import Section
from selmix.report.several import spread_of
from selmix.report.tables import Cell, Row, figure, soft, table
from selmix.report.words import count, listed, points


def tradeoff(document: dict[str, Any], drawing: str, recipe: dict[str, Any]) -> tuple[str, list[str], list[Section]]:
    """Return title, what is said below it, and sections of a sweep.

    Args:
        document: `sweep.json`.
        drawing: `pareto.svg`.
        recipe: of one of the runs.
    """
    split, metrics, numbers = "val" if document["optimistic"] else "test", document["metrics"], document["seeds"]
    front = document["pareto"][split]
    title = f"Tuned for one metric each: {_own_gains(document, split, 'before')} points on {split}"
    weighed = ", ".join(document["pareto"]["metrics"])
    lines = [
        f"{count(len(numbers), 'seed')} each; points over the {document['before_is']}.",
        f"Over a class-balanced head on the same labels: {_own_gains(document, split, 'balanced')} points.",
        f"On the front on {split}: {listed(front)}. No other head beats any of these in {weighed} together.",
        "To pick one of these heads by its figures on test is to choose on test: sweep.json has the front of val, too.",
    ]
    columns = list(dict.fromkeys([*document["pareto"]["metrics"], *metrics]))
    rows: list[Row] = []
    for head in document["heads"]:
        cells = [
            Cell(spread_of(head[split][name]), (head[split][name] or {}).get("mean"), "best" * (name == head["head"]))
            for name in columns
        ]
        rows.append([_linked(head, numbers), *cells, "yes" if head["head"] in front else "–"])
    label = f"heads on {split}, %, mean ± standard deviation over seeds"
    heads = figure(table(["tuned for", *columns, "on the front"], [("", rows)], label=label), label=label)
    lead = f"A row is a head; in bold what it was tuned for. Before is the {document['before_is']}."
    source = base64.b64encode(drawing.encode()).decode()
    drawn = Markup('<img class="drawing" src="data:image/svg+xml;base64,{}" alt="{}">').format(
        source, f"heads by {weighed} on {split}; the table has their numbers"
    )
    sections = [
        Section("heads", "What one metric costs the others", lead, heads, "Heads"),
        Section("front", "The front", lines[2], figure(drawn, label=f"heads by {weighed} on {split}"), "Front"),
    ]
    sections += _kept(document)
    recipe = recipe | {"metric": ",".join(metrics)}
    command = command_of(document["command"], recipe, len(document["class_names"]), seeds=numbers)
    return title, lines, [*sections, repeated(command, document, "")]


def _own_gains(document: dict[str, Any], split: str, other: str) -> str:
    """Return the change of each metric over another head, in the mean of seeds, of the head tuned for it."""
    means = {
        head["head"]: {name: own and own["mean"] for name, own in head[split].items()} for head in document["heads"]
    }
    changes = []
    for name in document["metrics"]:
        after, start = means[name][name], means[other][name]
        changes.append(f"{name} {points(None if after is None or start is None else after - start)}")
    return listed(changes, most=4)


def _linked(head: dict[str, Any], seeds: list[int]) -> Markup | str:
    if head["folder"] is None:
        return head["head"]
    link = Markup(' <a href="{}/seed{}/report.html">seed {}</a>')
    return soft(head["head"]) + Markup("").join(link.format(head["folder"], seed, seed) for seed in seeds)


def _kept(document: dict[str, Any]) -> list[Section]:
    """Return what became of constraints, if there were any."""
    seeds = len(document["seeds"])
    rows: list[Row] = []
    for head in document["heads"]:
        for own in head["constraints"]:
            on_test = "–" if own["met_on_test"] is None else f"{own['met_on_test']} of {seeds}"
            rows.append([head["head"], own["expression"], f"{own['met']} of {seeds}", on_test])
    if not rows:
        return []
    met = sum(own["met"] == seeds for head in document["heads"] for own in head["constraints"])
    columns = ["tuned for", "constraint", "seeds that meet it on val", "on test"]
    body = figure(table(columns, [("", rows)], label="constraints"), label="constraints")
    return [Section("constraints", "Constraints", f"{met} of {len(rows)} met by all seeds on validation.", body)]
