"""Peak memory and time of the three heaviest things that people ask for, each in a process of its own.

    python benchmarks/load.py [--cases rows classes images] [--scale 0.01] [--folder FOLDER]

rows: `finetune` on 10^7 x 64 float16 features of an .npz; classes: `finetune` with 5,000 classes; images: `check` of
200,000 small images. Prints a Markdown table. RssAnon is memory that only this process has; RssFile are pages of files,
which the kernel takes back when memory is short. Linux only.
"""

import argparse
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from measure import machine
from PIL import Image

BLOCK = 1 << 16  # rows that are made at a time
ROWS, WIDTH, ROW_CLASSES, ROW_IMBALANCE = 10_000_000, 64, 10, 100
CLASSES, CLASS_WIDTH = 5_000, 64
IMAGES, IMAGE_CLASSES, SIDE = 200_000, 100, 16


@dataclass
class Peak:
    """What a process took at most, in bytes, and what it said on its terminal."""

    seconds: float = 0.0
    highest: dict[str, int] = field(default_factory=dict)
    code: int = 0
    said: bytes = b""


def watch(command: list[str], environment: dict[str, str]) -> Peak:
    """Run a command on a terminal of its own, look at its memory ten times a second, and keep what it says."""
    peak, started = Peak(), time.perf_counter()
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | environment) as process:
        os.close(theirs)
        parent, open_end = psutil.Process(process.pid), True
        while process.poll() is None or open_end:
            if open_end and select.select([ours], [], [], 0.1)[0]:
                try:
                    said = os.read(ours, 1 << 16)
                except OSError:  # Linux says so when the other end is closed
                    said = b""
                peak.said, open_end = peak.said + said, bool(said)
            for name, size in memory_of(parent):
                peak.highest[name] = max(size, peak.highest.get(name, 0))
    os.close(ours)
    peak.seconds, peak.code = time.perf_counter() - started, process.returncode
    return peak


def memory_of(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Yield name and bytes of what a process takes now; `tree` is what its workers have beside it."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith(("Rss", "VmHWM"))}
        workers = sum(child.memory_info().rss - child.memory_info().shared for child in process.children())
    except (OSError, psutil.Error):
        return
    yield from sizes.items()
    if workers:
        yield "workers", workers


def long_tail(total: int, classes: int, imbalance: float) -> np.ndarray:
    """Return counts [k] that fall geometrically from the first class to the last, and add up to about the total."""
    shares = imbalance ** -(np.arange(classes) / max(1, classes - 1))
    return np.maximum(2, (total * shares / shares.sum()).astype(int))


def write_features(path: Path, sizes: dict[str, np.ndarray], width: int) -> None:
    """Write the .npz that np.savez would write for Gaussian classes, a block at a time: sizes are counts [k]."""
    if path.exists():
        return
    generator = np.random.default_rng(0)
    centres = 0.35 * generator.standard_normal((len(sizes["train"]), width))
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for split, counts in sizes.items():
            labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
            with archive.open(f"{split}_labels.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, labels)
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(labels), width)}
            with archive.open(f"{split}_features.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(labels), BLOCK):
                    own = centres[labels[start : start + BLOCK]]
                    file.write((own + generator.standard_normal(own.shape)).astype("<f2").tobytes())


def rows(folder: Path, scale: float) -> tuple[str, list[str]]:
    """Write many rows, and return what they are and how they are tuned."""
    sizes = {"train": long_tail(int(ROWS * scale), ROW_CLASSES, ROW_IMBALANCE)}
    sizes |= {name: np.full(ROW_CLASSES, 1000) for name in ("val", "test")}
    write_features(folder / "features.npz", sizes, WIDTH)
    what = f"finetune, {sizes['train'].sum():,} x {WIDTH} float16, {ROW_CLASSES} classes"
    return what, tuned(folder)


def classes(folder: Path, scale: float) -> tuple[str, list[str]]:
    """Write many classes, and return what they are and how they are tuned."""
    count = max(2, int(CLASSES * scale))
    sizes = {"train": long_tail(20 * count, count, 100), "val": np.full(count, 4), "test": np.full(count, 4)}
    write_features(folder / "features.npz", sizes, CLASS_WIDTH)
    return f"finetune, {count:,} classes, {sizes['train'].sum():,} x {CLASS_WIDTH}", tuned(folder)


def tuned(folder: Path) -> list[str]:
    """Return the command that tunes on the features in a folder."""
    return [
        "finetune",
        "--features",
        f"{folder}/features.npz",
        "--metric",
        "min_recall",
        "--out",
        f"{folder}/run",
        "--overwrite",
    ]


def images(folder: Path, scale: float) -> tuple[str, list[str]]:
    """Write many small images in class folders, and return what they are and how they are checked."""
    generator, written = np.random.default_rng(0), 0
    parts = {"train": 0.9, "val": 0.05, "test": 0.05}
    for split, share in parts.items():
        for label in range(IMAGE_CLASSES):
            place = folder / "images" / split / f"class{label:03}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(max(1, int(IMAGES * scale * share / IMAGE_CLASSES))):
                written += 1
                if not (file := place / f"{number:05}.png").exists():
                    pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(file, compress_level=1)
    what = f"check, {written:,} images of {SIDE} px in {IMAGE_CLASSES} classes"
    return what, ["check", f"{folder}/images", "--out", f"{folder}/findings.csv"]


CASES: dict[str, Callable[[Path, float], tuple[str, list[str]]]] = {"rows": rows, "classes": classes, "images": images}


def main() -> None:
    """Write the data of each case, run it, print its row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="share of rows, classes and images")
    parser.add_argument(
        "--folder", type=Path, help="where data (not made twice) and runs go and stay; removed if not given"
    )
    parser.add_argument("--settings", nargs="*", default=[], help="of finetune, such as steps=100")
    options = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    columns = ["what", "seconds", "peak resident", "RssAnon", "RssFile", "workers", "lines on the terminal", "load"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name in options.cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if options.folder is None else options.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            what, command = CASES[name](folder, options.scale)
            if command[0] == "finetune":
                command += options.settings
            peak = watch([sys.executable, "-m", "selmix", *command], {"COLUMNS": "120", "TERM": "xterm-256color"})
            (folder / "terminal.txt").write_bytes(peak.said)
            sizes = [
                f"{peak.highest.get(key, 0) / 2**20:,.0f} MiB" for key in ("VmHWM", "RssAnon", "RssFile", "workers")
            ]
            rest = [peak.said.count(b"\n"), machine()["load"]]
            print(f"| {' | '.join(map(str, [what, f'{peak.seconds:.0f}', *sizes, *rest]))} |", flush=True)
            if peak.code:
                sys.exit(f"exit code {peak.code}: {peak.said[-2000:].decode(errors='replace')}")


if __name__ == "__main__":
    main()
