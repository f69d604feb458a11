"""What happens to an image before the backbone: the model's own data config, or what the user says instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import resolve_model_data_config

from selmix.errors import UsageError, check_settings

_SMALLEST_SIZE = 8


@dataclass(frozen=True)
class Preprocessing:
    """What to do otherwise than the model's data config says; None is as it says.

    Attributes:
        input_size: height and width in pixels.
        mean: what is subtracted from the three channels, after scaling pixels to [0, 1].
        std: what the channels are then divided by.
    """

    input_size: Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        size = (_SMALLEST_SIZE,) * 2 if self.input_size is None else self.input_size
        mean = (0.0,) * 3 if self.mean is None else self.mean
        std = (1.0,) * 3 if self.std is None else self.std
        check_settings(
            self,
            {
                "input_size": (
                    f"height and width of at least {_SMALLEST_SIZE} pixels",
                    len(size) == 2 and min(size) >= _SMALLEST_SIZE,
                ),
                "mean": ("three numbers in [0, 1]", len(mean) == 3 and all(0 <= value <= 1 for value in mean)),
                # the standard deviation of values in [0, 1] is at most 0.5; 1 leaves them as they are
                "std": ("three numbers in (0, 1]", len(std) == 3 and all(0 < value <= 1 for value in std)),
            },
        )

    def as_config(self) -> dict[str, Any]:
        """Return what differs, under timm's names."""
        config: dict[str, Any] = {}
        if self.input_size is not None:
            config["input_size"] = (3, *self.input_size)
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                config[key] = tuple(float(value) for value in values)
        return config


def apply_preprocessing(model: Any, changes: Preprocessing) -> dict[str, Any]:
    """Return the data config of a model with the changes, and bring the model to a changed input size.

    Raises:
        UsageError: if the model does not take images of that size.
    """
    config = resolve_model_data_config(model)
    changed = changes.as_config()
    if changed.get("input_size", config["input_size"]) != config["input_size"]:
        _resize(model, changed["input_size"])
    return config | changed


def _resize(model: Any, input_size: tuple[int, int, int]) -> None:
    """Let a model of fixed input size interpolate its position embedding; then see whether images pass."""
    height, width = input_size[1:]
    training = model.training
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(height, width))
        with torch.inference_mode():
            features = model.eval()(torch.zeros(1, *input_size))
        fits = features.ndim == 2 and features.numel() > 0
    except Exception as error:  # whatever a foreign architecture raises on a size that it does not take
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(model).__name__} does not take images of {height}x{width} pixels ({reason}); "
            "name another input size"
        ) from error
    finally:
        model.train(training)
    if not fits:
        raise UsageError(
            f"{type(model).__name__} makes no feature vector of an image of {height}x{width} pixels; name another "
            "input size"
        )
