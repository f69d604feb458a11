"""The tables of a run that have a row for each class."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from selmix.commands.tables import percent, points

MANY, ENDS = 60, 10  # classes that are not all listed, and how many of the lowest and highest recall are then


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
