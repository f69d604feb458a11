"""From a backbone's specification to the frozen backbone."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform

from selmix.backbones.backbone import Backbone, checksum
from selmix.backbones.fit import fit_state, named_head
from selmix.backbones.hub import hub_weights, unreachable
from selmix.backbones.models import build_model, check_arch, classifiers_of
from selmix.backbones.origin import WEIGHTS, Origin, origin_of_file, origin_of_folder
from selmix.backbones.preprocessing import Preprocessing, apply_preprocessing
from selmix.checkpoints import read_state_dict
from selmix.errors import DataError, UsageError
from selmix.heads import LinearHead
from selmix.shipped import PREFIX, shipped_folder, shipped_names

_FORMS = "shipped:NAME, timm:NAME, timm:NAME@CHECKPOINT, a checkpoint with --arch NAME, or a folder of `selmix train`"
_TIMM = "timm:"
_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors", ".tar", ".th")


def load_backbone(spec: str, *, arch: str | None = None, overrides: Preprocessing | None = None) -> Backbone:
    """Open a backbone by its specification.

    Args:
        spec: `shipped:NAME`; `timm:NAME` for the hub or its local cache; `timm:NAME@CHECKPOINT` for a local file; the
            path of a checkpoint; or a folder with `model.safetensors` and `manifest.json`.
        arch: architecture of a checkpoint given by its path; not needed where its metadata name it.
        overrides: what to do otherwise than the model's data config says.

    Raises:
        UsageError: for a specification of another form, an unknown name, or an input size that the model does not take.
        DataError: if weights are missing or do not fit.
    """
    path = Path(spec).expanduser()
    is_folder = bool(spec) and path.is_dir()
    if arch is not None and (is_folder or spec.startswith((_TIMM, PREFIX))):
        raise UsageError(f"--arch belongs to the path of a checkpoint; {spec} says itself what it is: leave --arch out")
    if spec.startswith(PREFIX):
        folder = shipped_folder(spec.removeprefix(PREFIX), WEIGHTS)
        return load_backbone_folder(folder, name=spec, overrides=overrides)
    if spec.startswith(_TIMM):
        name, at, checkpoint = spec.removeprefix(_TIMM).partition("@")
        check_arch(name)
        if not at:
            return _from_hub(spec, name, overrides)
        path = Path(checkpoint).expanduser()
        return _from_file(spec, name, path, origin_of_file(path), overrides)
    if is_folder:
        return load_backbone_folder(path, name=spec, overrides=overrides)
    return _from_path(spec, path, arch, overrides)


def load_backbone_folder(folder: Path, *, name: str | None = None, overrides: Preprocessing | None = None) -> Backbone:
    """Open a folder written by stage one: `model.safetensors` and the manifest that vouches for it.

    Raises:
        DataError: if the weights do not match the manifest or the architecture.
    """
    origin = origin_of_folder(folder)
    assert origin.architecture is not None
    return _from_file(name or str(folder), origin.architecture, folder / WEIGHTS, origin, overrides)


def _from_path(spec: str, path: Path, arch: str | None, overrides: Preprocessing | None) -> Backbone:
    if not spec or not path.is_file():
        if arch is not None or "/" in spec or path.suffix in _SUFFIXES:
            raise DataError(f"no such checkpoint or folder: {spec}; check the path")
        raise UsageError(f"a backbone is {_FORMS}; got {spec!r}{_hint(spec)}")
    origin = origin_of_file(path)
    arch = arch or origin.architecture
    if arch is None:
        raise UsageError(f"the checkpoint {path} does not say of which architecture it is: add --arch NAME")
    check_arch(arch)
    return _from_file(spec, arch, path, origin, overrides)


def _hint(spec: str) -> str:
    if spec in shipped_names(WEIGHTS):
        return f"; did you mean {PREFIX}{spec}?"
    return f"; did you mean {_TIMM}{spec}?" if spec and timm.is_model(spec) else ""


def _from_file(spec: str, arch: str, weights: Path, origin: Origin, overrides: Preprocessing | None) -> Backbone:
    model = build_model(arch, num_classes=0, pretrained_cfg_overlay=origin.preprocessing.as_config())
    state = read_state_dict(weights, classifier=(classifiers_of(model) or ["fc"])[0])
    if overrides is not None and overrides.input_size is not None and _of_other_size(model, state):
        apply_preprocessing(model, overrides)  # trained at that size: its position embedding has it already
    head = fit_state(model, state, arch=arch, source=str(weights))
    if origin.class_names is not None:
        head = named_head(head, origin.class_names, source=str(weights))
    return replace(_frozen(spec, model, overrides, head, origin.class_names), trained_on=origin.trained_on)


def _of_other_size(model: Any, state: dict[str, torch.Tensor]) -> bool:
    """Return whether the model can change its input size, and a tensor of the checkpoint is of another shape."""
    own = model.state_dict()
    return hasattr(model, "set_input_size") and any(
        key in own and own[key].shape != value.shape for key, value in state.items()
    )


def _from_hub(spec: str, name: str, overrides: Preprocessing | None) -> Backbone:
    weights = hub_weights(name)
    # timm fits what it has published itself; so the tensors go through timm, read without pickle's code
    overlay = {} if weights is None else {"state_dict": read_state_dict(weights)}
    try:
        model = build_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        raise unreachable(name, error) from error
    model.pretrained_cfg.pop("state_dict", None)
    model.reset_classifier(0)
    return _frozen(spec, model, overrides)


def _frozen(
    spec: str,
    model: Any,
    overrides: Preprocessing | None,
    head: LinearHead | None = None,
    class_names: list[str] | None = None,
) -> Backbone:
    model.eval()
    preprocessing = apply_preprocessing(model, overrides or Preprocessing())
    model.requires_grad_(False)
    digest = hashlib.sha256((checksum(model) + repr(sorted(preprocessing.items()))).encode()).hexdigest()
    known = class_names is not None
    return Backbone(
        spec,
        model,
        create_transform(**preprocessing, is_training=False),
        digest,
        preprocessing,
        head=head if known else None,
        class_names=class_names,
        unnamed_classes=head.num_classes if head and not known else 0,
        pixels=create_transform(**preprocessing, is_training=False, normalize=False),
    )
