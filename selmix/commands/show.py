"""A run in words and tables."""

import json
from pathlib import Path
from typing import Any

from selmix.commands.console import out
from selmix.commands.tables import class_table, metric_table, percent

_COST = 0.005  # a class or metric that fell by less than half a point is not called a cost


def show_result(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as tables, or not at all."""
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    elif not quiet:
        split = "val" if document["optimistic"] else "test"
        out.print(class_table(document, split))
        for part in document["after"]:
            out.print(metric_table(document, part))
        for line in [*_summary(document, split), f"written: {folder / 'result.json'} and the tuned head beside it"]:
            out.print(line, soft_wrap=True, highlight=False)


def _summary(document: dict[str, Any], split: str) -> list[str]:
    """Say in words what improved and what it cost."""
    name = document["metric"]
    before, balanced, after = (document[head][split][name] for head in ("before", "balanced", "after"))
    lines = [
        f"[bold]{name}[/bold] on {split}: {percent(before)} ({document['before_is']}) -> {percent(after)}; "
        f"a head retrained with class-balanced sampling has {percent(balanced)}"
    ]
    classes = zip(
        document["class_names"], document["recall"]["before"][split], document["recall"]["after"][split], strict=True
    )
    falls = [(after - before, f"recall of {name}") for name, before, after in classes]
    falls += [
        (value - document["before"][split][key], key)
        for key, value in document["after"][split].items()
        if value is not None and key not in ("ece", name)
    ]
    costs = [f"{what} {100 * fall:+.1f}" for fall, what in sorted(falls) if fall < -_COST]
    lines.append(f"paid for with: {', '.join(costs)}" if costs else "nothing else fell by half a point or more")
    if document["optimistic"]:
        lines.append("[bold red]optimistic:[/bold red] there is no test split; these figures steered the tuning")
    return lines
