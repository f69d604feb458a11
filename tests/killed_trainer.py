"""A training that is killed on the way, as tests/test_stage1_state.py runs it; its word is the checkpoint."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised

STEPS = 4  # an epoch
SETTINGS = {
    "epochs": 4,
    "batch_size": 6,
    "warmup_epochs": 1.0,
    "learning_rate": 0.05,
    "mixup_alpha": 1.0,
    "average_decay": 0.9,
    "nesterov": True,
    "crop_padding": 1,
}


def small_net() -> nn.Module:
    """Return a net with statistics and with noise of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(8 * 36, 3)
        )


def tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return all that training changes."""
    assert state.average is not None
    momenta = {
        f"momentum {number}": own["momentum_buffer"] for number, own in enumerate(state.optimizer.state.values())
    }
    averages = {f"average {name}": tensor for name, tensor in state.average.state_dict().items()}
    return state.model.state_dict() | averages | momenta


def train(checkpoint: Path, **changes: object) -> TrainingState:
    """Train to the end, from the checkpoint if there is one."""
    settings = SupervisedSettings(**SETTINGS | changes)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (STEPS * 6 + 1, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images = DeviceImages(pixels, torch.arange(len(pixels)) % 3, (0.5,) * 3, (0.25,) * 3, settings.crop_padding)
    state = TrainingState.begin(small_net(), settings)
    if checkpoint.is_file():
        assert state.load(checkpoint) == {"seen": state.epochs}
    for record in train_supervised(state, images, Objective(), settings, seed=7):
        state.save(checkpoint, {"seen": record["epoch"]})
    return state


def die(*_: object) -> None:
    """Leave as a machine does that loses its power."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # in the midst of the third epoch
    calls, step = iter(range(2 * STEPS + 2)), torch.optim.SGD.step
    torch.optim.SGD.step = lambda self, *rest: step(self, *rest) if next(calls, None) is not None else die()
    train(Path(sys.argv[1]))
