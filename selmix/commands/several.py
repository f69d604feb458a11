"""Several seeds in words and tables."""

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from selmix.commands.console import out, show_report
from selmix.commands.tables import percent
from selmix.errors import ConstraintError


def show_seeds(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print what several seeds gave; then raise ConstraintError if a constraint was not met for one of them."""
    seeds = document["seeds"]
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    elif not quiet:
        split = "val" if document["optimistic"] else "test"
        for part in document["after"]:
            out.print(_table(document, part))
        for line in [*_words(document, split), f"written: {folder / 'seeds.json'} and a run folder for each seed"]:
            out.print(line, soft_wrap=True, highlight=False)
        show_report(folder)
    check_seeds({"": document["constraints"]}, len(seeds), folder)


def check_seeds(constraints: dict[str, list[dict[str, Any]]], seeds: int, folder: Path) -> None:
    """Raise ConstraintError, naming what is not met on validation and for how many of the seeds.

    Args:
        constraints: what became of them over seeds, by what was tuned for; the name may be empty.
        seeds: how many there were.
        folder: of the runs.
    """
    failed = [
        f"{own['expression']} for {seeds - own['met']} of {seeds} seeds" + f" of {name}" * bool(name)
        for name, reports in constraints.items()
        for own in reports
        if own["met"] < seeds
    ]
    if failed:
        raise ConstraintError(
            f"not met on validation: {'; '.join(failed)} (the heads that came closest are in {folder}); ask for less"
        )


def _table(document: dict[str, Any], split: str) -> Table:
    count = len(document["seeds"])
    table = Table(title=f"every metric on {split}, %, mean ± std over {count} seed(s)", title_justify="left")
    table.add_column("metric")
    heads = ("before", "balanced", "after", "change")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name in document["after"][split]:
        cells = (with_spread(document[head][split][name]) for head in heads)
        table.add_row(f"[bold]{escape(name)}[/bold]" if name == document["metric"] else escape(name), *cells)
    return table


def _words(document: dict[str, Any], split: str) -> list[str]:
    name = document["metric"]
    lines = [f"[bold]{escape(name)}[/bold] on {split}: {with_spread(document['after'][split][name])}"]
    for head, key, what in (
        ("before", "change", document["before_is"]),
        ("balanced", "change_from_balanced", "head retrained with class-balanced sampling on the same labels"),
    ):
        change = with_spread(document[key][split][name], sign="+")
        lines.append(f"  {change} points from {with_spread(document[head][split][name])}, the {what}")
    for own in document["constraints"]:
        counts = [f"{own['met']} of {len(document['seeds'])} seeds on val"]
        if own["met_on_test"] is not None:
            counts.append(f"{own['met_on_test']} on test")
        lines.append(f"subject to {escape(own['expression'])}: met for {', '.join(counts)}")
    lines.append(
        "a seed changes what is random in stage two and, without a val split, which part of train is set aside for it; "
        "never the backbone or a split of the data, which vary more"
    )
    return lines


def with_spread(figures: dict[str, float | None] | None, sign: str = "") -> str:
    """Return a mean in percent, and its standard deviation where there is one."""
    if figures is None or figures["mean"] is None:
        return "-"
    std = "" if figures["std"] is None else f" ± {percent(figures['std'])}"
    return f"{100 * figures['mean']:{sign}.1f}{std}"
