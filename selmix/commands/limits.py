"""What became of the constraints, in words."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from selmix.errors import ConstraintError


def constraint_line(report: dict[str, Any]) -> str:
    """Return what became of a constraint, at its worst item, on every split that there is."""
    parts = []
    for split, met in (("val", report["met"]), ("test", report["met_on_test"])):
        if met is not None:
            low, high = report["interval"][split]
            verdict = "met" if met else "[bold red]not met[/bold red]"
            item = escape(f"{report['worst'][split]} is {report[split]:.3f}")
            parts.append(f"{verdict} on {split} ({item}, 95 % interval {low:.3f} .. {high:.3f})")
    return f"subject to {escape(report['expression'])}: {', '.join(parts)}"


def check_constraints(document: dict[str, Any], folder: Path) -> None:
    """Raise ConstraintError, naming what is not met on validation and by how much."""
    failed = [
        f"{own['expression']}: {own['worst']['val']} is {own['val']:.4g}, {abs(own['val'] - own['bound']):.3g} off"
        for own in document["constraints"]
        if not own["met"]
    ]
    if failed:
        raise ConstraintError(
            f"not met on validation: {'; '.join(failed)} (the head that came closest is in {folder}); ask for less"
        )
