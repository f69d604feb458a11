"""The supervised loop: cross-entropy with input mixup on images that live on the device."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from selmix.errors import check_settings
from selmix.mixup import mix_inputs
from selmix.stage1.augment import random_crop_flip
from selmix.stage1.schedules import warmup_cosine

logger = logging.getLogger("selmix")


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of the supervised loop.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step; the last incomplete batch of an epoch is dropped, unless it is the only one.
        learning_rate: peak of the warm-up/cosine schedule of SGD with Nesterov momentum; the very last step has rate 0.
        momentum: of SGD.
        weight_decay: L2 coefficient on all parameters.
        warmup_epochs: epochs of linear warm-up.
        mixup_alpha: Beta parameter of input mixup; 0 switches it off.
        crop_padding: pixels of padding before the random crop.
        bfloat16: run the forward pass under bfloat16 autocast.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    warmup_epochs: float = 5
    mixup_alpha: float = 1.0
    crop_padding: int = 4
    bfloat16: bool = True

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
                "epochs": (">= 1", self.epochs >= 1),
                "batch_size": (">= 1", self.batch_size >= 1),
                "learning_rate": ("> 0", self.learning_rate > 0),
                "momentum": ("in [0, 1)", 0 <= self.momentum < 1),
                "weight_decay": (">= 0", self.weight_decay >= 0),
                "warmup_epochs": ("in [0, epochs)", 0 <= self.warmup_epochs < self.epochs),
                "mixup_alpha": (">= 0", self.mixup_alpha >= 0),
                "crop_padding": (">= 0", self.crop_padding >= 0),
            },
        )


def train_supervised(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: SupervisedSettings,
    generator: torch.Generator,
) -> Iterator[dict[str, float]]:
    """Train `model` in place, and yield a record (epoch, loss, learning_rate) after each epoch.

    Args:
        model: image -> logits [b, k], on the device of `images`.
        images: uint8 [n, c, h, w].
        labels: int64 [n].
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        settings: the recipe of the loop.
        generator: source of order, augmentation and mixing (on the CPU).
    """
    device = images.device
    shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
    scale = torch.tensor(std, device=device).view(1, -1, 1, 1) * 255
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )
    steps = max(1, len(images) // settings.batch_size)
    model.to(memory_format=torch.channels_last)
    for epoch in range(settings.epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        loss_sum = 0.0
        for step in range(steps):
            # the rate is a function of progress
            rate = settings.learning_rate * warmup_cosine(
                epoch + (step + 1) / steps, warmup_epochs=settings.warmup_epochs, epochs=settings.epochs
            )
            for group in optimizer.param_groups:
                group["lr"] = rate

            # a batch: crop, mirror, normalise, mix
            chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size].to(device)
            batch = random_crop_flip(images[chosen], padding=settings.crop_padding, generator=generator)
            batch = ((batch.float() - shift) / scale).contiguous(memory_format=torch.channels_last)
            batch_labels = partner_labels = labels[chosen]
            mix = 1.0
            if settings.mixup_alpha > 0:
                batch, partner_labels, mix = mix_inputs(
                    batch, batch_labels, alpha=settings.mixup_alpha, generator=generator
                )

            # a step
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
                logits = model(batch)
            loss = mix * F.cross_entropy(logits.float(), batch_labels)
            loss = loss + (1 - mix) * F.cross_entropy(logits.float(), partner_labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
        record = {"epoch": epoch + 1, "loss": loss_sum / steps, "learning_rate": rate}
        logger.debug("epoch %(epoch)d loss %(loss).4f rate %(learning_rate).4f", record)
        yield record
    model.eval()
