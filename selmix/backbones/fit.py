"""From the tensors of a checkpoint to a model and the head that it came with."""

import logging
from typing import Any

import torch

from selmix.backbones.models import build_model, classifiers_of
from selmix.checkpoints import load_strictly
from selmix.errors import DataError
from selmix.heads import LinearHead

logger = logging.getLogger("selmix")

# of these, weights are published under other names, in the same order and of the same shapes
_FITTED_IN_ORDER = ("tf_efficientnet_lite", "efficientnet_lite")


def fit_state(model: Any, state: dict[str, torch.Tensor], *, arch: str, source: str) -> LinearHead | None:
    """Load the trunk of a checkpoint strictly into a model without classifier; return its linear classifier.

    Args:
        model: a timm model with `num_classes=0`.
        state: the tensors of the checkpoint, with or without a classifier.
        arch: the model's name.
        source: where the tensors come from, for messages.

    Returns:
        The classifier, or None if there is none, or if it is not a single linear map of the features with a bias.

    Raises:
        DataError: with the missing, unexpected and misshapen keys.
    """
    names = classifiers_of(model)
    own = model.state_dict()
    if arch.startswith(_FITTED_IN_ORDER) and not own.keys() <= state.keys():
        state = _renamed_in_order(own, state, names[0], source=source)
    prefixes = tuple(f"{name}." for name in names)
    trunk = {key: value for key, value in state.items() if key in own or not key.startswith(prefixes)}
    # a few models have more than the classifier behind the features, such as a norm
    behind = trunk.keys() & _behind_features(arch, own) if trunk.keys() - own.keys() else set()
    load_strictly(model, {key: trunk[key] for key in trunk if key not in behind}, source=source)
    if len(names) != 1 or behind:
        return None
    weight, bias = state.get(f"{names[0]}.weight"), state.get(f"{names[0]}.bias")
    width = getattr(model, "head_hidden_size", model.num_features)
    if weight is None or bias is None or weight.shape != (len(bias), width):
        return None
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise DataError(f"the classifier of {source} has NaN or infinite values; fetch or train it again")
    return LinearHead(weight.detach().float().clone(), bias.detach().float().clone())


def _behind_features(arch: str, own: dict[str, torch.Tensor]) -> set[str]:
    """Return the names that a model has only when it has a classifier."""
    with torch.device("meta"):
        return set(build_model(arch).state_dict()) - own.keys()


def named_head(head: LinearHead | None, class_names: list[str], *, source: str) -> LinearHead:
    """Return the head, after seeing that it has the classes that its class table names.

    Raises:
        DataError: if it does not.
    """
    if head is None or head.num_classes != len(class_names):
        has = "no linear classifier" if head is None else f"a classifier of {head.num_classes} outputs"
        raise DataError(f"{source} has {has}, and a class table of {len(class_names)} names; mend or remove the table")
    return head


def _renamed_in_order(
    own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], classifier: str, *, source: str
) -> dict[str, torch.Tensor]:
    """Give tensors the names that the model has in their places, if all shapes agree; else return them as they are."""
    names = [*_without_counters(own), f"{classifier}.weight", f"{classifier}.bias"]
    values = list(_without_counters(state).values())
    trunk = names[:-2]
    fits = len(values) in (len(trunk), len(names)) and all(
        own[name].shape == value.shape and name.rpartition(".")[2] == theirs.rpartition(".")[2]
        for name, (theirs, value) in zip(trunk, _without_counters(state).items(), strict=False)
    )
    if not fits:
        return state
    logger.info(
        f"{source}: tensors have other names than the model's; fitted in order, all shapes and last words agree"
    )
    return dict(zip(names, values, strict=False))


def _without_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
