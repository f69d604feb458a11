"""What training changes, and a checkpoint holds."""

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selmix.checkpoints import write_atomically
from selmix.errors import DataError
from selmix.stage1.settings import SupervisedSettings


@dataclass
class TrainingState:
    """What training changes.

    Attributes:
        model: image -> logits.
        optimizer: of its trainable parameters.
        scaler: of the gradients, for float16.
        average: moving average of the model's parameters and buffers; None if there is none.
        epochs: finished ones.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    epochs: int = 0

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        settings: SupervisedSettings,
        *,
        factors: Mapping[str, float] | None = None,
        undecayed: Collection[str] = (),
    ) -> "TrainingState":
        """Return the state before the first step.

        Args:
            model: image -> logits, on its device.
            settings: of the loop.
            factors: what the rate of a module's parameters is multiplied by.
            undecayed: modules and parameters without weight decay.
        """
        device = next(model.parameters()).device
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            parameter_groups(model, settings, factors=factors or {}, undecayed=undecayed),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
        average = None
        if settings.average_decay:
            average = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=True
            )
        scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        return cls(model, optimizer, scaler, average)

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Write a checkpoint atomically; `extra` is plain data that comes back with it."""
        content = {name: part.state_dict() for name, part in self._parts().items()}
        buffer = io.BytesIO()
        torch.save(content | {"epochs": self.epochs, "extra": extra}, buffer)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path) -> dict[str, Any]:
        """Take over a checkpoint, and return what was saved with it.

        Raises:
            DataError: if it cannot be read, or is that of another model or other settings.
        """
        device = next(self.model.parameters()).device
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(content[name])
            self.epochs = content["epochs"]
            return dict(content["extra"])
        except Exception as error:  # whatever the readers raise on foreign bytes
            raise DataError(f"{path} is damaged or belongs to another run ({error}); remove it to begin anew") from error

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, "average": self.average}
        return {name: part for name, part in parts.items() if part is not None}


def parameter_groups(
    model: nn.Module, settings: SupervisedSettings, *, factors: Mapping[str, float], undecayed: Collection[str]
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of like weight decay and rate; `factor` multiplies the rate.

    Args:
        model: whose parameters.
        settings: of the loop.
        factors: module or parameter by name -> factor; 1 for all others.
        undecayed: names of modules and parameters that are not decayed, whatever the settings say.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = any(_within(name, own) for own in undecayed) or not (settings.decay_all or parameter.ndim > 1)
            factor = next((factor for own, factor in factors.items() if _within(name, own)), 1.0)
            groups.setdefault((0.0 if exempt else settings.weight_decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def _within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")
