"""Decoding: batches of one block each, in order, with and without worker processes; a file is read once."""

import hashlib
import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import image_split, noise_image, write_images
from PIL import Image
from timm.data import create_transform

from selmix.data.images import FileImages, ImageSplit, ImageSubset
from selmix.features.loading import Batches, Task, default_workers, read_ahead, read_image

TASKS = [Task("a", range(0, 5)), Task("a", range(10, 12)), Task("b", range(0, 4)), Task("a", range(5, 10), view=1)]


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def batches(size: int) -> Batches:
    splits = {
        name: image_split([noise_image(first + index, (16, 16)) for index in range(count)])
        for name, first, count in (("a", 0, 12), ("b", 100, 4))
    }
    return Batches(splits, TASKS, pixels, batch_size=size)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_no_batch_crosses_the_border_of_a_block(size):
    found: dict[int, list[torch.Tensor]] = {}
    lengths: dict[int, list[int]] = {}
    for batch in read_ahead(batches(size), workers=0):
        found.setdefault(batch.task, []).append(batch.pixels)
        lengths.setdefault(batch.task, []).append(len(batch.pixels))
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert list(found) == [0, 1, 2, 3]
    for number, task in enumerate(TASKS):
        count = len(task.rows)
        assert lengths[number] == [size] * (count // size) + [count % size] * (count % size > 0)
        if task.view == 0:
            first = {"a": 0, "b": 100}[task.split]
            right = torch.stack([pixels(noise_image(first + row, (16, 16))) for row in task.rows])
            assert torch.equal(torch.cat(found[number]), right)


def test_workers_give_the_same_batches_in_the_same_order():
    for alone, other in zip(read_ahead(batches(2), workers=0), read_ahead(batches(2), workers=2), strict=True):
        assert alone.task == other.task
        assert torch.equal(alone.pixels, other.pixels)


@pytest.mark.parametrize("fault", [OSError("no more processes"), RuntimeError("worker exited unexpectedly")])
def test_workers_that_cannot_start_are_done_without(monkeypatch, caplog, fault):
    caplog.set_level(logging.WARNING, "selmix")

    def refuse(*_, **__):
        raise fault

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", refuse)
    assert [batch.task for batch in read_ahead(batches(100), workers=2)] == [0, 1, 2, 3]
    assert caplog.messages == [f"decoding goes on without worker processes: {fault}"]


def test_workers_that_die_in_the_middle_cost_no_batch(monkeypatch, caplog):
    whole = list(read_ahead(batches(2), workers=0))

    def dying(loader):
        yield whole[0]
        yield whole[1]
        raise RuntimeError("DataLoader worker (pid 7) is killed")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", dying)
    found = list(read_ahead(batches(2), workers=1))
    assert len(found) == len(whole)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(found, whole, strict=True))
    assert "without worker processes" in caplog.text


def test_a_file_is_read_once_for_pixels_and_digest(tmp_path, monkeypatch):
    write_images(tmp_path, 3)
    files = FileImages([tmp_path / f"{index}.png" for index in range(3)])
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or read_bytes(path))
    monkeypatch.setattr(FileImages, "digest", lambda *_: pytest.fail("read again"))
    reading = read_image(ImageSubset(files, np.array([2, 0])), 0)
    assert reads == ["2.png"]
    assert reading.digest == hashlib.sha256((tmp_path / "2.png").read_bytes()).hexdigest()
    assert reading.stamp == files.stamp(2)
    assert reading.image.tobytes() == Image.open(io.BytesIO((tmp_path / "2.png").read_bytes())).tobytes()


def test_a_bad_image_leaves_the_size_of_its_batch(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"no image")
    files = FileImages([tmp_path / f"{index}.png" for index in (0, 1, 2, 9)])
    split = ImageSplit(["0", "1", "2", "9"], None, files)
    transform = create_transform((3, 8, 8), is_training=False, normalize=False)
    (batch,) = read_ahead(Batches({"a": split}, [Task("a", range(4))], transform, batch_size=8), workers=0)
    assert batch.pixels.shape == (4, 3, 8, 8)
    assert set(batch.faults) == {1, 3}
    assert "1.png (no image in a format that is known)" in batch.faults[1]
    assert batch.digests[1] == hashlib.sha256(b"no image").hexdigest()
    assert (batch.digests[3], batch.stamps[3]) == (None, None)


def test_few_images_are_worth_no_worker():
    assert default_workers(100, processes=1) == 0
    assert default_workers(10**6, processes=1) >= 1
    assert default_workers(10**6, processes=10**3) == 1
