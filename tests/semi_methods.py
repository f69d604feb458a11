"""What the tests of the methods on FixMatch's loop have in common: steps of made-up outputs, and a short training."""

import sys
from pathlib import Path

import semi_trainer
import torch
from semi_trainer import SETTINGS, TinyNet, images, pool

from selmix.ranks import ALONE, Ranks, join_ranks
from selmix.semi.crest import CrestSettings
from selmix.semi.csst import CsstSettings
from selmix.semi.daso import DasoSettings
from selmix.semi.loop import train_semi
from selmix.semi.method import Method, Outputs, Step
from selmix.semi.network import SemiNetwork
from selmix.semi.settings import Beginning, SemiSettings
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState

# what several processes do alike; ABC draws on each for itself
ALIKE = {
    "daso": DasoSettings(threshold=0.4, steps_per_epoch=3, queue_size=4, warmup_steps=1, distribution_steps=2),
    "crest_plus": CrestSettings(threshold=0.4, steps_per_epoch=3),
    "csst": CsstSettings(goal="coverage", divergence=1.0, steps_per_epoch=2),
}
COUNTS = torch.tensor([6, 4, 1])  # of the 11 labeled images


def begun(semi: SemiSettings, counts: torch.Tensor = COUNTS, *, width: int = 6, generation: int = 0) -> Method:
    """Return a method in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return semi.begin(Objective(), Beginning(width, counts, 3, generation)).double()


def outputs(rows: int, seed: int, *, classes: int = 3, width: int = 6) -> Outputs:
    """Return features and logits with a gradient, some of them confident."""
    generator = torch.Generator().manual_seed(seed)
    features, logits = (
        scale * torch.randn(rows, count, generator=generator, dtype=torch.float64)
        for scale, count in ((1, width), (4, classes))
    )
    return Outputs(features.requires_grad_(), logits.requires_grad_())


def step(*, seed: int = 0, epoch: int = 0, size: int = 8, pool_size: int = 40, ranks: Ranks = ALONE) -> Step:
    """Return a step of one process."""
    labeled, strong, weak, average = (
        outputs(rows, 10 * seed + number) for number, rows in enumerate((size, pool_size, pool_size, size))
    )
    weak, average = (Outputs(part.features.detach(), part.logits.detach()) for part in (weak, average))
    labels = torch.arange(size) % 3
    return Step(
        labeled, strong, weak, average, labels, torch.arange(size), torch.arange(pool_size), pool_size, epoch, ranks
    )


def trained(
    semi: SemiSettings, checkpoint: Path | None = None, *, drop: float = 0.3, ranks: Ranks = ALONE, **changes: object
) -> tuple[TrainingState, list[dict]]:
    """Train a tiny network by a method to the end, from the checkpoint if there is one; return the records as well."""
    settings = SupervisedSettings(**SETTINGS | {"crop_padding": 1} | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SemiNetwork(TinyNet(drop=drop), begun(semi)).double()
    state = TrainingState.begin(network, settings, average_buffers=False)
    if checkpoint is not None and checkpoint.is_file():
        state.load(checkpoint)
    records = []
    val = images(9, 2, None)
    for record in train_semi(state, images(11, 0, 1), pool(padding=1), settings, semi, seed=7, val=val, ranks=ranks):
        records.append(record)
        if checkpoint is not None:
            state.save(checkpoint, {})
    return state, records


def falls(semi: SemiSettings) -> bool:
    """Return whether what is minimised falls under its own gradient, on one step done again and again."""
    method, same = begun(semi), step()
    free = [part for own in (same.labeled, same.strong) for part in (own.features, own.logits)]
    optimizer = torch.optim.SGD([*free, *method.parameters()], lr=0.05)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = method.share(same)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return all(after < before for before, after in zip(losses[1:], losses[2:], strict=False))


def several(folder: Path, ranks: Ranks = ALONE) -> None:
    """Write what this rank has after short trainings, those of `semi_trainer` too, and what it would choose."""
    semi_trainer.several(folder, ranks)
    for name, semi in ALIKE.items():
        state, records = trained(semi, drop=0.0, ranks=ranks, epochs=2 if semi.needs_val else 1)
        content = {"model": state.model.state_dict(), "kept": state.kept.state_dict(), "loss": records[-1]["loss"]}
        if isinstance(semi, CrestSettings):
            content["chosen"] = semi.choose(state.kept, images(17, 3, None), COUNTS, ranks=ranks)
        torch.save(content, folder / f"{name}{ranks.rank}.pt")


if __name__ == "__main__":
    several(Path(sys.argv[1]), join_ranks())
