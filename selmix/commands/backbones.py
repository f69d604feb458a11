"""`selmix backbones`."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from selmix.commands.console import guarded, out
from selmix.commands.options import Debug, Json
from selmix.commands.tables import percent


def backbones(
    pattern: Annotated[
        str | None, typer.Argument(help="List the timm models that fit instead, such as 'efficientnet*'.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the backbones that ship, our own architectures, and what of timm this machine can load without a network."""
    with guarded(quiet=False, debug=debug):
        from selmix.backbones.catalogue import own_architectures, shipped_backbones, timm_backbones

        if pattern is None:
            document = {"shipped": shipped_backbones(), "own": own_architectures(), "timm": timm_backbones()}
        else:
            document = {"timm": timm_backbones(pattern)}
        if as_json:
            print(json.dumps(document, indent=1))
            return
        for row in document.get("shipped", []):
            _say(_described(row))
        if "own" in document:
            own = Table("name", "input", "features", "parameters")
            for row in document["own"]:
                own.add_row(row["name"], _size(row), str(row["num_features"]), f"{row['parameters']:,}")
            _say("\nOur own architectures, for --arch, timm:NAME@CHECKPOINT and recipes of `selmix train`:")
            out.print(own)
            _say("timm models with weights in the hub's cache on this machine:" + " none" * (not document["timm"]))
        if document["timm"]:
            out.print(_timm_table(document["timm"]))
        if pattern is None:
            _say("timm:NAME takes them from there, or from the hub; `selmix backbones 'resnet*'` lists names.")
            _say("timm:NAME@CHECKPOINT takes a local file (docs/backbones.md).")


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _size(row: dict[str, Any]) -> str:
    return "x".join(map(str, row["input_size"])) if row["input_size"] else "?"


def _described(row: dict[str, Any]) -> str:
    about = f"{row['architecture']}, {_size(row)} pixels, {row['num_features']} features"
    figures = [f"{percent(row['test'].get(f'{name}_recall'))} % {name} recall" for name in ("mean", "min")]
    return (
        f"{row['name']} ({row['licence']}): {about}\n"
        f"  trained on {row['trained_on']}, {row['num_classes']} classes; on test {', '.join(figures)}"
    )


def _timm_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", "input", "licence", "weights")
    for row in rows:
        weights = "cached here" if row["cached"] else "published" if row["published"] else "none published"
        table.add_row(row["name"], _size(row), row["licence"] or "not stated", weights)
    return table
