"""Backbone and head as one timm model, the head in the place of its classifier."""

from typing import Any

import safetensors.torch
import torch

from selmix.backbones import Backbone, build_model
from selmix.backbones.models import classifiers_of
from selmix.errors import DataError, UsageError
from selmix.heads import LinearHead

_OTHERWISE = "; selmix export --format onnx takes every architecture"


def merged_state(backbone: Backbone, head: LinearHead) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of the whole model, and what `timm.create_model` needs beside name and `num_classes`.

    Raises:
        UsageError: if the architecture has more behind its features than one linear classifier.
    """
    model, options = _whole(backbone, head)
    names, own = classifiers_of(model), model.state_dict()
    if len(names) != 1:
        raise UsageError(f"{backbone.architecture} has {len(names)} classifiers, and the head is one{_OTHERWISE}")
    state = dict(backbone.model.state_dict())
    for part, tensor in (("weight", head.weight), ("bias", head.bias)):
        key = f"{names[0]}.{part}"
        if key not in own or own[key].numel() != tensor.numel():
            raise UsageError(f"the classifier of {backbone.architecture} has no {key} for the head{_OTHERWISE}")
        state[key] = tensor.view(own[key].shape)
    if state.keys() != own.keys():
        odd = sorted(state.keys() ^ own.keys())
        raise UsageError(
            f"{backbone.architecture} has more than a linear classifier behind features: {odd[0]}{_OTHERWISE}"
        )
    return {name: state[name] for name in own}, options


def _whole(backbone: Backbone, head: LinearHead) -> tuple[Any, dict[str, Any]]:
    """Return a model with room for the head, and the options that the backbone's tensors need to fit."""
    trunk = backbone.model.state_dict()
    height, width = backbone.preprocessing["input_size"][1:]
    for options in ({}, {"img_size": (height, width)}):
        try:
            model = build_model(backbone.architecture, num_classes=head.num_classes, **options)
        except TypeError:  # it has no such option, and needs none
            continue
        own = model.state_dict()
        if all(own[name].shape == trunk[name].shape for name in own.keys() & trunk.keys()):
            return model, options
    raise DataError(f"timm builds {backbone.architecture} in other shapes than the backbone has{_OTHERWISE}")


def load_merged(content: bytes, architecture: str, num_classes: int, options: dict[str, Any]) -> torch.nn.Module:
    """Build the model anew and load a merged checkpoint strictly, as its users will."""
    model = build_model(architecture, num_classes=num_classes, **options)
    model.load_state_dict(safetensors.torch.load(content), strict=True)
    return model.eval()
