"""Options that say which features to work on, and how they are extracted."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Dtype(StrEnum):
    """What features are stored as."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class OnBadImage(StrEnum):
    """What becomes of an image that cannot be read."""

    error = "error"
    skip = "skip"


BackboneSpec = Annotated[
    str | None,
    typer.Option("--backbone", help="shipped:NAME, timm:NAME@CHECKPOINT (a local file), or timm:NAME (from the hub)."),
]
DataSpec = Annotated[
    str | None,
    typer.Option("--data", help="Folder with train/CLASS/*.jpg, and val/ and test/ likewise; or shipped:NAME."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        "--features",
        help="Instead of --backbone and --data: a folder of `selmix extract`, or an .npz with train_features, ...",
    ),
]
DtypeName = Annotated[
    Dtype,
    typer.Option("--dtype", help="Of features; auto is bfloat16 where the device computes it natively, else float32."),
]
Views = Annotated[
    int, typer.Option("--views", min=0, help="Also extract so many augmented views of each training image.")
]
BadImage = Annotated[
    OnBadImage, typer.Option("--on-bad-image", help="Stop at an unreadable image, or leave it out and count it.")
]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder of the features; under $SELMIX_CACHE, if not given.")
]


def source(
    *,
    backbone: str | None,
    data: str | None,
    features: Path | None,
    dtype: Dtype,
    views: int,
    bad_image: OnBadImage,
    cache: Path | None,
) -> dict[str, Any]:
    """Return what a recipe says of the features to work on."""
    return {
        "backbone": backbone,
        "data": data,
        "features": None if features is None else str(features),
        "dtype": str(dtype),
        "views": views,
        "on_bad_image": str(bad_image),
        "cache": None if cache is None else str(cache),
    }
