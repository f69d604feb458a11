"""Options of the verbs that put a finished run to use."""

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that finetune or demo wrote.")]
MovedBackbone = Annotated[
    str | None, typer.Option("--backbone", help="Where the run's backbone lies now, if it was moved; as for finetune.")
]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace the --out file.")]
