"""Settings of the supervised loop."""

from dataclasses import dataclass
from typing import Literal

from selmix.errors import check_settings


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of the supervised loop.

    Attributes:
        epochs: passes over as many images as train has.
        batch_size: images a step, over all processes; the last incomplete batch of an epoch is dropped, unless it is
            the only one.
        learning_rate: of SGD, at the peak of the schedule.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2 coefficient.
        decay_all: whether biases and normalisation layers are decayed as well.
        schedule: of the learning rate after the warm-up: half a cosine to 0, FixMatch's cos(7 pi t / 16 T), or steps.
        warmup_epochs: epochs of linear warm-up.
        step_epochs: after how many epochs the rate changes, for `step`.
        step_factors: what the peak is multiplied by from then on, one for each of `step_epochs`.
        rate_changes: once a step, or once an epoch.
        sampler: of the classes: as they are, square root of their counts, all alike, from as they are to all alike, or
            class by class in turn.
        mixup_alpha: Beta parameter of input mixup; 0 switches it off.
        augmentation: of each image: a crop after padding and mirroring; a crop resized (to the backbone's input) and
            mirroring, with or without a change of colours; nothing.
        crop_padding: pixels of padding before the crop.
        precision: of the forward pass; parameters are float32.
        channels_last: whether images and weights lie in memory pixel by pixel.
        compile: whether the network goes through `torch.compile`.
        accumulation: parts that a batch is cut into, one after the other, to save memory.
        average_decay: of the moving average of the weights, which is then what is evaluated and kept; 0 switches it
            off.
        evaluate_every: epochs between evaluations on val.
        checkpoint_every: epochs between checkpoints.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    decay_all: bool = True
    schedule: Literal["cosine", "cosine_7_16", "step"] = "cosine"
    warmup_epochs: float = 5
    step_epochs: tuple[float, ...] = ()
    step_factors: tuple[float, ...] = ()
    rate_changes: Literal["step", "epoch"] = "step"
    sampler: Literal["instance", "square_root", "class_balanced", "progressive", "class_aware"] = "instance"
    mixup_alpha: float = 0.0
    augmentation: Literal["padded_crop", "resized_crop", "resized_crop_colour", "none"] = "padded_crop"
    crop_padding: int = 4
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    accumulation: int = 1
    average_decay: float = 0.0
    evaluate_every: int = 1
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        increasing = list(self.step_epochs) == sorted(set(self.step_epochs)) and all(e > 0 for e in self.step_epochs)
        check_settings(
            self,
            {
                "epochs": (">= 1", self.epochs >= 1),
                "batch_size": (">= 1", self.batch_size >= 1),
                "learning_rate": ("> 0", self.learning_rate > 0),
                "momentum": ("in [0, 1)", 0 <= self.momentum < 1),
                "nesterov": ("false without momentum", self.momentum > 0 or not self.nesterov),
                "weight_decay": (">= 0", self.weight_decay >= 0),
                "warmup_epochs": ("in [0, epochs)", 0 <= self.warmup_epochs < self.epochs),
                "step_epochs": (
                    "increasing and > 0, given with the schedule step and only with it",
                    increasing and (self.schedule == "step") == bool(self.step_epochs),
                ),
                "step_factors": (
                    "one factor >= 0 for each of step_epochs",
                    len(self.step_factors) == len(self.step_epochs) and all(f >= 0 for f in self.step_factors),
                ),
                "mixup_alpha": (">= 0", self.mixup_alpha >= 0),
                "crop_padding": (">= 0", self.crop_padding >= 0),
                "accumulation": ("in [1, batch_size]", 1 <= self.accumulation <= self.batch_size),
                "average_decay": ("in [0, 1)", 0 <= self.average_decay < 1),
                "evaluate_every": (">= 1", self.evaluate_every >= 1),
                "checkpoint_every": (">= 1", self.checkpoint_every >= 1),
            },
        )
