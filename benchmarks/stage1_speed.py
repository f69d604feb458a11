"""How fast is the supervised loop? Images a second, and the ratio to bare forward, backward and step of the same model.

    python benchmarks/stage1_speed.py [--device cuda] [--compile] [--precision bfloat16] [--steps 20]

The loop augments, normalises, mixes, follows its schedule and looks for losses that are not finite. The bare steps have
one batch that lies ready. Both are measured in one run, in turn, and the ratio is the median over the turns.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import replace

import torch
from torch.nn import functional as F

from selmix.backbones import build_model
from selmix.ranks import ALONE
from selmix.seeding import torch_generator
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import prepare_network, train_supervised

TURNS = 5


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="cifar_resnet32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="of each turn")
    words = parser.parse_args()
    device = torch.device(words.device)
    # an epoch is a turn, after one to warm up; the loop keeps its state and its compiled network in between
    settings = SupervisedSettings(
        epochs=TURNS + 1,
        warmup_epochs=1,
        mixup_alpha=1.0,
        precision=words.precision,
        compile=words.compile,
        nesterov=True,
    )
    count = words.steps * settings.batch_size
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch_generator(0, "images"))
    images = DeviceImages(pixels.to(device), torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3, settings.crop_padding)

    def state() -> TrainingState:
        torch.manual_seed(0)
        return TrainingState.begin(build_model(words.architecture, num_classes=10).to(device), settings)

    loop = train_supervised(state(), images, Objective(), settings, seed=0)
    bare = bare_steps(state(), replace(settings, epochs=1), words.steps)
    seconds = [[timed(run, device) for run in (loop, bare)] for _ in range(TURNS + 1)][1:]
    speeds = [count / statistics.median(own) for own in zip(*seconds, strict=True)]
    ratio = statistics.median(ready / whole for whole, ready in seconds)
    print(
        f"{words.architecture}, batch {settings.batch_size}, {words.device}, {torch.get_num_threads()} threads, "
        f"{words.precision}{', compiled' * words.compile}: loop {speeds[0]:,.0f} images/s, bare {speeds[1]:,.0f}, "
        f"ratio {ratio:.1%}"
    )


def bare_steps(state: TrainingState, settings: SupervisedSettings, steps: int):
    """Take so many steps each time when asked."""
    device = next(state.model.parameters()).device
    network = prepare_network(state.model.train(), settings, ALONE)
    inputs = torch.randn(settings.batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(settings.batch_size, device=device) % 10
    for turn in itertools.count():
        for _ in range(steps):
            state.optimizer.zero_grad()
            with torch.autocast(device.type, getattr(torch, settings.precision), settings.precision != "float32"):
                logits = network(inputs)
            F.cross_entropy(logits.float(), labels).backward()
            state.optimizer.step()
        yield turn


def timed(run, device: torch.device) -> float:
    """Return the seconds until the next result is there."""
    began = time.perf_counter()
    next(run)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
