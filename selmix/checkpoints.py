"""Weights on disk: opened without pickle's code execution, fitted to a model strictly, written atomically."""

import argparse
import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from selmix.data.packed import refuse_bomb
from selmix.data.pickles import refuse_abuse
from selmix.errors import DataError
from selmix.writing import write_atomically

# the first that a checkpoint has; averaged weights are taken where there are no others
WRAPPERS = ("state_dict", "model", "model_state_dict", "ema_model", "model_ema", "state_dict_ema")
_OLD_PICKLES = 5  # a magic number, the version, the machine, the content, and the names of what holds its numbers
_PREFIXES = re.compile(r"^((module|_orig_mod)\.)+")
_SCALAR = np.float64(0).__reduce__()[0]  # the function that every NumPy scalar is unpickled by
# what training scripts store beside the tensors, and what runs no code when it is read: options and NumPy's scalars
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
]


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check that it is there, and its rights") from error


def read_state_dict(path: Path, *, classifier: str = "fc") -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` file, or of a PyTorch checkpoint under `weights_only`.

    Args:
        path: the file. Tensors may lie at the top or under one of `WRAPPERS`, with prefixes of DataParallel and
            `torch.compile`, or in the split state dicts of MiSLAS.
        classifier: name of the model's classifier, under which that of a MiSLAS checkpoint is put.

    Raises:
        DataError: if the file is missing, unreadable, or holds more than plain data.
    """
    content = _read(path)
    if isinstance(content, dict) and "state_dict_model" in content:
        return _merge_mislas(content, classifier, source=str(path))
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return _plain_state(content, source=str(path))


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what `save_tensors` wrote beside the tensors; nothing for the files of others."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("selmix", "{}"))
    except (ValueError, OSError, RecursionError, safetensors.SafetensorError):
        return {}  # reading the tensors says what is wrong with the file
    return metadata if isinstance(metadata, dict) else {}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"no such checkpoint: {path}; check the path")
    try:
        return safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _load_plain(path)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than plain tensors, or is damaged; save model.state_dict() with safetensors"
        ) from error
    except DataError:
        raise
    except Exception as error:  # whatever the readers raise on foreign bytes
        raise DataError(f"{path} is damaged or no checkpoint ({type(error).__name__}); fetch it again") from error


def _load_plain(path: Path) -> Any:
    """Read a PyTorch checkpoint without running its code; what the reader warns of is for its makers."""
    refuse_bombs(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN_DATA):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def refuse_bombs(path: Path) -> None:
    """Refuse a checkpoint whose zip or whose pickles would cost far more than their size to be read.

    PyTorch writes zips that are not packed at all. In its older format pickles stand before the numbers.

    Raises:
        DataError: if a zip inflates beyond reason.
        pickle.UnpicklingError: if a pickle costs too much.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _refuse_abuse([file] * _OLD_PICKLES)
        return
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path, sum(member.file_size for member in archive.infolist()), "fetch it again")
        _refuse_abuse(archive.open(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _refuse_abuse(pickles: Iterable[IO[bytes]]) -> None:
    try:
        for pickled in pickles:
            refuse_abuse(pickled)
    except pickle.UnpicklingError:
        raise
    except Exception:  # what is damaged up to here; the reader says so
        return


def _plain_state(content: Any, *, source: str) -> dict[str, torch.Tensor]:
    """Return a mapping of names to tensors without the prefixes that wrappers put in front."""
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _is_plain(value) for name, value in content.items()
    ):
        raise DataError(f"{source} holds no state dict (a mapping of names to tensors); save model.state_dict()")
    # a tensor that repeats what is stored may be far larger than the file
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    refuse_bomb(Path(source), claimed, "save tensors that are contiguous")
    state = {_PREFIXES.sub("", name): value for name, value in content.items()}
    if len(state) < len(content):
        raise DataError(
            f"{source} holds the same tensors with and without the prefix of a wrapper; save one of the two"
        )
    return state


def _is_plain(value: Any) -> bool:
    """Return whether a value is a tensor of numbers in memory, neither sparse nor quantized, nor without storage."""
    if not isinstance(value, torch.Tensor) or value.is_quantized or value.is_nested:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _merge_mislas(content: dict[str, Any], classifier: str, *, source: str) -> dict[str, torch.Tensor]:
    """Put trunk and classifier together: logits s * (W h + b) are those of the head diag(s) W, s * b."""
    if content.get("state_dict_block"):
        raise DataError(
            f"{source} holds state_dict_block, an extra block that no timm architecture has; extract features with "
            "the code that made it, and use these: --features FILE.npz"
        )
    state = _plain_state(content["state_dict_model"], source=source)
    head = _plain_state(content.get("state_dict_classifier") or {}, source=source).values()
    weight, bias = ([tensor for tensor in head if tensor.ndim == axes] for axes in (2, 1))
    if len(weight) != 1 or len(bias) != 1 or len(head) != 2 or len(weight[0]) != len(bias[0]):
        raise DataError(
            f"the state_dict_classifier of {source} is no linear classifier (one weight [k, d], one bias [k]); "
            "save the two alone"
        )
    scale = torch.ones_like(bias[0])
    if content.get("state_dict_lws_model"):
        scales = list(_plain_state(content["state_dict_lws_model"], source=source).values())
        if len(scales) != 1 or scales[0].numel() != len(scale):
            raise DataError(f"the state_dict_lws_model of {source} is no scale of {len(scale)} classes; fetch it again")
        scale = scales[0].flatten()
    return state | {f"{classifier}.weight": scale[:, None] * weight[0], f"{classifier}.bias": scale * bias[0]}


def load_strictly(model: nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    """Load `state` into `model`; every key and shape must match.

    The batch counters of batch norm alone may be missing: old files have none, and inference does not need them.

    Raises:
        DataError: with the missing, unexpected and misshapen keys, and those that hold integers, complex numbers, NaN
            or infinity.
    """
    own = model.state_dict()
    state = {key: own[key] for key in own if key.endswith(".num_batches_tracked")} | state
    faults = [
        f"{kind} {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for kind, keys in (
            ("missing", [key for key in own if key not in state]),
            ("unexpected", [key for key in state if key not in own]),
            ("misshapen", [key for key in own if key in state and own[key].shape != state[key].shape]),
            (
                "no real numbers in",
                [
                    key
                    for key in own
                    if key in state and own[key].is_floating_point() and not state[key].is_floating_point()
                ],
            ),
            (
                "not finite",
                [
                    key
                    for key in own
                    if key in state and own[key].shape == state[key].shape and not state[key].isfinite().all()
                ],
            ),
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
    write_atomically(path, packed_tensors(tensors, metadata))


def packed_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> bytes:
    """Return the bytes that `save_tensors` writes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, {"selmix": json.dumps(metadata)})
