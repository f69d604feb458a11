"""What does AutoBalance's search cost? Its time over that of plain training at the same settings.

    python benchmarks/autobalance.py [cifar_resnet32]

Steps of training and steps on the loss take turns in one run, after a warm-up; medians of several repeats. As published
for CIFAR-10-LT: 32 pixels, batch 128, a step on the loss after every 20 of training, from epoch 120 of 300 on.
"""

import sys
from itertools import cycle, islice

import torch
from measure import machine, median_seconds

from selmix.backbones import build_model
from selmix.ranks import ALONE
from selmix.seeding import torch_generator
from selmix.stage1.autobalance import SearchState, hyper_step
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.plan import plan_epoch
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import gradient_step, planned_batches

STEPS, HYPER_STEPS = 10, 5  # of training, a repeat; on the loss, of which one asks for the eigenvalue


def noise_images(count: int, device: torch.device) -> DeviceImages:
    """Return images and labels without meaning."""
    generator = torch_generator(0, f"{count} images")
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    return DeviceImages(pixels.to(device), labels, (0.5,) * 3, (0.25,) * 3, 4)


def main(architecture: str) -> None:
    """Print the two times, and the cost of the search while it changes the loss and over all epochs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop, settings = SupervisedSettings(epochs=300), AutoBalanceSettings()
    train, val = noise_images(10_000, device), noise_images(2_500, device)
    state = TrainingState.begin(build_model(architecture, num_classes=10).to(device).train(), loop)
    design = settings.design(torch.bincount(train.labels)[:, None].to(device))
    searching = SearchState.begin(design, settings)
    plan = plan_epoch(train.labels, loop, epoch=0, seed=0)
    batches = (batch for _ in cycle([0]) for batch in planned_batches(plan, train, ALONE))

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def plain() -> None:
        for batch in islice(batches, STEPS):
            gradient_step(state, state.model, batch, Objective(), loop, rate=1e-3, epoch=0)
        wait()

    def on_the_loss() -> None:
        for step in range(HYPER_STEPS):
            hyper_step(state, searching, train, val, design, settings, loop, seed=step)
        wait()

    times = median_seconds(plain, on_the_loss, repeats=3)
    step, hyper = times[0] / STEPS, times[1] / HYPER_STEPS
    ratio = 1 + hyper / (settings.interval * step)
    share = (loop.epochs - settings.start_epoch) / loop.epochs
    print(machine() | {"device": str(device), "skipped": searching.skipped})
    print(
        f"{architecture}: step of training {step:.3f} s, step on the loss {hyper:.3f} s; the search costs "
        f"{ratio:.2f} x plain training while it changes the loss, {1 + share * (ratio - 1):.2f} x over all epochs"
    )


if __name__ == "__main__":
    main(*sys.argv[1:] or ["cifar_resnet32"])
