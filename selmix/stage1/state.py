"""What training changes, and a checkpoint holds."""

import io
import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selmix.checkpoints import refuse_bombs
from selmix.errors import DataError
from selmix.stage1.settings import SupervisedSettings
from selmix.writing import write_atomically


@dataclass
class TrainingState:
    """What training changes.

    Attributes:
        model: image -> logits.
        optimizer: of its trainable parameters.
        scaler: of the gradients, for float16.
        average: moving average of the model's parameters, and its buffers, averages or copies; None if there
            is none.
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
        factors: Mapping[nn.Parameter, float] | None = None,
        undecayed: Collection[nn.Parameter] = (),
        average_buffers: bool = True,
    ) -> "TrainingState":
        """Return the state before the first step.

        Args:
            model: image -> logits, on its device.
            settings: of the loop.
            factors: what the rate of a parameter is multiplied by.
            undecayed: parameters without weight decay.
            average_buffers: whether the buffers of the average are averages, too; else copies.
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
            # in eval mode for good: it is never trained
            average = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=average_buffers
            ).eval()
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

    def load(self, path: Path, *wanted: str) -> dict[str, Any]:
        """Take over a checkpoint, and return what was saved with it, `wanted` keys at least.

        Raises:
            DataError: if it cannot be read, or is that of another model or other settings.
        """
        device = next(self.model.parameters()).device
        try:
            refuse_bombs(path)
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # compares checksums, which torch does not
            if damaged is not None:
                raise ValueError(f"{damaged} has another checksum")
            content = torch.load(path, map_location=device, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(content[name])
            self.epochs = content["epochs"]
            return {key: content["extra"][key] for key in wanted} | content["extra"]
        except pickle.UnpicklingError as error:
            raise DataError(f"{path} holds more than a checkpoint, or is damaged; remove it to begin anew") from error
        except Exception as error:  # whatever the readers raise on foreign bytes
            raise DataError(f"{path} is damaged or belongs to another run; remove it to begin anew") from error

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, "average": self.average}
        return {name: part for name, part in parts.items() if part is not None}


def parameter_groups(
    model: nn.Module,
    settings: SupervisedSettings,
    *,
    factors: Mapping[nn.Parameter, float],
    undecayed: Collection[nn.Parameter],
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of like weight decay and rate; `factor` multiplies the rate."""
    spared = set(undecayed)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter not in spared and (settings.decay_all or parameter.ndim > 1)
            key = settings.weight_decay if decays else 0.0, factors.get(parameter, 1.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]
