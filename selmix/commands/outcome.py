"""What stage two gave, for one seed, several, or several metrics."""

from pathlib import Path
from typing import Any

from selmix.commands.several import show_seeds
from selmix.commands.show import show_result
from selmix.commands.sweep import show_sweep


def show_outcome(document: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print a result, as `finetune_all` returns it; then raise ConstraintError if a constraint is not met."""
    show = show_sweep if "pareto" in document else show_seeds if "seeds" in document else show_result
    show(document, folder, as_json=as_json, quiet=quiet)
