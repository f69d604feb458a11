"""The network that training starts from: random weights, or those of another backbone."""

from pathlib import Path
from typing import Any

import torch

from selmix.backbones import Backbone, build_model, load_backbone
from selmix.errors import DataError
from selmix.train_recipe import TrainRecipe
from selmix.seeding import derived_seed
from selmix.shipped import PREFIX
from selmix.stage1.trainable import train_only


def starting_model(recipe: TrainRecipe, class_names: list[str]) -> tuple[Any, dict[str, Any]]:
    """Return the network before its first step, on the CPU, and the preprocessing that its weights are used to.

    A classifier that came with the weights stays if it knows just these classes by name; else it is a fresh one.

    Raises:
        UsageError: for an unknown architecture, or modules in `trains` that it does not have.
        DataError: if the weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        model = build_model(recipe.architecture, num_classes=len(class_names))
    preprocessing: dict[str, Any] = {}
    if recipe.start is not None:
        backbone = _opened(recipe.start, recipe.architecture)
        _take_over(model, backbone, class_names, source=recipe.start)
        preprocessing = backbone.preprocessing
    if recipe.trains:
        train_only(model, recipe.trains)
    return model, preprocessing


def _opened(start: str, architecture: str) -> Backbone:
    says_itself = start.startswith(("timm:", PREFIX)) or Path(start).expanduser().is_dir()
    return load_backbone(start, arch=None if says_itself else architecture)


def _take_over(model: Any, backbone: Backbone, class_names: list[str], *, source: str) -> None:
    classifier = {f".{name}" for name, _ in model.get_classifier().named_parameters()}
    trunk = backbone.model.state_dict()
    own = model.state_dict()
    misfits = [key for key in trunk if key not in own or own[key].shape != trunk[key].shape]
    missing = [key for key in own if key not in trunk and not key.endswith(tuple(classifier))]
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

