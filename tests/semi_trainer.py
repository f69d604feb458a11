"""Short trainings with unlabeled images, as tests/test_semi_loop.py runs them, by itself or under torchrun."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from two_trainers import WideImages

from selmix.ranks import ALONE, Ranks, join_ranks
from selmix.semi.fixmatch import FixMatch, FixMatchSettings
from selmix.semi.loop import train_semi
from selmix.semi.method import EpochEnd, Method, Step
from selmix.semi.network import SemiNetwork
from selmix.semi.settings import SemiSettings
from selmix.semi.views import PoolImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.validation import validate

MEAN, STD = (0.5, 0.25, 0.4), (0.5, 0.2, 0.25)
SETTINGS = {
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 0.05,
    "nesterov": True,
    "weight_decay": 0.01,
    "decay_all": False,
    "schedule": "cosine_7_16",
    "warmup_epochs": 0.0,
    "average_decay": 0.8,
    "crop_padding": 0,
}
SEMI = {"steps_per_epoch": 4, "threshold": 0.4, "unlabeled_weight": 0.7}


class TinyNet(nn.Module):
    """A network of timm's form."""

    def __init__(self, *, norm: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.drop, self.fc = nn.Dropout(drop), nn.Linear(6, 3)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(images)))

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        features = self.drop(maps.mean((2, 3)))
        return features if pre_logits else self.fc(features)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


class Eager(FixMatch):
    """A method that has and asks for all that a method may: a head, a memory, the average, a look at val."""

    wants_average = True

    def __init__(self, objective: Objective, **numbers: float) -> None:
        super().__init__(objective, **numbers)
        self.head = nn.Linear(6, 3)
        self.register_buffer("memory", torch.zeros(6))
        self.register_buffer("level", torch.zeros(()))

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, figures = super().share(step)
        assert step.average is not None
        assert not step.average.features.requires_grad
        self.memory.lerp_(step.ranks.gathered(step.average.features).mean(0), 0.3)
        inputs = step.labeled.features - self.memory
        own = F.cross_entropy(self.head(inputs), step.labels[step.rows], reduction="sum") / len(step.labels)
        return loss + (1 + self.level) * own, figures | {"own_loss": own.detach()}

    def inference_head(self) -> nn.Linear:
        return self.head

    def end_epoch(self, ended: EpochEnd) -> None:
        assert ended.confusion is not None
        self.level.fill_(float(ended.confusion()[0, 0]))


def flat_pixels(count: int, seed: int) -> torch.Tensor:
    """Return images of one colour each: they look the same mirrored."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator).expand(-1, -1, 6, 6).clone()


def images(count: int, seed: int, padding: int | None) -> WideImages:
    """Return inputs in float64, so that what is left of differences is no rounding."""
    return WideImages(
        flat_pixels(count, seed), torch.tensor([0, 0, 0, 1, 1, 2]).repeat(count)[:count], MEAN, STD, padding
    )


def pool(count: int = 17, seed: int = 1, padding: int | None = None) -> PoolImages:
    """Return a pool whose strong views are negatives."""
    weak = replace(images(count, seed, padding), labels=torch.full((count,), -1))
    return PoolImages(weak, replace(weak, pixels=255 - weak.pixels))


def begin(
    kind: type[FixMatch] = FixMatch,
    objective: Objective | None = None,
    *,
    semi: SemiSettings | None = None,
    seed: int = 0,
    norm: bool = True,
    drop: float = 0.0,
    **changes: object,
) -> tuple[TrainingState, SupervisedSettings]:
    """Return the state before the first step, in float64, and the settings of the loop."""
    settings, semi = SupervisedSettings(**SETTINGS | changes), semi or FixMatchSettings(**SEMI)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method: Method = kind(
            objective or Objective(), threshold=semi.threshold, unlabeled_weight=semi.unlabeled_weight
        )
        network = SemiNetwork(TinyNet(norm=norm, drop=drop), method).double()
    return TrainingState.begin(network, settings, average_buffers=False), settings


def train(checkpoint: Path) -> TrainingState:
    """Train by an eager method with noise of its own to the end, from the checkpoint if there is one."""
    state, settings = begin(Eager, drop=0.3, crop_padding=1)
    if checkpoint.is_file():
        state.load(checkpoint)
    labeled, val = images(11, 0, 1), images(9, 2, None)
    for _ in train_semi(state, labeled, pool(padding=1), settings, FixMatchSettings(**SEMI), seed=7, val=val):
        state.save(checkpoint, {})
    return state


def several(folder: Path, ranks: Ranks = ALONE) -> None:
    """Write weights and records of this rank for short trainings, the same on any number of processes."""
    said = {}
    for name, kind in (("plain", FixMatch), ("eager", Eager)):
        state, settings = begin(kind, epochs=2)
        labeled, val = images(11, 0, 1), images(9, 2, None)
        run = train_semi(
            state, labeled, pool(padding=1), settings, FixMatchSettings(**SEMI), seed=3, val=val, ranks=ranks
        )
        said[name] = list(run)
        said[name].append(validate(state.kept, val, ranks=ranks))
        tensors = {"model": state.model.state_dict(), "kept": state.kept.state_dict()}
        torch.save(tensors, folder / f"{name}{ranks.rank}.pt")
    (folder / f"said{ranks.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    several(Path(sys.argv[1]), join_ranks())
