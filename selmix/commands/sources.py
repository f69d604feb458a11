"""Options that say which features to work on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from selmix.commands.completion import backbone_names
from selmix.commands.options import IMAGES, INPUT

BackboneSpec = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="shipped:NAME, timm:NAME (the hub or its cache), timm:NAME@CHECKPOINT, a checkpoint with --arch NAME, or "
        "a folder of `selmix train`; `selmix backbones` lists names.",
        autocompletion=backbone_names,
        rich_help_panel=INPUT,
    ),
]
DataSpec = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder with train/CLASS/*.jpg (and val/, test/), a .csv or .parquet manifest, a .toml data spec, CIFAR, "
        "or shipped:NAME (docs/data.md).",
        rich_help_panel=INPUT,
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        "--features",
        help="Instead of --backbone and --data: a folder of `selmix extract`, or an .npz with train_features, ...",
        rich_help_panel=INPUT,
    ),
]
Unlabeled = Annotated[
    str | None,
    typer.Option(
        "--unlabeled",
        help="Unlabeled images to pseudo-label (pseudo.KEY=VALUE) and learn from where that helps, in place of the "
        "data's own: a folder, or as for --data; none to leave these aside.",
        rich_help_panel=INPUT,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of the features; under $SELMIX_CACHE, if not given.", rich_help_panel=IMAGES),
]


def source(
    backbone: str | None, data: str | None, features: Path | None, cache: Path | None, unlabeled: str | None
) -> dict[str, Any]:
    """Return what a recipe says of the features to work on."""
    names = {"backbone": backbone, "data": data, "unlabeled": unlabeled}
    return names | {"features": features and str(features), "cache": cache and str(cache)}
