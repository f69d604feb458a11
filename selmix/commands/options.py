"""Options that several verbs share."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selmix.commands.completion import metric_names


def at_least(least: int) -> Callable[[int | None], int | None]:
    """Return what refuses a smaller number behind an option."""

    def checked(value: int | None) -> int | None:
        if value is not None and value < least:
            raise typer.BadParameter(f"it must be at least {least}, got {value}")
        return value

    return checked


class Device(StrEnum):
    """Where the backbone runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


INPUT, GOAL, OUTPUT, IMAGES = "What to work on", "What to tune for", "What comes out", "How images become features"

MetricName = Annotated[
    str,
    typer.Option(
        "--metric",
        help="What to raise: a metric listed by `selmix metrics`, arithmetic on these, or FILE.py:FUNCTION; several "
        "with commas between them are tuned for one by one.",
        autocompletion=metric_names,
        rich_help_panel=GOAL,
    ),
]
SubjectTo = Annotated[
    list[str] | None,
    typer.Option(
        "--subject-to",
        help="What the head must keep, such as 'coverage >= 0.95/k'; repeatable.",
        rich_help_panel=GOAL,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the run.", rich_help_panel=OUTPUT)]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", callback=at_least(0), help="Seed of every random choice; 0 if not given.", rich_help_panel=GOAL
    ),
]
DeviceName = Annotated[Device, typer.Option("--device", help="Where the backbone runs.", rich_help_panel=IMAGES)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout and nothing else there.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no tables.", rich_help_panel=OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.", rich_help_panel=OUTPUT)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished run in the --out folder.", rich_help_panel=OUTPUT)
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. steps=2000 (docs/settings.md has them all)."),
]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds, one run each: 0..4, or 0,1,2.", rich_help_panel=GOAL)]
