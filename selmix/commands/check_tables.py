"""What `selmix check` found, in words and tables."""

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from selmix.data.findings import Finding

_MOST_CLASSES = 30
_SHOWN = 10  # classes at either end, where there are more


def printable(text: str) -> str:
    """Return text that any terminal takes: file names need not be UTF-8."""
    return escape(text.encode("utf-8", "backslashreplace").decode())


def class_table(document: dict[str, Any]) -> Table:
    """Return how many images each class has in each split."""
    rows, splits = document["classes"], list(document["splits"])
    title = "images of each class"
    if len(rows) > _MOST_CLASSES:
        by = splits[0]
        order = sorted(rows, key=lambda row: -row[by])
        title += f": the {_SHOWN} largest and smallest of {len(rows)} by {by}"
        rows = [*order[:_SHOWN], *order[-_SHOWN:]]
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("class", footer="all\nlargest / smallest")
    for split in splits:
        factor = document["splits"][split]["imbalance_factor"]
        total = document["splits"][split]["images"]
        table.add_column(split, justify="right", footer=f"{total}\n{'-' if factor is None else f'{factor:.4g}'}")
    table.add_column("group")
    for row in rows:
        table.add_row(printable(row["class"]), *(str(row[split]) for split in splits), row["group"] or "")
    return table


def group_table(document: dict[str, Any]) -> Table:
    """Return how many images each group of samples has in each split."""
    splits = list(document["splits"])
    table = Table("group of samples", title="images of each group of samples", title_justify="left")
    for split in splits:
        table.add_column(split, justify="right")
    for name, counts in document["groups"].items():
        table.add_row(printable(name), *(str(counts.get(split, "-")) for split in splits))
    return table


def images_line(split: str, facts: dict[str, Any]) -> str:
    """Return what the images of a split are."""
    modes = ", ".join(f"{count} {mode}" for mode, count in facts["modes"].items() if mode != "RGB")
    sizes = " x ".join("-".join(map(str, sorted(set(facts[side] or [])))) for side in ("width", "height"))
    return f"{split}: {facts['read']} of {facts['of']} images read, {sizes} pixels" + (f"; {modes}" if modes else "")


def finding_table(findings: "list[Finding]") -> Table:
    """Return the findings by kind, how many there are, and the first of each."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.severity, finding.kind, finding.split), []).append(finding)
    table = Table(title="findings", title_justify="left")
    for column in ("", "kind", "split", "count", "the first"):
        table.add_column(column, overflow="fold")
    for (severity, kind, split), same in alike.items():
        first = same[0]
        place = "" if first.path in first.message else f"{first.path}: "
        pair = f" ({first.other_path})" if first.other_path else ""
        colour = "red" if severity == "error" else "yellow"
        shown = printable(f"{place}{first.message}{pair}")
        table.add_row(f"[{colour}]{severity}[/{colour}]", kind, split, str(len(same)), shown)
    return table
