"""The network that training starts from: random weights, or those of another backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform

from selmix.backbones import Backbone, Preprocessing, build_model, load_backbone
from selmix.backbones.preprocessing import apply_preprocessing
from selmix.errors import DataError
from selmix.seeding import derived_seed
from selmix.shipped import PREFIX
from selmix.stage1.trainable import train_only
from selmix.train_recipe import TrainRecipe


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
        model: before its first step, on the CPU, fit for the recipe's input size.
        pixels: what an image becomes where nothing is random: RGB image -> uint8 [3, h, w].
        mean: normalisation, per channel of images in [0, 1], as the recipe says or the first weights are used to; None
            if nobody says.
        std: likewise.
        digest: of the first weights and their preprocessing; empty where they are random.
        has_classifier: whether a classifier of these very classes came with the weights.
    """

    model: Any
    pixels: Callable[[Image.Image], torch.Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    digest: str
    has_classifier: bool


def starting_model(recipe: TrainRecipe, class_names: list[str]) -> Start:
    """Return the network before its first step.

    A classifier that came with the weights stays if it knows just these classes by name; else it is a fresh one.

    Raises:
        UsageError: for an unknown architecture, or modules in `trains` that it does not have.
        DataError: if the weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        model = build_model(recipe.architecture, num_classes=len(class_names))
    mean, std, digest, has_classifier = recipe.mean, recipe.std, "", False
    preprocessing = apply_preprocessing(model, Preprocessing(recipe.input_size, mean, std))
    if recipe.start is not None:
        backbone = _opened(recipe)
        digest = backbone.digest
        has_classifier = _take_over(model, backbone, class_names, source=recipe.start)
        mean, std = mean or backbone.preprocessing["mean"], std or backbone.preprocessing["std"]
    if recipe.trains:
        train_only(model, recipe.trains)
    return Start(
        model,
        create_transform(**preprocessing, is_training=False, normalize=False),
        mean,
        std,
        digest,
        has_classifier,
    )


def _opened(recipe: TrainRecipe) -> Backbone:
    start = recipe.start or ""
    says_itself = start.startswith(("timm:", PREFIX)) or Path(start).expanduser().is_dir()
    # position embeddings are those of the recipe's size
    return load_backbone(
        start, arch=None if says_itself else recipe.architecture, overrides=Preprocessing(recipe.input_size)
    )


def _take_over(model: Any, backbone: Backbone, class_names: list[str], *, source: str) -> bool:
    classifier = [*model.get_classifier().parameters()]
    fresh = {name for name, parameter in model.named_parameters() if any(parameter is own for own in classifier)}
    trunk = backbone.model.state_dict()
    own = model.state_dict()
    misfits = [key for key in trunk if key not in own or own[key].shape != trunk[key].shape]
    missing = [key for key in own if key not in trunk and key not in fresh]
    if misfits or missing:
        raise DataError(
            f"the weights of {source} are not those of {type(model).__name__}: {', '.join((misfits + missing)[:5])} do "
            "not fit; name its architecture in the recipe"
        )
    model.load_state_dict(trunk, strict=False)
    head = backbone.head_for(class_names)
    if head is not None:
        linear = model.get_classifier()
        with torch.no_grad():
            linear.weight.copy_(head.weight)
            linear.bias.copy_(head.bias)
    return head is not None
