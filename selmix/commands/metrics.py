"""`selmix metrics`."""

import json

from rich.table import Table

from selmix.commands.console import out
from selmix.commands.options import Json
from selmix.metrics import ALIASES, METRICS


def metrics(as_json: Json = False) -> None:
    """List the metrics that --metric accepts, with their formulas."""
    rows = [
        {
            "name": metric.name,
            "formula": metric.formula,
            "aliases": [alias for alias, name in ALIASES.items() if name == metric.name],
        }
        for metric in METRICS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("metric", "formula", "also called")
    for row in rows:
        table.add_row(str(row["name"]), str(row["formula"]), ", ".join(row["aliases"]))
    out.print(table)
    out.print(
        "C is the joint confusion matrix (rows true), pi_i a class's prior, r_i its recall, c_i its coverage.\n"
        "All lie in [0, 1], higher is better; a class without samples is left out."
    )
