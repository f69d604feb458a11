"""Options that say how images become features."""

from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from selmix.commands.options import IMAGES, at_least


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


_Panel = partial(typer.Option, rich_help_panel=IMAGES)
Arch = Annotated[str | None, _Panel("--arch", help="Architecture of a checkpoint that is given by its path.")]
InputSize = Annotated[
    str | None, _Panel("--input-size", help="Pixels of the backbone's images instead of its own: 128, or 96x128.")
]
Mean = Annotated[str | None, _Panel("--mean", help="What to subtract from the channels instead: 0.5,0.5,0.5.")]
Std = Annotated[str | None, _Panel("--std", help="What to divide the channels by instead: 0.5,0.5,0.5.")]
DtypeName = Annotated[
    Dtype,
    _Panel("--dtype", help="Of features; auto is bfloat16 where the device computes it natively, else float32."),
]
Views = Annotated[
    int,
    _Panel(
        "--views",
        callback=at_least(0),
        help="Also extract so many augmented views of each image of train and the unlabeled pool.",
    ),
]
BadImage = Annotated[
    OnBadImage, _Panel("--on-bad-image", help="Stop at an unreadable image, or leave it out and count it.")
]


def extraction(
    arch: str | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    dtype: Dtype,
    views: int,
    bad_image: OnBadImage,
) -> dict[str, Any]:
    """Return what a recipe says of how images become features."""
    from selmix.option_words import parse_preprocessing

    more = {"arch": arch, "dtype": str(dtype), "views": views, "on_bad_image": str(bad_image)}
    return parse_preprocessing(size, mean, std) | more
