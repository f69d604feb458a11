"""`selmix metrics`."""

import json

from rich.table import Table

from selmix.commands.console import out
from selmix.commands.options import Json
from selmix.evaluation import REPORTED
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
    reported = Table("also reported", "what it is")
    for name, meaning in REPORTED.items():
        reported.add_row(name, meaning)
    out.print(reported)
    out.print(
        "C is the confusion matrix as shares of all samples, rows true; for class i, pi_i is its share of the samples, "
        "c_i its share of the predictions, r_i its recall. All lie in [0, 1], higher is better (but for ece); a class "
        "without samples is left out."
    )
