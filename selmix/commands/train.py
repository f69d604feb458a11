"""`selmix train`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from selmix.commands.bars import image_bar
from selmix.commands.completion import recipe_sources
from selmix.commands.console import guarded, out
from selmix.commands.options import Debug, Device, DeviceName, Json, Out, Quiet


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A TOML file, or shipped:NAME (`selmix recipes ls`).", autocompletion=recipe_sources
        ),
    ],
    folder: Out,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe, e.g. seed=1 stage1.epochs=20."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log epochs for TensorBoard, too.")] = False,
    device: DeviceName = Device.auto,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a backbone on the train split, and write its weights and manifest.

    An interrupted training goes on from the last epoch with --resume, as if nothing had happened.

    Several processes share each batch: torchrun --nproc-per-node 2 -m selmix train ...
    """
    import torch

    from selmix.option_words import parse_assignments
    from selmix.pipeline import choose_device
    from selmix.ranks import join_ranks
    from selmix.shipped import recipe_file
    from selmix.stages import train_recipe
    from selmix.training import train_backbone
    from selmix.training_run import RECIPE

    ranks = join_ranks(gpu=device in (Device.auto, Device.cuda) and torch.cuda.is_available())
    guard = guarded(quiet=quiet, debug=debug, silent=not ranks.leads, resumes=folder / RECIPE)
    with guard, image_bar(quiet=quiet or not ranks.leads) as bar:
        manifest = train_backbone(
            train_recipe(recipe_file(recipe), parse_assignments(settings or [])),
            folder,
            device=choose_device(device),
            ranks=ranks,
            resume=resume,
            bar=bar,
            tensorboard=tensorboard,
        )
    if not ranks.leads:
        return
    if as_json:
        print(json.dumps(manifest, indent=1))
    elif not quiet:
        show_backbone(manifest, folder)


def show_backbone(manifest: dict[str, Any], folder: Path) -> None:
    """Print which epoch was kept and what it is worth."""
    from selmix.training import SELECTED_BY

    chosen = f"the best on val by {SELECTED_BY}" if "val" in manifest["metrics"] else "the last, as there is no val"
    out.print(f"kept: epoch {manifest['epoch']}, {chosen}")
    for split, metrics in manifest["metrics"].items():
        out.print(f"{split}: accuracy {metrics['accuracy']:.3f}, min_recall {metrics['min_recall']:.3f}")
    out.print(f"written: {folder / 'model.safetensors'}, {folder / 'manifest.json'}")
