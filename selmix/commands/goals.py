"""Options of what to tune for that belong to one verb."""

from typing import Annotated

import typer

from selmix.commands.completion import METHODS, method_names
from selmix.commands.options import GOAL

Diagnose = Annotated[
    bool,
    typer.Option(
        "--diagnose",
        help="Also measure how well the gains of class pairs predict what steps do.",
        rich_help_panel=GOAL,
    ),
]
SeveralSeeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Instead of --seed: a run for each, 0..4 or 0,1,2; then also mean and std.",
        rich_help_panel=GOAL,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help=f"Some of {', '.join(METHODS)}; all by default.",
        autocompletion=method_names,
        rich_help_panel=GOAL,
    ),
]
ValPerClass = Annotated[
    int | None,
    typer.Option(
        "--val-per-class",
        help="Use so many validation samples a class; every seed draws its own.",
        rich_help_panel=GOAL,
    ),
]
