"""A sweep over metrics in words and a table."""

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from selmix.commands.console import out, show_report
from selmix.commands.several import check_seeds, with_spread

_WIDE = 24  # letters of a name that may be folded


def show_sweep(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print what a sweep gave; then raise ConstraintError if a constraint was not met for one of its runs."""
    seeds = len(document["seeds"])
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    elif not quiet:
        split = "val" if document["optimistic"] else "test"
        out.print(_table(document, split))
        for line in [*_words(document, split), f"written: {folder / 'sweep.json'}, sweep.csv and pareto.svg beside it"]:
            out.print(line, soft_wrap=True, highlight=False)
        show_report(folder)
    check_seeds({head["head"]: head["constraints"] for head in document["heads"]}, seeds, folder)


def _table(document: dict[str, Any], split: str) -> Table:
    seeds, front = len(document["seeds"]), document["pareto"][split]
    title = f"heads on {split}, %, mean ± std over {seeds} seed(s); * Pareto-optimal: no other head beats it in "
    table = Table(title=title + ", ".join(document["pareto"]["metrics"]), title_justify="left")
    table.add_column("tuned for", no_wrap=len(max(document["metrics"], key=len)) < _WIDE)
    columns = dict.fromkeys([*document["pareto"]["metrics"], *document["metrics"]])
    for name in columns:
        table.add_column(escape(name).replace("_", "_\n"), justify="right", overflow="fold")
    for head in document["heads"]:
        cells = []
        for name in columns:
            cell = with_spread(head[split][name])
            cells.append(f"[bold]{cell}[/bold]" if name == head["head"] else cell)
        table.add_row(escape(head["head"]) + " *" * (head["head"] in front), *cells)
    return table


def _words(document: dict[str, Any], split: str) -> list[str]:
    seeds, lines = len(document["seeds"]), []
    lines.append(f"Pareto-optimal on {split}: {escape(', '.join(document['pareto'][split]))}")
    if document["optimistic"]:
        lines.append("[bold red]optimistic:[/bold red] there is no test split; these figures steered the tuning")
    else:
        lines.append("to pick one of these heads by its figures on test is to choose on test: sweep.json has val, too")
    for head in document["heads"]:
        for own in head["constraints"]:
            counts = [f"{own['met']} of {seeds} seeds on val"]
            if own["met_on_test"] is not None:
                counts.append(f"{own['met_on_test']} on test")
            lines.append(f"{escape(head['head'])} subject to {escape(own['expression'])}: met for {', '.join(counts)}")
    return lines
