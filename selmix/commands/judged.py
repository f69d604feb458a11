"""A judgement of a head in words and tables."""

from typing import Any

from rich.table import Table

from selmix.commands.check_tables import printable
from selmix.commands.console import out
from selmix.commands.tables import interval, percent, points


def show_judgement(document: dict[str, Any]) -> None:
    """Show the recall of every class, every metric, and how far probabilities can be trusted."""
    out.print(_classes(document))
    out.print(_metrics(document))
    split, calibration = document["split"], document["calibration"]
    plain, calibrated = calibration["plain"], calibration["calibrated"]
    _say(
        f"calibration on {split}: ece {percent(plain['ece'])} % as it is, {percent(calibrated['ece'])} % at "
        f"temperature {calibration['temperature']:.3g} (predict --calibrated)"
    )
    if document["left_out"]:
        _say(f"left out: {document['left_out']:,} image(s) that could not be read")
    if document["optimistic"]:
        out.print(f"[bold red]optimistic:[/bold red] the head has learnt the labels of {split}", highlight=False)


def _classes(document: dict[str, Any]) -> Table:
    recall, before = document["recall"], document["before"] is not None
    table = Table(title=f"recall of each class on {document['split']}, %", title_justify="left")
    table.add_column("class")
    for column in ("images", *(["before"] if before else []), "after"):
        table.add_column(column, justify="right")
    for label, name in enumerate(document["class_names"]):
        cells = [percent(recall[head][label]) for head in (("before", "after") if before else ("after",))]
        table.add_row(printable(name), f"{document['support'][label]:,}", *cells)
    return table


def _metrics(document: dict[str, Any]) -> Table:
    before, after, intervals = document["before"], document["after"], document["interval"]
    table = Table(title=f"every metric on {document['split']}, %", title_justify="left")
    table.add_column("metric")
    columns = ("before", "after", "change", "95 % interval") if before else ("after", "95 % interval")
    for column in columns:
        table.add_column(column, justify="right")
    for name, value in after.items():
        shown = f"[bold]{printable(name)}[/bold]" if name == document["metric"] else printable(name)
        if before:
            cells = [
                percent(before[name]),
                percent(value),
                points(None if None in (value, before[name]) else value - before[name]),
            ]
            cells += [interval(*intervals["change"][name])] if name in intervals["change"] else []
        else:
            cells = [percent(value)]
            cells += [" .. ".join(map(percent, intervals["after"][name]))] if name in intervals["after"] else []
        table.add_row(shown, *cells)
    return table


def _say(line: str) -> None:
    out.print(printable(line), soft_wrap=True, highlight=False)
