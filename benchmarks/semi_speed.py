"""What does the loop with unlabeled images cost? Seconds a step, and the ratio to the bare network.

    python benchmarks/semi_speed.py [--device cuda] [--precision float32] [--steps 8] [--workers 0]

A step has 64 labeled images and 128 unlabeled ones, weak and strong. The bare steps have forward and backward of 192
images that lie ready, forward without gradient of 128, and the step of SGD. Both are measured in one run, in turn, as
medians; views by themselves as well.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from measure import machine, median_seconds
from torch.nn import functional as F

from selmix.backbones import build_model
from selmix.data.images import ArrayImages, ImageSplit
from selmix.ranks import ALONE
from selmix.semi.fixmatch import FixMatchSettings
from selmix.semi.loop import train_semi
from selmix.semi.network import SemiNetwork, Views
from selmix.semi.settings import SemiSettings
from selmix.semi.views import pool_images
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import prepare_network

TURNS, POOL = 5, 1024


def main() -> None:
    """Print both times and their ratio, and that of a strong view."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="wrn_28_2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--steps", type=int, default=8, help="of each turn")
    parser.add_argument("--workers", type=int, default=0, help="processes that make strong views")
    words = parser.parse_args()
    device = torch.device(words.device)
    # an epoch is a turn, and there is one to warm up
    settings = SupervisedSettings(
        epochs=TURNS + 1, batch_size=64, learning_rate=0.03, nesterov=True, schedule="cosine_7_16", warmup_epochs=0,
        decay_all=False, average_decay=0.999, precision=words.precision,
    )  # fmt: skip
    semi = FixMatchSettings(steps_per_epoch=words.steps)
    pixels = np.random.default_rng(0).integers(0, 256, (POOL, 32, 32, 3), dtype=np.uint8)
    norm = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    split = ImageSplit([str(number) for number in range(POOL)], None, ArrayImages(pixels))
    pool = pool_images(split, size=(32, 32), settings=settings, device=device, workers=words.workers, **norm)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    labeled = DeviceImages(images, torch.arange(POOL) % 10, crop_padding=settings.crop_padding, **norm)
    states = [begin(words.architecture, settings, semi, device) for _ in range(2)]
    loop = train_semi(states[0], labeled, pool, settings, semi, seed=0)
    bare = bare_steps(states[1], settings, words.steps)
    loop_seconds, bare_seconds = median_seconds(lambda: next(loop), lambda: next(bare), repeats=TURNS)
    began = time.monotonic()
    strong = pool.strong.reader.random_crop
    for number in range(256):
        strong(split.images.open(number), number)
    view_seconds = (time.monotonic() - began) / 256
    print(machine() if words.device == "cpu" else torch.cuda.get_device_name(device))
    print(f"{words.architecture}, 64 + 128 images a step, {words.precision}, {words.workers} workers")
    times = f"loop {loop_seconds / words.steps:.3f} s a step, bare {bare_seconds / words.steps:.3f} s"
    print(f"{times}: {bare_seconds / loop_seconds:.1%}; a strong view {1e6 * view_seconds:.0f} us")


def begin(architecture: str, settings: SupervisedSettings, semi: SemiSettings, device: torch.device) -> TrainingState:
    """Return the state before the first step."""
    method = semi.begin(Objective(), num_features=128, class_counts=torch.full((10,), POOL // 10, device=device))
    network = SemiNetwork(build_model(architecture, num_classes=10), method)
    return TrainingState.begin(network.to(device), settings, average_buffers=False)


def bare_steps(state: TrainingState, settings: SupervisedSettings, steps: int) -> Iterator[float]:
    """Take so many steps each time when asked, on batches that lie ready, and tell the last loss."""
    device = next(state.model.parameters()).device
    network = prepare_network(Views(state.model).train(), settings, ALONE)  # type: ignore[arg-type]
    both, weak = (
        torch.randn(count, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        for count in (192, 128)
    )
    labels = torch.arange(192, device=device) % 10
    while True:
        for _ in range(steps):
            state.optimizer.zero_grad()
            autocast = torch.autocast(device.type, getattr(torch, settings.precision), settings.precision != "float32")
            with autocast, torch.no_grad():
                network(weak)
            with autocast:
                _, logits = network(both)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            state.optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    main()
