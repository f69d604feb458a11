"""Options that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where the backbone runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


MetricName = Annotated[
    str,
    typer.Option(
        "--metric", help="What to raise: a metric listed by `selmix metrics`, arithmetic on these, or FILE.py:FUNCTION."
    ),
]
SubjectTo = Annotated[
    list[str] | None,
    typer.Option("--subject-to", help="What the head must keep, such as 'coverage >= 0.95/k'; repeatable."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the run.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice; 0 if not given.")]
DeviceName = Annotated[Device, typer.Option("--device", help="Where the backbone runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run in the --out folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. steps=2000 (docs/settings.md has them all)."),
]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds, one run each: 0..4, or 0,1,2.")]
