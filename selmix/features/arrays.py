"""Arrays as people hold them, in NumPy or torch, turned into what selmix works on."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d

from selmix.errors import DataError
from selmix.heads import LinearHead


def as_array(values: Any) -> Any:
    """Return a torch tensor as an array, without a copy where it lies on the CPU; anything else as it is."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor on the same memory, to be read only; torch would warn of read-only memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def encoded(values: Any, known: np.ndarray, fault: str) -> np.ndarray:
    """Return the positions of the values [n], int64, in the sorted table of the known ones.

    Raises:
        DataError: beginning with `fault`, for a value that is not known.
    """
    encoder = LabelEncoder()
    encoder.classes_ = known
    try:
        return encoder.transform(column_or_1d(as_array(values), warn=True))
    except ValueError as error:
        raise DataError(f"{fault}: {error}") from error


def given_head(coef: Any, intercept: Any, *, num_classes: int, width: int) -> LinearHead:
    """Return the head of a linear classifier; one row stands for the second of two classes, as in scikit-learn.

    Args:
        coef: [k, d], or [1, d].
        intercept: [k], or [1].
        num_classes: k.
        width: d.

    Raises:
        DataError: for other shapes, or values that are not finite.
    """
    weight, bias = (np.asarray(as_array(part), dtype=np.float64) for part in (coef, intercept))
    if num_classes == 2 and weight.shape == (1, width) and bias.shape == (1,):
        weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
    if weight.shape != (num_classes, width) or bias.shape != (num_classes,):
        raise DataError(
            f"head must be a coef of shape {(num_classes, width)} and an intercept of shape {(num_classes,)}, got "
            f"{weight.shape} and {bias.shape}"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise DataError("head has NaN or infinite values; give finite ones")
    return LinearHead(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
