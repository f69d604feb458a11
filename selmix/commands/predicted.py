"""Predictions in words, in a table, and as JSON."""

import json
from pathlib import Path

from rich.table import Table

from selmix.commands.check_tables import printable
from selmix.commands.console import out
from selmix.commands.tables import percent
from selmix.deploy.predicting import Predictor
from selmix.deploy.sheets import Layout, Tally

_MOST_CLASSES = 12


def print_predictions(run: Path, predictor: Predictor, tally: Tally, layout: Layout, file: Path | None) -> None:
    """Print what was predicted as one JSON document, with all rows where no file has them."""
    text = json.dumps(
        {
            "schema": 1,
            "command": "predict",
            "run": str(run),
            "out": file and str(file),
            "temperature": predictor.temperature,
            "count": tally.total,
            "classes": tally.counts,
            "left_out": predictor.bad,
        }
    )
    if tally.spool is None:
        print(text)
        return
    # row by row: all of them may be many
    print(text[:-1] + ', "predictions": [')
    for number, row in enumerate(tally.objects(layout)):
        print(("," if number else "") + row)
    print("]}")


def show_predictions(predictor: Predictor, tally: Tally, file: Path | None) -> None:
    """Show the first rows, and how many images were found of each class."""
    table = Table(title="the first predictions" if tally.total > len(tally.first) else None, title_justify="left")
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability, %", justify="right")
    for path, name, probability, *_ in tally.first:
        table.add_row(printable(path), printable(name), percent(probability))
    out.print(table)
    often = [f"{name} {count:,}" for name, count in tally.counts.most_common(_MOST_CLASSES)]
    more = len(tally.counts) - len(often)
    _say(f"{tally.total:,} image(s): {', '.join(often)}" + (f" and {more} more classes" if more else ""))
    if predictor.bad:
        _say(f"left out: {len(predictor.bad):,} image(s) that could not be read")
    _say(f"written: {file}" if file else "--out FILE.csv or FILE.parquet keeps all rows and all probabilities")


def _say(line: str) -> None:
    out.print(printable(line), soft_wrap=True, highlight=False)
