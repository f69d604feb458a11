"""Extraction against its two parts: the bare decode and the bare forward of the same images, on the same cores.

    python benchmarks/extraction.py [--images 1500] [--repeats 5] [--out docs/extraction.json]

`ratio` is (decode + forward) / extraction, of medians taken in turns in one run; 1 means that nothing is lost between
the parts. The bare decode uses the same worker processes and does nothing but hand images over. The bare forward runs
the same batches, twice: with all threads in each layer, as PyTorch does by itself, and, as the extraction does, with a
thread a batch; the faster one counts. Peak memory is that of a process of its own for n and for 4 n images.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import timm
import torch
from measure import machine
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset

from selmix.backbones import Backbone
from selmix.data.images import ArrayImages, FileImages, ImageData, ImageSource, ImageSplit
from selmix.features.extract import Engine, resolved_dtype
from selmix.features.filling import Filling, fill_cache

CPU = torch.device("cpu")
CASES = {"jpeg_256": ("tf_efficientnet_lite0", 224), "cifar": ("cifar_resnet32", 32)}
MEMORY = "import sys; sys.path.insert(0, sys.argv[4]); import extraction; extraction.child(*sys.argv[1:4])"


def photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of 256 pixels that cost what photographs cost to decode: smooth shapes and some noise."""
    generator, paths = np.random.default_rng(0), []
    for index in range(count):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{index}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def backbone(name: str, size: int) -> Backbone:
    """Return a network with random weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval().requires_grad_(False)
    config = resolve_model_data_config(model) | {"input_size": (3, size, size)}
    transform = create_transform(**config, is_training=False, use_prefetcher=True)
    return Backbone(name, model, transform, name, preprocessing=config, pixels=transform)


def source(case: str, folder: Path, count: int) -> ImageSource:
    """Return the images of a case; a few files serve for many images."""
    if case == "cifar":
        return ArrayImages(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    paths = sorted(folder.glob("*.jpg"))
    return FileImages([paths[index % len(paths)] for index in range(count)])


class Decode(Dataset):
    """Images through the transform, and nothing else."""

    def __init__(self, images: ImageSource, net: Backbone):
        self.images, self.transform = images, net.pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.transform(self.images.open(position))


def decoding(images: ImageSource, net: Backbone, batch_size: int, workers: int) -> Callable[[], object]:
    """Return the bare decode: as PyTorch's own loader does it."""
    return lambda: [len(batch) for batch in DataLoader(Decode(images, net), batch_size, num_workers=workers)]


def forwards(images: ImageSource, net: Backbone, engine: Engine) -> dict[str, Callable[[], object]]:
    """Return the bare forward of decoded images, normalised: with all threads in a layer, and with a thread a batch."""
    size, threads = engine.batch_size(), torch.get_num_threads()
    pixels = torch.stack([net.pixels(images.open(position)) for position in range(len(images))])
    mean, std = (torch.tensor(net.preprocessing[name]).view(-1, 1, 1) for name in ("mean", "std"))
    computed = {"dtype": torch.bfloat16, "enabled": engine.dtype == "bfloat16"}

    def one(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", **computed):
            normal = batch.to(memory_format=torch.channels_last).float().div_(255).sub_(mean).div_(std)
            return net.model(normal)

    def together(at_a_time: int) -> None:
        torch.set_num_threads(threads // at_a_time)
        with ThreadPoolExecutor(at_a_time) as pool:
            list(pool.map(one, pixels.split(size)))
        torch.set_num_threads(threads)

    return {"forward_threads_in_layers_s": lambda: together(1), "forward_thread_a_batch_s": lambda: together(threads)}


def filling(images: ImageSource, net: Backbone, dtype: str, workers: int) -> Filling:
    """Return the request to extract images as the train split."""
    count = len(images)
    split = ImageSplit([str(index) for index in range(count)], np.zeros(count, dtype=np.int64), images)
    return Filling(ImageData(["one"], {"train": split}, "data"), net, CPU, dtype=dtype, workers=workers)


def extracting(request: Filling) -> Callable[[], object]:
    """Return the extraction into a new cache, writing and checks included."""

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fill_cache(request, Path(folder))

    return work


def processor_seconds() -> float:
    """Return what this process and its finished workers have spent on processors; the load of others is not in it."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in spent)


def measured(case: str, folder: Path, count: int, repeats: int) -> dict[str, object]:
    """Measure the three in turns."""
    name, size = CASES[case]
    net, dtype, workers = backbone(name, size), resolved_dtype("auto", CPU), os.cpu_count() or 1
    images, engine = source(case, folder, count), Engine(net, CPU, dtype)
    works = {"decode_s": decoding(images, net, engine.batch_size(), workers), **forwards(images, net, engine)}
    works["extract_s"] = extracting(filling(images, net, dtype, workers))
    times: dict[str, list[float]] = {key: [] for key in works}
    processor: dict[str, list[float]] = {key: [] for key in works}
    for repeat in range(repeats + 1):
        for key, work in works.items():
            started, spent = time.perf_counter(), processor_seconds()
            work()
            if repeat:
                times[key].append(time.perf_counter() - started)
                processor[key].append(processor_seconds() - spent)
        print(case, repeat, {key: round(own[-1], 2) for key, own in times.items() if own}, flush=True)
    row: dict[str, object] = {key: statistics.median(own) for key, own in times.items()}
    keys = [key for key in times if key.startswith("forward")]
    parts = [min(own) for own in zip(*(times[key] for key in keys), strict=True)]
    rounds = [d + f for d, f in zip(times["decode_s"], parts, strict=True)]
    ratios = [parts / whole for parts, whole in zip(rounds, times["extract_s"], strict=True)]
    row |= {"case": case, "model": name, "size": size, "images": count, "dtype": dtype, "workers": workers}
    row |= {"batch_size": engine.batch_size(), "repeats": repeats}
    best = min(statistics.median(times[key]) for key in keys)
    row["ratio"] = (statistics.median(times["decode_s"]) + best) / statistics.median(times["extract_s"])
    row["ratio_of_rounds"] = statistics.median(ratios)
    spent = {key: statistics.median(own) for key, own in processor.items()}
    row["processor_s"] = spent
    row["processor_ratio"] = (spent["decode_s"] + min(spent[key] for key in keys)) / spent["extract_s"]
    row["images_per_second"] = count / statistics.median(times["extract_s"])
    return row


def child(case: str, folder: str, count: str) -> None:
    """Extract in this process and print its peak memory, in MB."""
    name, size = CASES[case]
    images = source(case, Path(folder), int(count))
    extracting(filling(images, backbone(name, size), resolved_dtype("auto", CPU), 2))()
    peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(int(peak) / 1e3)


def peaks(case: str, folder: Path, count: int) -> dict[str, float]:
    """Return the peak memory of an extracting process, MB, for n and 4 n images."""
    found = {}
    for images in (count, 4 * count):
        command = [sys.executable, "-c", MEMORY, case, str(folder), str(images), str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[str(images)] = float(done.stdout)
    return found


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/extraction.json"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), min(options.images, 1500))
        for case in CASES:
            count = options.images * (4 if case == "cifar" else 1)
            row = measured(case, Path(folder), count, options.repeats)
            row["peak_mb"] = peaks(case, Path(folder), count)
            rows.append(row)
            print(json.dumps(row), flush=True)
    options.out.write_text(json.dumps({"machine": machine(), "extraction": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
