"""The loop with unlabeled images: planned batches, weak and strong views, a method's loss, SGD."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from selmix.ranks import ALONE, Ranks
from selmix.semi.method import EpochEnd, Outputs, Step
from selmix.semi.network import SemiNetwork, Views
from selmix.semi.plan import SemiPlan, plan_semi_epoch
from selmix.semi.settings import SemiSettings
from selmix.semi.views import PoolImages
from selmix.stage1.images import TrainingImages
from selmix.stage1.schedules import learning_rate
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import CHECK_EVERY, Batch, check_finite, own_stream, planned_batches, prepare_network
from selmix.stage1.validation import confusion_of


@dataclass(frozen=True)
class SemiBatch:
    """What one process has of a step's images.

    Attributes:
        labeled: of the labeled batch.
        weak: [m', c, h, w], its unlabeled images.
        strong: the same images.
        positions: int64 [m'], of these in the pool; on the CPU.
        pool_batch: unlabeled images of all processes.
    """

    labeled: Batch
    weak: torch.Tensor
    strong: torch.Tensor
    positions: torch.Tensor
    pool_batch: int


def train_semi(
    state: TrainingState,
    images: TrainingImages,
    pool: PoolImages,
    settings: SupervisedSettings,
    semi: SemiSettings,
    *,
    seed: int,
    val: TrainingImages | None = None,
    ranks: Ranks = ALONE,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[dict[str, float]]:
    """Train a network in place from where it stands, and yield a record after each epoch.

    Args:
        state: its model is a `SemiNetwork`; from a checkpoint, training goes on as if it had not stopped.
        images: the labeled ones.
        pool: the unlabeled ones.
        settings: of the loop.
        semi: of the unlabeled images.
        seed: of order, augmentation and dropout.
        val: not augmented; None if there is none.
        ranks: the processes that share each step.
        advance: is told after each step how many images it took, to show progress.

    Raises:
        UsageError: if there are too few images in a batch to be shared.
        DivergedError: soon after a loss that is not finite.
    """
    network = state.model
    assert isinstance(network, SemiNetwork)
    forward = prepare_network(Views(network), settings, ranks)
    for epoch in range(state.epochs, settings.epochs):
        began = time.monotonic()
        plan = plan_semi_epoch(images.labels, len(pool), settings, semi, epoch=epoch, seed=seed)
        losses: list[torch.Tensor] = []
        figures: dict[str, list[torch.Tensor]] = {}
        network.train()
        with own_stream(network, seed=seed, epoch=epoch, ranks=ranks):
            for step, batch in enumerate(semi_batches(plan, images, pool, ranks)):
                rate = learning_rate(settings, epoch=epoch, step=step, steps_per_epoch=semi.steps_per_epoch)
                loss, said = semi_step(state, network, forward, batch, settings, rate=rate, epoch=epoch, ranks=ranks)
                losses.append(loss)
                for name, figure in said.items():
                    figures.setdefault(name, []).append(figure)
                if step % CHECK_EVERY == 0:
                    check_finite(losses, epoch=epoch, ranks=ranks)
                advance(len(batch.labeled.labels) + batch.pool_batch)
        mean_loss = check_finite(losses, epoch=epoch, ranks=ranks)
        seconds = time.monotonic() - began
        network.eval()
        confusion = None if val is None else partial(confusion_of, state.kept, val, ranks=ranks)
        network.method.end_epoch(EpochEnd(epoch, confusion, ranks))
        state.epochs = epoch + 1
        yield {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "learning_rate": rate,
            "images_per_second": semi.images(settings) / seconds,
        } | {name: float(ranks.total(torch.stack(shares).double()).mean()) for name, shares in figures.items()}


def semi_batches(plan: SemiPlan, images: TrainingImages, pool: PoolImages, ranks: Ranks = ALONE) -> Iterator[SemiBatch]:
    """Yield the batches of an epoch; each process loads its own rows.

    Raises:
        UsageError: if there are too few images in a batch.
    """
    positions, weak_seeds, strong_seeds = (
        whole.tensor_split(ranks.count, dim=1)[ranks.rank]
        for whole in (plan.positions, plan.weak_seeds, plan.strong_seeds)
    )
    weak = pool.weak.loads(zip(positions, weak_seeds, strict=True))
    strong = pool.strong.loads(zip(positions, strong_seeds, strict=True))
    labeled = planned_batches(plan.labeled, images, ranks)
    for parts in zip(labeled, weak, strong, positions, strict=True):
        yield SemiBatch(*parts, plan.positions.shape[1])


def semi_step(
    state: TrainingState,
    network: SemiNetwork,
    forward: nn.Module,
    batch: SemiBatch,
    settings: SupervisedSettings,
    *,
    rate: float,
    epoch: int,
    ranks: Ranks = ALONE,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Take one step of SGD, and return this process's share of the loss and of the figures.

    Labeled images and strong views go through the network together, so batch norm sees them as one batch; weak views,
    of which no gradient is wanted, go before them by themselves.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    kept = cast(SemiNetwork, state.kept)
    device, dtype = batch.weak.device.type, batch.weak.dtype

    def said(model: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], inputs: torch.Tensor) -> Outputs:
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        with torch.autocast(device, getattr(torch, settings.precision), settings.precision != "float32"):
            features, logits = model(inputs.contiguous(memory_format=layout))
        return Outputs(features.to(dtype), logits.to(dtype))  # no loss in half precision

    state.optimizer.zero_grad()
    with torch.no_grad():
        weak = said(forward, batch.weak)
        average = said(Views(kept), batch.labeled.inputs) if network.method.wants_average else None
    both = said(forward, torch.cat([batch.labeled.inputs, batch.strong]))
    count = len(batch.labeled.inputs)
    labeled, strong = (Outputs(both.features[rows], both.logits[rows]) for rows in (slice(count), slice(count, None)))
    loss, figures = network.method.share(
        Step(
            labeled, strong, weak, average, batch.labeled.labels, batch.labeled.rows, batch.positions,
            batch.pool_batch, epoch, ranks,
        )
    )  # fmt: skip
    # gradients of several processes are averaged, and what each minimises is its part of the mean over the batch
    processes = distributed.get_world_size() if isinstance(forward, DistributedDataParallel) else 1
    state.scaler.scale(loss * processes).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(network)
    return loss.detach(), figures
