"""Processes that are killed, and processes that share the work: the cache ends up the same, bit for bit."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import scattered
from PIL import Image
from typer.testing import CliRunner
from writers import slow_fill

from selmix.backbones import build_model
from selmix.commands import app
from selmix.errors import DataError
from selmix.features import cache
from selmix.features.cached import load_cache

# newer Pythons warn of forking beside threads; the processes of these tests use none of them
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

ROOT = Path(__file__).parent.parent
BLOCKS = 26 + 26 + 3 + 14
ROWS = 101 + 101 + 10 + 55


@pytest.fixture(scope="module")
def processes():
    """Return a way to start processes that have torch already; with one thread here, forking is safe."""
    return multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _blocks_of_four(monkeypatch):
    monkeypatch.setattr(cache, "_FEWEST_ROWS", 4)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once") / "cache"
    assert slow_fill(folder) == ROWS
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".lock"}


def records(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*.json")}


def test_kill_at_ten_random_moments(processes, tmp_path, uninterrupted):
    folder, moments, there = tmp_path / "cache", random.Random(3), set()
    for attempt in range(10):
        process = processes.Process(
            target=slow_fill, args=(folder,), kwargs={"pause": 0.02, "workers": 1 if attempt == 4 else 0}
        )
        process.start()
        while process.is_alive() and not records(folder) - there:
            time.sleep(0.005)  # until it goes on from where the last one was
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert there < records(folder)  # what was complete stays
        there = records(folder)
        with pytest.raises(DataError, match="not complete"):
            load_cache(folder)
    assert len(there) < BLOCKS
    rest = slow_fill(folder)
    assert ROWS - 4 * len(there) <= rest < ROWS - 3 * len(there)
    assert content(folder) == uninterrupted


def test_two_writers_at_once(processes, tmp_path, uninterrupted):
    folder, pool = tmp_path / "cache", processes.Pool(2)
    with pool:
        jobs = [pool.apply_async(slow_fill, (folder,), {"pause": 0.002}) for _ in range(2)]
        assert sorted(job.get() for job in jobs) == [0, ROWS]
    assert content(folder) == uninterrupted


def torchrun(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_rank_that_dies_leaves_what_a_later_run_completes(tmp_path, uninterrupted):
    folder = tmp_path / "cache"
    done = torchrun(Path(__file__).parent / "writers.py", folder)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    there = records(folder)
    assert 8 <= len([name for name in there if int(Path(name).stem) % 2]) <= 10  # one to see the width
    with pytest.raises(DataError, match="not complete"):
        load_cache(folder)
    rest = slow_fill(folder)
    assert ROWS - 4 * len(there) <= rest < ROWS - 3 * len(there)
    assert content(folder) == uninterrupted


@pytest.fixture
def many_images(tmp_path):
    generator = np.random.default_rng(0)
    for split, counts in {"train": (700, 400), "val": (9, 8), "test": (20, 30)}.items():
        for name, count in zip(("ant", "bee"), counts, strict=True):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.bmp")
    return tmp_path / "images"


def test_one_and_two_processes_write_the_same_bits(many_images, tmp_path, monkeypatch):
    monkeypatch.undo()
    model = scattered(build_model("cifar_resnet20"), 0)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    words = ["extract", "--backbone", f"timm:cifar_resnet20@{tmp_path / 'net.pth'}", "--data", many_images]
    words += ["--device", "cpu", "--views", 1, "--json", "--out"]
    done = torchrun("-m", "selmix", *words, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # one document: the second process prints nothing
    assert document["rows"] == {"train": 1100, "val": 17, "test": 50, "train.view1": 1100}
    assert document["extracted"] == 2267
    alone = CliRunner().invoke(app, [str(word) for word in (*words, tmp_path / "one", "--workers", 0)])
    assert alone.exit_code == 0, alone.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")
    data = load_cache(tmp_path / "two")
    assert len(set(data.ids["train"])) == 1100
    train = data.splits["train"]
    assert len(train.views) == 1100
    gaps = (train.features[:, None] - train.views[:5]).abs().amax(2).min(0).values
    assert (gaps > 0).any()
