"""What an epoch will do, drawn before it starts: which images meet, how they are augmented, how they are mixed."""

from dataclasses import dataclass

import torch

from selmix.data.samplers import epoch_order
from selmix.seeding import torch_generator
from selmix.stage1.settings import SupervisedSettings

SEEDS = 1 << 62  # of views


@dataclass(frozen=True)
class EpochPlan:
    """The random decisions of one epoch of s steps with b images each: a function of seed and epoch alone.

    So an epoch can be done again after a crash, or shared out over processes, and is the same.

    Attributes:
        positions: int64 [s, b], the images of each step.
        seeds: int64 [s, b], from which the augmentation of each image is drawn.
        partners: int64 [s, b], the row of the batch that each row is mixed with.
        mix: float64 [s], the coefficient of the row itself; 1 where there is no mixup.
    """

    positions: torch.Tensor
    seeds: torch.Tensor
    partners: torch.Tensor
    mix: torch.Tensor


def plan_epoch(labels: torch.Tensor, settings: SupervisedSettings, *, epoch: int, seed: int) -> EpochPlan:
    """Draw an epoch's decisions.

    Args:
        labels: int64 [n], of train, on the CPU.
        settings: of the loop.
        epoch: from 0.
        seed: of the run.

    Source of the mixing: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; one coefficient a batch.
    """
    generator = torch_generator(seed, f"stage1/epoch {epoch}")
    batch = min(settings.batch_size, len(labels))
    steps = len(labels) // batch
    order = epoch_order(labels, settings.sampler, progress=epoch / max(1, settings.epochs - 1), generator=generator)
    positions = order[: steps * batch].view(steps, batch)
    seeds = torch.randint(SEEDS, (steps, batch), generator=generator)
    partners = torch.arange(batch).expand(steps, batch)
    mix = torch.ones(steps, dtype=torch.float64)
    if settings.mixup_alpha > 0:
        partners = torch.rand(steps, batch, generator=generator).argsort(1)
        concentration = torch.full((2, steps), settings.mixup_alpha, dtype=torch.float64)
        gammas = torch._standard_gamma(concentration, generator=generator)
        mix = gammas[0] / gammas.sum(0)
    return EpochPlan(positions, seeds, partners, mix)
