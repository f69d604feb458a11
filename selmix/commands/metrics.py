"""`selmix metrics`."""

import json

from rich.table import Table

from selmix.commands.console import out
from selmix.commands.options import Json


def metrics(as_json: Json = False) -> None:
    """List the metrics that --metric accepts, with their formulas."""
    from selmix.metrics import ALIASES, DEFINITIONS
    from selmix.metrics.names import REPORTED

    rows = [
        {
            "name": metric.name,
            "formula": metric.formula,
            "aliases": [alias for alias, name in ALIASES.items() if name == metric.name],
            "range": [metric.lowest, 1.0],
            "higher_is_better": True,
            "empty_class": metric.empty_class,
            "needs": metric.needs,
        }
        for metric in DEFINITIONS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table()
    table.add_column("metric", no_wrap=True)
    for column in ("range", "formula", "also called"):
        table.add_column(column, overflow="fold")
    for metric in DEFINITIONS.values():
        aliases = ", ".join(alias for alias, name in ALIASES.items() if name == metric.name)
        needs = f" (needs {metric.needs})" if metric.needs else ""
        table.add_row(metric.name, f"{metric.lowest:g} .. 1", metric.formula + needs, aliases)
    out.print(table)
    reported = Table("also reported", "what it is")
    for name, meaning in REPORTED.items():
        reported.add_row(name, meaning)
    out.print(reported)
    out.print(
        "C is the confusion matrix as shares of all samples, rows true; for class i, pi_i is its share of the samples, "
        "c_i its share of the predictions, r_i its recall. Higher is better (but for ece); a class "
        "without samples is left out."
    )
    out.print(
        "--metric also takes arithmetic on these, such as 0.5*mean_recall + 0.5*min(recall[cat], precision[dog]), and "
        "a function of your own, path/to/file.py:function.",
        markup=False,
    )
