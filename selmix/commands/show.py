"""The before/after tables of a run."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from selmix.commands.console import out

_COST = 0.005  # a class or metric that fell by less than half a point is not called a cost


def show_result(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as tables, or not at all."""
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    elif not quiet:
        split = "val" if document["optimistic"] else "test"
        out.print(_class_table(document, split))
        for part in document["after"]:
            out.print(_metric_table(document, part))
        for line in _summary(document, split):
            out.print(line, soft_wrap=True, highlight=False)
        out.print(f"written: {folder / 'result.json'} and the tuned head beside it", soft_wrap=True, highlight=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _points(change: float | None) -> str:
    if change is None:
        return "-"
    colour = "green" if change > 0 else "red" if change < 0 else "dim"
    return f"[{colour}]{100 * change:+.1f}[/{colour}]"


def _class_table(document: dict[str, Any], split: str) -> Table:
    table = Table(title=f"recall of each class on {split}, %", title_justify="left")
    table.add_column("class")
    for column in ("train images", "before", "balanced", "after", "change"):
        table.add_column(column, justify="right")
    recall = {name: document["recall"][name][split] for name in ("before", "balanced", "after")}
    for label, name in enumerate(document["class_names"]):
        before, balanced, after = (recall[head][label] for head in ("before", "balanced", "after"))
        count = document["support"]["train"][label]
        name = name.replace("[", "\\[")
        table.add_row(name, str(count), *map(_percent, (before, balanced, after)), _points(after - before))
    return table


def _metric_table(document: dict[str, Any], split: str) -> Table:
    role = "steered the tuning" if split == "val" else "looked at once, at the end"
    table = Table(title=f"every metric on {split} ({role}), %", title_justify="left")
    table.add_column("metric")
    intervals = document["interval"].get("change", {}).get(split, {})
    for column in ("before", "balanced", "after", "change", *(["95 % interval"] if intervals else [])):
        table.add_column(column, justify="right")
    for name, after in document["after"][split].items():
        before, balanced = document["before"][split][name], document["balanced"][split][name]
        row = [
            _percent(before),
            _percent(balanced),
            _percent(after),
            _points(None if after is None else after - before),
        ]
        if name in intervals:
            low, high = intervals[name]
            row.append(f"{100 * low:+.1f} .. {100 * high:+.1f}")
        table.add_row(f"[bold]{name}[/bold]" if name == document["metric"] else name, *row)
    return table


def _summary(document: dict[str, Any], split: str) -> list[str]:
    """Say in words what improved and what it cost."""
    name = document["metric"]
    before, balanced, after = (document[head][split][name] for head in ("before", "balanced", "after"))
    lines = [
        f"[bold]{name}[/bold] on {split}: {_percent(before)} ({document['before_is']}) -> {_percent(after)}; "
        f"a head retrained with class-balanced sampling: {_percent(balanced)}"
    ]
    classes = zip(
        document["class_names"], document["recall"]["before"][split], document["recall"]["after"][split], strict=True
    )
    falls = [(after - before, f"recall of {name}") for name, before, after in classes]
    falls += [
        (value - document["before"][split][key], key)
        for key, value in document["after"][split].items()
        if value is not None and key not in ("ece", name)
    ]
    costs = [f"{what} {100 * fall:+.1f}" for fall, what in sorted(falls) if fall < -_COST]
    lines.append(f"paid for with: {', '.join(costs)}" if costs else "nothing else fell by half a point or more")
    if document["optimistic"]:
        lines.append("[bold red]optimistic:[/bold red] there is no test split; these figures steered the tuning")
    return lines
