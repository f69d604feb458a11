"""The before/after tables of a run."""

from typing import Any

from rich.markup import escape
from rich.table import Table


def percent(value: float | None) -> str:
    """Return a rate as a percentage with one decimal, `-` where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(low: float, high: float) -> str:
    """Return an interval of a difference in points."""
    return f"{100 * low:+.1f} .. {100 * high:+.1f}"


def points(change: float | None, *, up_is_good: bool = True) -> str:
    """Return a change in points, coloured."""
    if change is None:
        return "-"
    colour = "dim" if change == 0 else "green" if (change > 0) == up_is_good else "red"
    return f"[{colour}]{100 * change:+.1f}[/{colour}]"


def metric_table(document: dict[str, Any], split: str) -> Table:
    """Return every metric before and after on a split, with intervals where there are some."""
    role = "steered the tuning" if split == "val" else "looked at once, at the end"
    table = Table(title=f"every metric on {split} ({role}), %", title_justify="left")
    table.add_column("metric")
    intervals = document["interval"].get("change", {}).get(split, {})
    for column in ("before", "balanced", "after", "change", *(["95 % interval"] if intervals else [])):
        table.add_column(column, justify="right")
    for name, after in document["after"][split].items():
        before, balanced = document["before"][split][name], document["balanced"][split][name]
        row = [
            percent(before),
            percent(balanced),
            percent(after),
            points(None if after is None else after - before),
        ]
        if name in intervals:
            low, high = intervals[name]
            row.append(interval(low, high))
        table.add_row(f"[bold]{escape(name)}[/bold]" if name == document["metric"] else escape(name), *row)
    return table
