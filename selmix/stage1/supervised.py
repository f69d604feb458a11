"""The supervised loop: batches as planned, a loss, SGD."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from selmix.errors import DivergedError
from selmix.mixup import mix_inputs
from selmix.ranks import ALONE, Ranks
from selmix.stage1.images import TrainingImages
from selmix.stage1.objective import Objective
from selmix.stage1.plan import EpochPlan, plan_epoch
from selmix.stage1.schedules import learning_rate
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState


_CHECK_EVERY = 50  # steps: a look at the losses waits for the device


@dataclass(frozen=True)
class Batch:
    """What one process has of a batch of b images.

    Attributes:
        inputs: [m, c, h, w], its rows, mixed.
        labels: int64 [b], of the whole batch.
        partner_labels: int64 [b], of what each is mixed with.
        mix: the coefficient of `labels`.
        rows: which rows of the batch are its own.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    partner_labels: torch.Tensor
    mix: float
    rows: slice


def train_supervised(
    state: TrainingState,
    images: TrainingImages,
    objective: Objective,
    settings: SupervisedSettings,
    *,
    seed: int,
    ranks: Ranks = ALONE,
) -> Iterator[dict[str, float]]:
    """Train the model in place from where it stands, and yield a record after each epoch.

    Args:
        state: model, optimiser and finished epochs; from a checkpoint, training goes on as if it had not stopped.
        images: of train.
        objective: what is minimised.
        settings: of the loop.
        seed: of order, augmentation and mixing.
        ranks: the processes that share each batch.

    Raises:
        DivergedError: at the first loss that is not finite.
    """
    network = prepare_network(state.model, settings, ranks)
    for epoch in range(state.epochs, settings.epochs):
        plan = plan_epoch(images.labels, settings, epoch=epoch, seed=seed)
        losses: list[torch.Tensor] = []
        began = time.monotonic()
        state.model.train()
        for step, batch in enumerate(planned_batches(plan, images, ranks)):
            rate = learning_rate(settings, epoch=epoch, step=step, steps_per_epoch=len(plan.mix))
            losses.append(gradient_step(state, network, batch, objective, settings, rate=rate, epoch=epoch))
            if step % _CHECK_EVERY == 0:
                check_finite(losses, epoch=epoch)
        check_finite(losses, epoch=epoch)
        state.model.eval()
        state.epochs = epoch + 1
        yield {
            "epoch": epoch + 1,
            "loss": float(ranks.total(torch.stack(losses).mean().double().cpu())),
            "learning_rate": rate,
            "images_per_second": plan.positions.numel() / (time.monotonic() - began),
        }


def prepare_network(model: nn.Module, settings: SupervisedSettings, ranks: Ranks) -> nn.Module:
    """Return what the forward pass goes through: the model, compiled and shared over processes as is asked for."""
    network = torch.compile(model) if settings.compile else model
    return network if ranks.count == 1 else DistributedDataParallel(network)


def planned_batches(plan: EpochPlan, images: TrainingImages, ranks: Ranks) -> Iterator[Batch]:
    """Yield the batches of an epoch; each process loads its own rows and those that they are mixed with."""
    size = plan.positions.shape[1]
    rows = slice(size * ranks.rank // ranks.count, size * (ranks.rank + 1) // ranks.count)
    own = torch.arange(size)[rows]
    needed = [torch.cat([own, partners[rows]]).unique() for partners in plan.partners]
    requests = ((p[n], s[n]) for p, s, n in zip(plan.positions, plan.seeds, needed, strict=True))
    for step, inputs in enumerate(images.loads(requests)):
        labels, partners, mix = images.labels[plan.positions[step]], plan.partners[step], float(plan.mix[step])
        at = torch.searchsorted(needed[step], torch.stack([own, partners[rows]])).to(inputs.device)
        if mix < 1:
            inputs = mix_inputs(inputs[at[0]], inputs[at[1]], mix)
        else:
            inputs = inputs[at[0]]
        yield Batch(inputs, labels.to(inputs.device), labels[partners].to(inputs.device), mix, rows)


def gradient_step(
    state: TrainingState,
    network: nn.Module,
    batch: Batch,
    objective: Objective,
    settings: SupervisedSettings,
    *,
    rate: float,
    epoch: int,
) -> torch.Tensor:
    """Take one step of SGD, and return this process's part of the batch's mean loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    device_type = batch.inputs.device.type
    shared = isinstance(network, DistributedDataParallel)
    processes = distributed.get_world_size() if shared else 1
    loss_sum = batch.inputs.new_zeros(())
    parts = torch.arange(len(batch.inputs)).tensor_split(settings.accumulation)
    state.optimizer.zero_grad()
    for number, part in enumerate(parts):
        rows = part + batch.rows.start
        inputs = batch.inputs[part] if len(parts) > 1 else batch.inputs
        if settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        last = number == len(parts) - 1
        with network.no_sync() if shared and not last else nullcontext():
            with torch.autocast(
                device_type, getattr(torch, settings.precision), enabled=settings.precision != "float32"
            ):
                logits = network(inputs)
            loss = batch.mix * objective.share(logits.float(), batch.labels, rows, epoch=epoch)
            if batch.mix < 1:
                loss = loss + (1 - batch.mix) * objective.share(logits.float(), batch.partner_labels, rows, epoch=epoch)
            # the gradients of several processes are averaged, and the share is one of the whole batch's mean
            state.scaler.scale(loss * processes).backward()
        loss_sum += loss.detach()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    return loss_sum


def check_finite(losses: list[torch.Tensor], *, epoch: int) -> None:
    """Refuse to go on after a loss that is not finite."""
    finite = torch.stack(losses).isfinite().tolist()
    if not all(finite):
        step = finite.index(False)
        raise DivergedError(
            f"the loss of epoch {epoch + 1}, step {step + 1} is not finite; lower learning_rate, or use precision=float32"
        )
