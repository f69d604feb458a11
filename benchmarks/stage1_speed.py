"""How fast is the supervised loop? Images a second, and the ratio to bare forward, backward and step of the same model.

    python benchmarks/stage1_speed.py [--device cuda] [--compile] [--precision bfloat16] [--steps 20]

The loop augments, normalises, mixes, follows its schedule and looks for losses that are not finite. The bare steps have
one batch that lies ready. Both are measured in one run, in turn, as medians.
"""

import argparse
from collections.abc import Iterator

import torch
from measure import machine, median_seconds
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
    # an epoch is a turn, and there is one to warm up
    settings = SupervisedSettings(
        epochs=TURNS + 1, warmup_epochs=1, mixup_alpha=1.0, precision=words.precision, compile=words.compile
    )
    device, count = torch.device(words.device), words.steps * settings.batch_size
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch_generator(0, "images"))
    images = DeviceImages(pixels.to(device), torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3, settings.crop_padding)
    states = [
        TrainingState.begin(build_model(words.architecture, num_classes=10).to(device), settings) for _ in range(2)
    ]
    loop = train_supervised(states[0], images, Objective(), settings, seed=0)
    bare = bare_steps(states[1], settings, words.steps)
    loop_seconds, bare_seconds = median_seconds(lambda: next(loop), lambda: next(bare), repeats=TURNS)
    print(machine() if words.device == "cpu" else torch.cuda.get_device_name(device))
    print(f"{words.architecture}, batches of {settings.batch_size}, {words.precision}{', compiled' * words.compile}")
    speeds = f"loop {count / loop_seconds:,.0f} images/s, bare {count / bare_seconds:,.0f}"
    print(f"{speeds}: {bare_seconds / loop_seconds:.1%}")


def bare_steps(state: TrainingState, settings: SupervisedSettings, steps: int) -> Iterator[float]:
    """Take so many steps each time when asked, on one batch, and tell the last loss."""
    device = next(state.model.parameters()).device
    network = prepare_network(state.model.train(), settings, ALONE)
    inputs = torch.randn(settings.batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(settings.batch_size, device=device) % 10
    while True:
        for _ in range(steps):
            state.optimizer.zero_grad()
            with torch.autocast(device.type, getattr(torch, settings.precision), settings.precision != "float32"):
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            state.optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    main()
