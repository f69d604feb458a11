"""What each of one or two processes does in tests/test_stage1_torchrun.py: short trainings, the same on either."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from selmix.backbones import build_model
from selmix.errors import DivergedError, UsageError
from selmix.ranks import join_ranks
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised
from selmix.stage1.synced_norm import SyncedBatchNorm
from selmix.stage1.validation import validate

# 11 images a step are 6 and 5 for two processes; in three parts of 4, 4 and 3 they are 2 + 2 + 2 and 2 + 2 + 1
PLAIN = {"epochs": 1, "batch_size": 11, "warmup_epochs": 0.0, "learning_rate": 0.05, "mixup_alpha": 1.0}
RUNS = {
    "mixup": PLAIN,
    "parts": PLAIN | {"accumulation": 3, "average_decay": 0.5},
    "weights": PLAIN | {"mixup_alpha": 0.0},
}


class Normed(nn.Module):
    """A small net with a batch norm of timm's kind, that of two dimensions, and dropout that drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import BatchNormAct2d

        self.conv, self.norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4)
        self.flat, self.norm1d = nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False, momentum=None)
        self.drop, self.head = nn.Dropout(0.0), nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm1d(self.flat(self.norm(self.conv(images)).mean((2, 3))))))


class WideImages(DeviceImages):
    """Inputs in float64: what is left of the differences is no rounding."""

    def loads(self, requests):
        return (inputs.double() for inputs in super().loads(requests))


def networks(seed: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    return {name: build_model("cifar_resnet20", num_classes=3) for name in RUNS} | {
        "normed": Normed(),
        "single": Normed(),
    }


def main(folder: Path) -> None:
    """Write weights, records and faults of this rank."""
    ranks = join_ranks()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (22, 3, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.arange(22) % 3
    said = {}
    for name, model in networks().items():
        kind = DeviceImages if name == "single" else WideImages
        images = kind(pixels, labels, (0.5,) * 3, (0.25,) * 3, crop_padding=2)
        plain = kind(pixels, labels, (0.5,) * 3, (0.25,) * 3)
        if kind is WideImages:
            model.double()
        settings = SupervisedSettings(**RUNS.get(name, PLAIN))
        weights = torch.tensor([0.5, 1.0, 3.0]) if name == "weights" else None
        objective = Objective(class_weights=weights, divide_by="weight")
        state = TrainingState.begin(model, settings)
        (record,) = train_supervised(state, images, objective, settings, seed=3, ranks=ranks)
        said[name] = {"record": record, "validation": validate(state.kept, plain, ranks=ranks)}
        said[name]["synced"] = sum(isinstance(part, SyncedBatchNorm) for part in model.modules())
        torch.save({"model": model.state_dict(), "kept": state.kept.state_dict()}, folder / f"{name}{ranks.rank}.pt")
    said["faults"] = []
    for wrong in ({"learning_rate": 1e30, "epochs": 3}, {"batch_size": 3, "accumulation": 2}):
        settings = SupervisedSettings(**PLAIN | wrong)
        state = TrainingState.begin(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), settings)
        try:
            list(train_supervised(state, images, Objective(), settings, seed=3, ranks=ranks))
        except (DivergedError, UsageError) as error:
            said["faults"].append(str(error))
    (folder / f"said{ranks.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
