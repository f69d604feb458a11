"""The supervised loop: batches as planned, a loss, SGD."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from selmix.errors import DivergedError, UsageError
from selmix.mixup import mix_inputs
from selmix.ranks import ALONE, Ranks
from selmix.seeding import derived_seed
from selmix.stage1.images import TrainingImages
from selmix.stage1.objective import Objective
from selmix.stage1.plan import EpochPlan, plan_epoch
from selmix.stage1.schedules import learning_rate
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.synced_norm import synchronise

CHECK_EVERY = 50  # steps: a look at the losses waits for the device


@dataclass(frozen=True)
class Batch:
    """What one process has of a batch of b images.

    Attributes:
        inputs: [m, c, h, w], its rows, mixed.
        labels: int64 [b], of the whole batch.
        partner_labels: int64 [b], of what each is mixed with.
        mix: the coefficient of `labels`.
        rows: int64 [m], which rows of the batch are its own.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    partner_labels: torch.Tensor
    mix: float
    rows: torch.Tensor


def train_supervised(
    state: TrainingState,
    images: TrainingImages,
    objective: Objective,
    settings: SupervisedSettings,
    *,
    seed: int,
    ranks: Ranks = ALONE,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[dict[str, float]]:
    """Train the model in place from where it stands, and yield a record after each epoch.

    Args:
        state: model, optimiser and finished epochs; from a checkpoint, training goes on as if it had not stopped.
        images: of train.
        objective: what is minimised.
        settings: of the loop.
        seed: of order, augmentation, mixing and dropout.
        ranks: the processes that share each batch.
        advance: is told after each step how many images it took, to show progress.

    Raises:
        UsageError: if there are too few images in a batch to be shared.
        DivergedError: soon after a loss that is not finite.
    """
    network = prepare_network(state.model, settings, ranks)
    for epoch in range(state.epochs, settings.epochs):
        began = time.monotonic()
        plan = plan_epoch(images.labels, settings, epoch=epoch, seed=seed)
        losses: list[torch.Tensor] = []
        state.model.train()
        with own_stream(state.model, seed=seed, epoch=epoch, ranks=ranks):
            for step, batch in enumerate(planned_batches(plan, images, ranks, parts=settings.accumulation)):
                rate = learning_rate(settings, epoch=epoch, step=step, steps_per_epoch=len(plan.mix))
                losses.append(gradient_step(state, network, batch, objective, settings, rate=rate, epoch=epoch))
                if step % CHECK_EVERY == 0:
                    check_finite(losses, epoch=epoch, ranks=ranks)
                advance(len(batch.labels))
        mean_loss = check_finite(losses, epoch=epoch, ranks=ranks)
        state.model.eval()
        state.epochs = epoch + 1
        yield {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "learning_rate": rate,
            "images_per_second": plan.positions.numel() / (time.monotonic() - began),
        }


def prepare_network(model: nn.Module, settings: SupervisedSettings, ranks: Ranks) -> nn.Module:
    """Return what the forward pass goes through: the model, compiled and shared over processes as is asked for."""
    if ranks.count > 1:
        synchronise(model)
    network = cast(nn.Module, torch.compile(model)) if settings.compile else model
    return network if ranks.count == 1 else DistributedDataParallel(network)


@contextmanager
def own_stream(model: nn.Module, *, seed: int, epoch: int, ranks: Ranks = ALONE) -> Iterator[None]:
    """Let dropout and its like draw from a stream of the epoch, and give the global one back as it was."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derived_seed(seed, f"stage1/dropout {epoch}/{ranks.rank}"))
        yield


def planned_batches(
    plan: EpochPlan, images: TrainingImages, ranks: Ranks = ALONE, *, parts: int = 1
) -> Iterator[Batch]:
    """Yield the batches of an epoch; each process loads its own rows and those that they are mixed with.

    Args:
        plan: of the epoch.
        images: of train.
        ranks: the processes that share each batch.
        parts: that a batch is cut into, each of which they share; so it has the same images, however many they are.

    Raises:
        UsageError: if there are too few images in a batch.
    """
    size = plan.positions.shape[1]
    if size < parts * ranks.count:
        raise UsageError(
            f"a batch of {size} images cannot be cut into {parts} parts for each of {ranks.count} processes; take a "
            "smaller accumulation, a larger batch_size, or more images"
        )
    rows = torch.cat([part.tensor_split(ranks.count)[ranks.rank] for part in torch.arange(size).tensor_split(parts)])
    needed, at = zip(*(_with_partners(rows, partners) for partners in plan.partners), strict=True)
    labels = images.labels[plan.positions]
    partner_labels = labels.gather(1, plan.partners)
    requests = ((p[n], s[n]) for p, s, n in zip(plan.positions, plan.seeds, needed, strict=True))
    for step, inputs in enumerate(images.loads(requests)):
        own, mix = inputs[: len(rows)], float(plan.mix[step])
        # what comes from the CPU does not wait for the device, so that steps can be prepared ahead of it
        on_cpu = (labels[step], partner_labels[step], rows, at[step])
        own_labels, others, own_rows, partners = (part.to(inputs.device, non_blocking=True) for part in on_cpu)
        yield Batch(mix_inputs(own, inputs[partners], mix) if mix < 1 else own, own_labels, others, mix, own_rows)


def _with_partners(rows: torch.Tensor, partners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some rows [m] and after them the partners [b] that they need beyond, and where each finds its own."""
    place = torch.full_like(partners, -1)
    place[rows] = torch.arange(len(rows))
    beyond = partners[rows][place[partners[rows]] < 0].unique()
    place[beyond] = len(rows) + torch.arange(len(beyond))
    return torch.cat([rows, beyond]), place[partners[rows]]


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
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    inputs = batch.inputs.contiguous(memory_format=layout)
    shared = network if isinstance(network, DistributedDataParallel) else None
    # gradients of several processes are averaged, and what each minimises is its part of the mean over the batch
    processes = distributed.get_world_size() if shared else 1
    autocast = torch.autocast(inputs.device.type, getattr(torch, settings.precision), settings.precision != "float32")
    parts = list(zip(*(whole.tensor_split(settings.accumulation) for whole in (inputs, batch.rows)), strict=True))
    mean_loss = inputs.new_zeros(())
    state.optimizer.zero_grad()
    for number, (part, rows) in enumerate(parts, start=1):
        with shared.no_sync() if shared and number < len(parts) else nullcontext():
            with autocast:
                logits = network(part)
            logits = logits.to(inputs.dtype)  # no loss in half precision
            loss = batch.mix * objective.share(logits, batch.labels, rows, epoch=epoch)
            if batch.mix < 1:
                loss = loss + (1 - batch.mix) * objective.share(logits, batch.partner_labels, rows, epoch=epoch)
            state.scaler.scale(loss * processes).backward()
        mean_loss += loss.detach()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    return mean_loss


def check_finite(losses: list[torch.Tensor], *, epoch: int, ranks: Ranks = ALONE) -> float:
    """Return the mean of the losses so far, each the sum over all processes.

    Raises:
        DivergedError: if one is not finite; on all processes.
    """
    totals = ranks.total(torch.stack(losses).double())
    finite = totals.isfinite().tolist()
    if not all(finite):
        step = finite.index(False)
        error = DivergedError(
            f"the loss of epoch {epoch + 1}, step {step + 1} is not finite; lower "
            "learning_rate, or use precision=float32"
        )
        error.agreed = True
        raise error
    return float(totals.mean())
