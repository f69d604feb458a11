"""Weights on disk: opened without pickle's code execution, fitted to a model strictly, written atomically."""

import hashlib
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from selmix.errors import DataError


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` file, or of a PyTorch checkpoint under `weights_only`.

    A checkpoint may hold them at the top or under `state_dict` or `model`, with or without DataParallel's `module.`.

    Raises:
        DataError: if the file is missing, unreadable, or holds more than plain tensors.
    """
    if not path.is_file():
        raise DataError(f"no such checkpoint: {path}")
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than plain tensors, or is damaged; save model.state_dict() with safetensors"
        ) from error
    except Exception as error:  # whatever the readers raise on foreign bytes
        raise DataError(f"{path} is damaged or no checkpoint ({type(error).__name__}); fetch it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise DataError(f"{path} holds no state dict (a mapping of names to tensors); save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _load_tensors(path: Path) -> Any:
    """Read a PyTorch checkpoint without running its code; what the reader warns of is for its makers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def load_strictly(model: nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    """Load `state` into `model`; every key and shape must match.

    The batch counters of batch norm alone may be missing: old files have none, and inference does not need them.

    Raises:
        DataError: with the missing, unexpected and misshapen keys.
    """
    own = model.state_dict()
    state = {key: own[key] for key in own if key.endswith(".num_batches_tracked")} | state
    faults = [
        f"{kind} {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for kind, keys in (
            ("missing", [key for key in own if key not in state]),
            ("unexpected", [key for key in state if key not in own]),
            ("misshapen", [key for key in own if key in state and own[key].shape != state[key].shape]),
        )
        if keys
    ]
    if faults:
        raise DataError(f"{source} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(state)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write a safetensors file atomically, the same bytes for the same content.

    The metadata go into one entry, `selmix`, as JSON: several entries would be written in random order.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, {"selmix": json.dumps(metadata)}))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the whole new one, never a torn one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
