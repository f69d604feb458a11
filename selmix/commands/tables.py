"""The before/after tables of a run."""

from typing import Any

from rich.markup import escape
from rich.table import Table

MANY, ENDS = 60, 10  # classes that are not all listed, and how many of the lowest and highest recall are then


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


def class_table(document: dict[str, Any], split: str) -> Table:
    """Return the recall of every class before and after on a split; of many classes those at both ends."""
    chosen = listed_classes(document["recall"]["after"][split])
    ends = len(chosen) < len(document["class_names"])
    whose = (
        f"the {ENDS} lowest and {ENDS} highest of {len(document['class_names']):,} classes" if ends else "each class"
    )
    table = Table(title=f"recall of {whose} on {split}, %", title_justify="left")
    table.add_column("class")
    for column in ("train images", "before", "balanced", "after", "change"):
        table.add_column(column, justify="right")
    recall = {name: document["recall"][name][split] for name in ("before", "balanced", "after")}
    for place, label in enumerate(chosen):
        name = document["class_names"][label]
        before, balanced, after = (recall[head][label] for head in ("before", "balanced", "after"))
        count = document["support"]["train"][label]
        table.add_row(
            escape(name),
            str(count),
            *map(percent, (before, balanced, after)),
            points(None if after is None else after - before),
            end_section=ends and place == ENDS - 1,
        )
    if ends:
        table.caption = "result.json and report.html have them all"
    return table


def listed_classes(recall: list[float | None]) -> list[int]:
    """Return the labels to show: all, or of many classes those with the lowest recall, then those with the highest.

    >>> listed_classes([0.5, None, 0.25])
    [0, 1, 2]
    """
    if len(recall) <= MANY:
        return list(range(len(recall)))
    rising = sorted((value, label) for label, value in enumerate(recall) if value is not None)
    return [label for _, label in rising[:ENDS] + rising[ENDS:][-ENDS:]]


def group_table(document: dict[str, Any], split: str) -> Table:
    """Return the recall of every class in every group of samples that has some, before and after on a split."""
    groups = document["groups"]
    table = Table(title=f"recall of each class in each group on {split}, %", title_justify="left")
    for column in ("class", "group"):
        table.add_column(column)
    for column in ("train", split, "before", "balanced", "after", "change"):
        table.add_column(column, justify="right")
    for label, class_name in enumerate(document["class_names"]):
        for group, name in enumerate(groups["names"]):
            counts = [groups["support"][part][label][group] for part in ("train", split)]
            if counts[1]:
                before, balanced, after = (
                    groups["recall"][head][split][label][group] for head in ("before", "balanced", "after")
                )
                shown = *map(percent, (before, balanced, after)), points(after - before)
                table.add_row(escape(class_name), escape(name), *map(str, counts), *shown)
    return table


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
