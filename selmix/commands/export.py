"""`selmix export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from selmix.commands import extracting, running
from selmix.commands.check_tables import printable
from selmix.commands.console import alone, out
from selmix.commands.options import Debug, Json, Quiet


def export(
    run: running.RunFolder,
    kind: Annotated[str, typer.Option("--format", metavar="head|timm|onnx", help="What to make of it.")],
    file: Annotated[Path, typer.Option("--out", help="File: .safetensors, or .onnx; the model card goes to FILE.md.")],
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images to compare on, as for predict; repeatable. Some of the run's, if not given."),
    ] = None,
    backbone: running.MovedBackbone = None,
    arch: extracting.Arch = None,
    overwrite: running.OverwriteFile = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a file to deploy, and a model card beside it.

    head: weight and bias, with class names, preprocessing and scores. timm: backbone and head as one checkpoint for
    timm.create_model. onnx: the same as a graph; it needs the extra named onnx. The last two are compared with backbone
    and head on real images, and nothing is written if they differ. docs/deploy.md tells how to load them.
    """
    from selmix.deploy.exporting import check_export, export_run
    from selmix.deploy.opening import open_run

    with alone("export", quiet=quiet, debug=debug):
        check_export(kind, file, overwrite=overwrite)
        document = export_run(open_run(run), kind, file, backbone=backbone, arch=arch, images=images or [])
        if as_json:
            print(json.dumps(document, indent=1))
        elif not quiet:
            if document["parity"]:
                _say(document["parity"]["words"])
            _say(f"written: {file} ({document['bytes']:,} bytes) and its model card {document['card']}")


def _say(line: str) -> None:
    out.print(printable(line), soft_wrap=True, highlight=False)
