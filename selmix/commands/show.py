"""A run in words and tables."""

import json
from pathlib import Path
from typing import Any

from rich.markup import escape

from selmix.commands.class_tables import class_table, group_table
from selmix.commands.console import out, show_report
from selmix.commands.gains import diagnosis_lines
from selmix.commands.limits import check_constraints, constraint_line
from selmix.commands.pool import pool_lines, pool_table
from selmix.commands.tables import interval, metric_table, percent
from selmix.report.words import SHOWN, costs


def show_result(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as tables, or not at all; then raise ConstraintError if a constraint is not met."""
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    elif not quiet:
        split = "val" if document["optimistic"] else "test"
        out.print(class_table(document, split))
        if document["groups"]:
            out.print(group_table(document, split))
        for part in document["after"]:
            out.print(metric_table(document, part))
        if document["pseudo_labels"]:
            out.print(pool_table(document["pseudo_labels"]))
        for line in [*_summary(document, split), f"written: {folder / 'result.json'} and the tuned head beside it"]:
            out.print(line, soft_wrap=True, highlight=False)
        show_report(folder)

    check_constraints(document, folder)


def _summary(document: dict[str, Any], split: str) -> list[str]:
    """Say in words what improved, against what, and what it cost."""
    name = document["metric"]
    after = document["after"][split][name]
    lines = [f"[bold]{escape(name)}[/bold] on {split}: {percent(after)}"]
    balanced = "head retrained with class-balanced sampling on the same labels"
    rivals = (("before", "change", document["before_is"]), ("balanced", "change_from_balanced", balanced))
    for head, key, what in rivals:
        value = document[head][split][name]
        lines.append(
            f"  {100 * (after - value):+.1f} points from {percent(value)}, the {what}{_certainty(document, key)}"
        )
    if document["best_step"] == 0:
        lines.append(f"no step beat the start by a standard error on validation: it stays the {document['start']} head")
    lines.append(_costs(document, split))
    lines += map(constraint_line, document["constraints"])
    lines += diagnosis_lines(document["diagnosis"] or {})
    lines += pool_lines(document)
    if document["optimistic"]:
        lines.append("[bold red]optimistic:[/bold red] there is no test split; these figures steered the tuning")
    return lines


def _certainty(document: dict[str, Any], key: str) -> str:
    """Return the interval of a difference on test, and whether it leaves room for no difference at all."""
    if key not in document["interval"]:
        return ""
    low, high = document["interval"][key]["test"][document["metric"]]
    verdict = ": not distinguishable" if low <= 0 <= high else ""
    verdict = ": the two are alike" if low == high == 0 else verdict
    return f" (95 % interval {interval(low, high)}{verdict})"


def _costs(document: dict[str, Any], split: str) -> str:
    """Return the line that names the classes that pay."""
    paid = [f"{escape(name)} {100 * fall:+.1f}" for fall, name in costs(document, split)]
    shown = ", ".join(paid[:SHOWN]) + (f" and {len(paid) - SHOWN} more" if len(paid) > SHOWN else "")
    return f"paid for with recall of: {shown}" if paid else "no class lost half a point of recall or more"
