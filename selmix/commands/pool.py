"""The unlabeled pool of a run in words and a table."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from selmix.audit.words import headline, remedy
from selmix.commands.tables import percent

_SHOWN = 20  # classes


def pool_table(pool: dict[str, Any]) -> Table:
    """Return what the pseudo-labels of each class are worth; of many classes those of the lowest bound."""
    classes, truth = pool["classes"], pool["audit"]
    worst = sorted(range(len(classes)), key=lambda label: classes[label]["precision_lower"])[:_SHOWN]
    which = f" ({_SHOWN} classes of the lowest bound)" if len(classes) > _SHOWN else ""
    table = Table(title=f"pseudo-labels of the unlabeled pool, %{which}", title_justify="left")
    table.add_column("class")
    columns = ["found", "selected", "precision", "at least", "prior", "95 % interval"]
    for column in (*columns, *(["true precision"] if truth else [])):
        table.add_column(column, justify="right", no_wrap=column.startswith("95"))
    for label in sorted(worst):
        own = classes[label]
        cells = [f"{own['found']:,}", f"{own['selected']:,}", percent(own["precision"])]
        cells += [percent(own["precision_lower"]), percent(own["prior"])]
        cells.append(" .. ".join(map(percent, own["prior_interval"] or [None])))
        if truth:
            cells.append(percent(truth["selected"]["precision"][label]))
        table.add_row(escape(own["name"]), *cells)
    return table


def pool_lines(document: dict[str, Any]) -> list[str]:
    """Return what became of the pool of a run, and what else could be done; nothing without one."""
    pool = document["pseudo_labels"]
    if pool is None:
        return []
    lines = [*headline(pool, document["metric"]), remedy(pool, document["support"]["val"])]
    return [escape(line) for line in lines if line is not None]
