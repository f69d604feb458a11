"""Backbones: the frozen map from an image to its feature, and how to name one."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import selmix.cifar_resnet  # noqa: F401  registers the CIFAR networks with timm
from selmix.checkpoints import file_digest, load_strictly, read_state_dict
from selmix.errors import DataError, UsageError, suggestion
from selmix.heads import LinearHead
from selmix.shipped import PREFIX, read_manifest, shipped_folder, shipped_names

logger = logging.getLogger("selmix")
_TIMM = "timm:"


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor.

    Attributes:
        name: as the user named it.
        model: image batch [b, 3, h, w] -> features [b, d]; in eval mode, without gradients.
        transform: RGB image -> normalised tensor [3, h, w].
        digest: sha256 of the weights and of the preprocessing.
        head: the classifier that came with the weights, if its class table is known.
        class_names: the class table of that head.
        pixels: the part of `transform` before it normalises, RGB image -> uint8 [3, h, w]; None if there is no such.
        mean: subtracted from each channel of `pixels` scaled to [0, 1].
        std: by which the difference is divided.
    """

    name: str
    model: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    digest: str
    head: LinearHead | None = None
    class_names: list[str] | None = None
    pixels: Callable[[Image.Image], torch.Tensor] | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()


def checksum(model: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers; equal before and after means frozen."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_backbone(spec: str) -> Backbone:
    """Open a backbone by its specification.

    Args:
        spec: `shipped:NAME`, `timm:NAME@CHECKPOINT` for a local file, or `timm:NAME` for the hub.

    Raises:
        UsageError: for a specification of another form or an unknown name.
        DataError: if weights are missing or do not fit.
    """
    if spec.startswith(PREFIX):
        return load_backbone_folder(shipped_folder(spec.removeprefix(PREFIX), "model.safetensors"), name=spec)
    if spec.startswith(_TIMM):
        name, at, checkpoint = spec.removeprefix(_TIMM).partition("@")
        return _load_timm(spec, name, Path(checkpoint) if at else None)
    hint = f"; did you mean {PREFIX}{spec}?" if spec in shipped_names("model.safetensors") else ""
    raise UsageError(f"a backbone is shipped:NAME, timm:NAME@CHECKPOINT or timm:NAME, got {spec!r}{hint}")


def build_model(arch: str, **options: Any) -> Any:
    """Build a timm model by name.

    Raises:
        UsageError: if timm knows no such name; the message lists near ones.
    """
    if not timm.is_model(arch):
        raise UsageError(f"timm has no model {arch!r}: {suggestion(arch, timm.list_models(), listed=False)}")
    return timm.create_model(arch, **options)


def load_backbone_folder(folder: Path, *, name: str | None = None) -> Backbone:
    """Open a folder written by stage one: `model.safetensors` and the manifest that vouches for it.

    Raises:
        DataError: if the weights do not match the manifest or the architecture.
    """
    manifest = read_manifest(folder, "architecture", "class_names", "input_size", "mean", "std", "sha256")
    weights = folder / "model.safetensors"
    if file_digest(weights) != manifest["sha256"]:
        raise DataError(f"{weights} does not match the sha256 of its manifest; reinstall selmix")
    class_names = manifest["class_names"]
    model = build_model(
        manifest["architecture"],
        num_classes=len(class_names),
        pretrained_cfg_overlay={
            "input_size": tuple(manifest["input_size"]),
            "mean": tuple(manifest["mean"]),
            "std": tuple(manifest["std"]),
        },
    )
    load_strictly(model, read_state_dict(weights), source=str(weights))
    classifier = model.get_classifier()
    head = LinearHead(classifier.weight.detach().clone(), classifier.bias.detach().clone())
    model.reset_classifier(0)
    return _frozen(name or str(folder), model, head, class_names)


def _load_timm(spec: str, name: str, checkpoint: Path | None) -> Backbone:
    if checkpoint is None:
        try:
            model = build_model(name, pretrained=True, num_classes=0)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"the weights of {name} cannot be fetched ({reason}); download them and use {_TIMM}{name}@FILE"
            ) from error
        return _frozen(spec, model)
    state = read_state_dict(checkpoint)
    model = build_model(name, num_classes=0)
    # a classifier of unknown class table is no use here: leave its tensors out
    classifier = tuple(f"{key}." for key in _classifier_names(model))
    kept = {key: value for key, value in state.items() if not key.startswith(classifier)}
    load_strictly(model, kept, source=str(checkpoint))
    return _frozen(spec, model)


def _classifier_names(model: Any) -> list[str]:
    names = model.pretrained_cfg.get("classifier") or ()
    return [names] if isinstance(names, str) else list(names)


def _frozen(
    spec: str, model: nn.Module, head: LinearHead | None = None, class_names: list[str] | None = None
) -> Backbone:
    model.eval()
    model.requires_grad_(False)
    data_config = resolve_model_data_config(model)
    preprocessing = repr(sorted(data_config.items()))
    digest = hashlib.sha256((checksum(model) + preprocessing).encode()).hexdigest()
    return Backbone(
        spec,
        model,
        create_transform(**data_config, is_training=False),
        digest,
        head,
        class_names,
        pixels=create_transform(**data_config, is_training=False, use_prefetcher=True),
        mean=data_config["mean"],
        std=data_config["std"],
    )
