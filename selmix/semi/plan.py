"""What an epoch with unlabeled images will do, drawn before it starts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.data.samplers import epoch_order
from selmix.seeding import torch_generator
from selmix.semi.settings import SemiSettings
from selmix.stage1.plan import SEEDS, EpochPlan
from selmix.stage1.settings import SupervisedSettings


@dataclass(frozen=True)
class SemiPlan:
    """The random decisions of one epoch of s steps with b labeled and u unlabeled images each.

    A function of seed and epoch alone, as `EpochPlan` is.

    Attributes:
        labeled: of the labeled images, without mixing.
        positions: int64 [s, u], the unlabeled images of each step.
        weak_seeds: int64 [s, u], of the weak view of each.
        strong_seeds: int64 [s, u], of the strong view of each.
    """

    labeled: EpochPlan
    positions: torch.Tensor
    weak_seeds: torch.Tensor
    strong_seeds: torch.Tensor


def plan_semi_epoch(
    labels: torch.Tensor,
    pool_count: int,
    settings: SupervisedSettings,
    semi: SemiSettings,
    *,
    epoch: int,
    seed: int,
) -> SemiPlan:
    """Draw an epoch's decisions: as many passes over the labeled images, and over the pool, as its steps take.

    Args:
        labels: int64 [n], of the labeled images, on the CPU.
        pool_count: number of unlabeled images.
        settings: of the loop.
        semi: of the unlabeled images.
        epoch: from 0.
        seed: of the run.
    """
    steps, batch = semi.steps_per_epoch, settings.batch_size
    generator = torch_generator(seed, f"semi/labeled {epoch}")
    progress = epoch / max(1, settings.epochs - 1)
    positions = _passes(
        lambda: epoch_order(labels, settings.sampler, progress=progress, generator=generator), steps, batch
    )
    seeds = torch.randint(SEEDS, (steps, batch), generator=generator)
    unmixed = torch.ones(steps, dtype=torch.float64)
    labeled = EpochPlan(positions, seeds, torch.arange(batch).expand(steps, batch), unmixed)

    pool_batch, own = semi.unlabeled_ratio * batch, torch_generator(seed, f"semi/unlabeled {epoch}")
    pool = _passes(lambda: torch.randperm(pool_count, generator=own), steps, pool_batch)
    weak, strong = (torch.randint(SEEDS, (steps, pool_batch), generator=own) for _ in range(2))
    return SemiPlan(labeled, pool, weak, strong)


def _passes(order: Callable[[], torch.Tensor], steps: int, batch: int) -> torch.Tensor:
    """Return the positions of all batches, int64 [steps, batch]: one pass after the other, the last cut off."""
    drawn = [order()]
    while sum(map(len, drawn)) < steps * batch:
        drawn.append(order())
    return torch.cat(drawn)[: steps * batch].view(steps, batch)
