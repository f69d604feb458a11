"""The feature cache: complete or continued, never torn, never of other images or weights than asked for."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import noise_image, write_image_folder
from filelock import FileLock
from PIL import Image
from torch import nn

from selmix.backbones import Backbone
from selmix.data.sources import open_images
from selmix.data.unlabeled import with_pool
from selmix.errors import DataError
from selmix.features import blocks, cache, disk
from selmix.features.blocks import read_sealed, write_sealed
from selmix.features.cache import Part
from selmix.features.cached import load_cache
from selmix.features.filling import Filled, Filling, fill_cache
from selmix.ranks import Ranks
from selmix.writing import write_atomically

CPU = torch.device("cpu")
COUNTS = {"train": {"ant": 7, "bee": 4}, "val": {"ant": 2, "bee": 2}, "test": {"ant": 3, "bee": 2}}


def shrunk(image: Image.Image) -> torch.Tensor:
    """Return the pixels of a 6 by 5 image, uint8 [3, 5, 6]."""
    return torch.from_numpy(np.array(image.resize((6, 5)))).permute(2, 0, 1).contiguous()


class Plain(nn.Module):
    """The first pixels of a normalised image as its feature."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return x.flatten(1)[:, :4]


def backbone(digest: str = "weights", model: nn.Module | None = None) -> Backbone:
    preprocessing = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Backbone("plain", model or Plain(), None, digest, preprocessing, pixels=shrunk)


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", COUNTS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(cache, "_FEWEST_ROWS", 4)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes most of the time; see the test of what is durable


def fill(root: Path, folder: Path | None = None, digest: str = "weights", **changes) -> tuple[Filled, Plain]:
    model = changes.pop("model", None) or Plain()
    filling = Filling(open_images(str(root)), backbone(digest, model), CPU, **{"workers": 0} | changes)
    return fill_cache(filling, folder), model


def features_of(path: Path) -> np.ndarray:
    """Return what the toy backbone makes of an image file."""
    pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    return ((pixels.astype(np.float32) / 255 - 0.5) / 0.25).reshape(-1)[:4]


def content(folder: Path) -> dict[str, bytes]:
    """Return what must be the same in equal caches: all files but the lock; records without times of files."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name != ".lock"}


def expected(root: Path, split: str) -> np.ndarray:
    images = open_images(str(root)).splits[split].images
    return np.stack([features_of(path) for path in images.paths])


def test_the_rows_are_the_features_of_the_images_in_order(root, tmp_path):
    filled, _ = fill(root, tmp_path / "cache")
    data = load_cache(tmp_path / "cache")
    images = open_images(str(root))
    assert filled.images == 11 + 4 + 5
    for name, split in images.splits.items():
        np.testing.assert_allclose(data.splits[name].features.numpy(), expected(root, name), rtol=1e-6, atol=1e-6)
        assert data.splits[name].labels.tolist() == split.labels.tolist()
        assert data.ids[name] == split.ids
    assert data.class_names == ["ant", "bee"]
    assert data.digests == {"data": images.digest, "backbone": "weights"}
    assert data.head is None


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_a_dtype_costs_what_its_mantissa_says(root, tmp_path, dtype, error):
    filled, _ = fill(root, tmp_path / "cache", dtype=dtype)
    rows, right = load_cache(tmp_path / "cache").splits["train"].features, expected(root, "train")
    assert rows.dtype == torch.float32
    gap = np.abs(rows.numpy() - right).max() / np.abs(right).max()
    assert gap <= error + 1e-6
    assert (gap > 1e-5) == (dtype != "float32")
    files = list((tmp_path / "cache" / "train").glob("*.npy"))
    assert [len(np.load(path, mmap_mode="r")) for path in sorted(files)] == [4, 4, 3]
    assert np.load(files[0]).dtype == {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[dtype]
    assert filled.sidecar.bytes == 20 * 4 * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize(
    ("rows", "height"), [(1, 1024), (2**24, 1024), (2**24 + 1, 2048), (2**25 + 1, 4096), (10**9, 65536)]
)
def test_there_are_at_most_16384_blocks(rows, height, monkeypatch):
    monkeypatch.undo()
    part = Part("train", 0, rows)
    assert part.height == height
    assert part.blocks <= 16384
    assert part.rows_of(part.blocks - 1).stop == rows


def test_the_second_call_reuses_and_says_so(root, caplog):
    caplog.set_level(logging.INFO, "selmix")
    first, model = fill(root)
    assert sum(model.seen) == 1 + 20  # one to see how wide features are
    assert "features of 20 images need 3.5 kB (20 x 4 x 4 bytes" in caplog.text
    assert first.folder.parent == Path(os.environ["SELMIX_CACHE"])
    caplog.clear()
    second, model = fill(root)
    assert model.seen == []
    assert second == dataclasses.replace(first, images=0, seconds=second.seconds)
    assert caplog.messages == [f"features reused from {first.folder}"]


def test_the_default_place(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SELMIX_CACHE")
    assert cache.cache_root() == Path("/home/me/.cache/selmix")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache.cache_root() == Path("/fast/selmix")


def test_other_weights_dtype_views_or_labels_have_a_place_of_their_own(root):
    folders = [fill(root)[0].folder, fill(root, digest="other")[0].folder, fill(root, dtype="float16")[0].folder]
    folders.append(fill(root, views=1)[0].folder)
    (root / "val" / "ant" / "0.png").rename(root / "val" / "bee" / "x.png")
    folders.append(fill(root)[0].folder)
    assert len(set(folders)) == 5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"digest": "other"}, "backbone"),
        ({"dtype": "float16"}, r"dtype \(float32 there, float16"),
        ({"views": 2}, "views"),
    ],
)
def test_other_features_in_a_named_folder_are_refused_by_name(root, tmp_path, changes, named):
    fill(root, tmp_path / "cache", about={"backbone": "timm:a@b.pth"})
    before = content(tmp_path / "cache")
    with pytest.raises(DataError, match=f"what differs: {named}.*there: backbone timm:a@b.pth.*another folder"):
        fill(root, tmp_path / "cache", **changes)
    assert content(tmp_path / "cache") == before


def test_a_folder_with_other_files_is_refused(root, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "letter.txt").touch()
    with pytest.raises(DataError, match=r"letter\.txt.*no feature cache"):
        fill(root, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text('{"format": "of somebody else"}')
    with pytest.raises(DataError, match=r"cache\.json is damaged, or belongs to something else"):
        fill(root, tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache\.json is damaged"):
        load_cache(tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache\.json is missing"):
        load_cache(tmp_path)


def flip(path: Path, position: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["train/00001.npy", "train/00001.json", "test.labels.npy", "test.ids.json"])
def test_harm_is_seen_and_mended_by_the_next_extraction(root, tmp_path, harm, name):
    folder = tmp_path / "cache"
    fill(root, folder)
    before = content(folder)
    harm(folder / name)
    with pytest.raises(DataError, match="repeat the `selmix extract`") as caught:
        load_cache(folder)
    assert ("block 1 of train" if "train" in name else name) in str(caught.value)
    filled, model = fill(root, folder)
    assert filled.images == (4 if "train" in name else 0)
    assert content(folder) == before


def test_every_byte_of_a_small_cache_is_guarded(root, tmp_path):
    folder = tmp_path / "cache"
    fill(root, folder)
    generator = np.random.default_rng(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        for position in generator.choice(len(whole), 3, replace=False):
            flip(path, int(position))
            with pytest.raises(DataError):
                load_cache(folder)
            path.write_bytes(whole)
    load_cache(folder)


def test_a_damaged_sidecar_in_the_default_place_is_written_anew_and_no_block_is_lost(root):
    filled, _ = fill(root)
    flip(filled.folder / "cache.json", 30)
    again, model = fill(root)
    assert sum(model.seen) <= 1
    assert again.images == 0
    assert load_cache(filled.folder).splits["train"].features.shape == (11, 4)


def test_blocks_of_another_cache_are_not_taken(root, tmp_path):
    fill(root, tmp_path / "a")
    fill(root, tmp_path / "b", digest="other", model=nn.Sequential(Plain(), nn.ReLU()))
    for suffix in ("npy", "json"):
        shutil.copy(tmp_path / "b" / "train" / f"00000.{suffix}", tmp_path / "a" / "train")
    with pytest.raises(DataError, match="block 0 of train: it belongs to another cache"):
        load_cache(tmp_path / "a")


def test_data_sets_of_the_same_names_do_not_share_a_cache(root, tmp_path):
    one, _ = fill(root)
    shutil.copytree(root, tmp_path / "copy")
    two, _ = fill(tmp_path / "copy")
    assert one.sidecar.identity == two.sidecar.identity
    assert one.folder != two.folder
    assert fill(root)[0].images == 0


def test_what_another_process_put_there_meanwhile_is_not_taken(root, tmp_path):
    """Between filling and loading, somebody fills the same folder with images of the same names."""
    fill(root, tmp_path / "cache")
    mine = open_images(str(root))
    shutil.copytree(root, tmp_path / "copy")
    changed(tmp_path / "copy" / "train" / "ant" / "0.png")
    fill(tmp_path / "copy", tmp_path / "cache")
    load_cache(tmp_path / "cache", images=open_images(str(tmp_path / "copy")))
    with pytest.raises(DataError, match="block 0 of train: 1 of its images changed, the first is train/ant/0.png"):
        load_cache(tmp_path / "cache", images=mine)


def test_what_is_left_by_a_process_that_was_killed_early_is_no_foreign_folder(root, tmp_path):
    (tmp_path / "cache" / "train").mkdir(parents=True)
    (tmp_path / "cache" / ".writing-cache.json-123").write_text("{")
    filled, _ = fill(root, tmp_path / "cache")
    assert filled.images == 20
    assert not (tmp_path / "cache" / ".writing-cache.json-123").exists()


def test_a_damaged_sidecar_beside_its_blocks_is_written_anew(root, tmp_path):
    fill(root, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text("{")
    with pytest.raises(DataError, match="repeat the `selmix extract`"):
        load_cache(tmp_path / "cache")
    assert fill(root, tmp_path / "cache")[0].images == 0
    load_cache(tmp_path / "cache")


def test_a_file_is_no_folder(root, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(DataError, match="notes is a file; name a folder"):
        fill(root, tmp_path / "notes")


def test_files_of_test_that_are_in_train_are_said(root, tmp_path, caplog):
    shutil.copy(root / "train" / "bee" / "3.png", root / "test" / "bee" / "copy.png")
    shutil.copy(root / "val" / "bee" / "1.png", root / "test" / "bee" / "other.png")
    (root / "test" / "ant" / "0.png").unlink()
    noise_image(77).save(root / "test" / "ant" / "0.png")
    once = {path.read_bytes() for split in ("train", "val") for path in (root / split).rglob("*.png")}
    leaks = len({path.read_bytes() for path in (root / "test").rglob("*.png")} & once)
    fill(root, tmp_path / "cache")
    assert load_cache(tmp_path / "cache").cache["leaks"] == leaks >= 2
    assert f"{leaks} file(s) of test are in train and val, too" in caplog.text


def test_files_of_test_that_are_in_the_pool_are_said(root, tmp_path, caplog):
    seen = Image.fromarray(np.full((5, 6, 3), 200, dtype=np.uint8))
    (root / "unlabeled").mkdir()
    for place in ("test/ant/own.png", "unlabeled/own.png", "unlabeled/twice.png"):
        seen.save(root / place)
    for split in ("train", "val"):  # what the builder writes is the same in every split
        for position, path in enumerate((root / split).rglob("*.png")):
            noise_image(1000 + position).save(path)
    fill(root, tmp_path / "cache")
    assert load_cache(tmp_path / "cache").cache["leaks"] == 1
    assert "1 file(s) of test are in unlabeled, too" in caplog.text


@pytest.mark.parametrize("other", ["train/00001", "val/00000"])
def test_blocks_that_changed_places_are_seen_and_mended(root, tmp_path, other):
    fill(root, tmp_path / "cache")
    once = content(tmp_path / "cache")
    for suffix in ("npy", "json"):
        one, two = (tmp_path / "cache" / f"{name}.{suffix}" for name in ("train/00000", other))
        one.rename(tmp_path / "aside")
        two.rename(one)
        (tmp_path / "aside").rename(two)
    with pytest.raises(DataError, match=f"block 0 of train: it was written as {other.replace('0000', '')}"):
        load_cache(tmp_path / "cache")
    filled, _ = fill(root, tmp_path / "cache")
    assert filled.images == 8
    assert content(tmp_path / "cache") == once


def changed(path: Path, seed: int = 99) -> None:
    """Put another image into a file, of the same size in bytes, with the old times."""
    before = path.stat()
    other = Image.open(path)
    pixels = np.asarray(other).copy()
    other.close()
    pixels.reshape(-1)[:4] = np.random.default_rng(seed).integers(0, 256, 4)
    Image.fromarray(pixels).save(path)
    with path.open("ab") as file:
        file.write(b"\0" * max(0, before.st_size - path.stat().st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_image_costs_its_block_alone_even_with_its_old_time(root, tmp_path, caplog):
    fill(root, tmp_path / "cache")
    before = content(tmp_path / "cache")
    changed(root / "train" / "ant" / "5.png")
    filled, _ = fill(root, tmp_path / "cache")
    assert filled.images == 4
    assert "block 1 of train: 1 of its images changed, the first is train/ant/5.png; extracted anew" in caplog.text
    after = content(tmp_path / "cache")
    assert {name for name in after if after[name] != before[name]} == {"train/00001.npy", "train/00001.json"}
    rows = load_cache(tmp_path / "cache").splits["train"].features.numpy()
    np.testing.assert_allclose(rows, expected(root, "train"), rtol=1e-6, atol=1e-6)


def test_a_touched_image_and_a_moved_folder_are_the_same_images(root, tmp_path):
    fill(root, tmp_path / "cache")
    (root / "train" / "ant" / "0.png").touch()
    filled, model = fill(root, tmp_path / "cache")
    assert (filled.images, model.seen) == (0, [])
    shutil.copytree(root, tmp_path / "elsewhere")
    shutil.rmtree(root)
    filled, model = fill(tmp_path / "elsewhere", tmp_path / "cache")
    assert (filled.images, model.seen) == (0, [])
    # their new stamps were noted: nothing is read again
    for path in (tmp_path / "elsewhere").rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
    images = open_images(str(tmp_path / "elsewhere"))
    record = read_sealed(tmp_path / "cache" / "train" / "00000.json")
    assert [stamp[0] for stamp in record["images"]["stamps"]] == [
        images.splits["train"].images.stamp(i)[0] for i in range(4)
    ]


def test_an_image_that_is_gone_is_an_error(root, tmp_path):
    fill(root, tmp_path / "cache")
    images = open_images(str(root))
    (root / "train" / "ant" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png.*row 0 of train, class ant"):
        fill_cache(Filling(images, backbone(), CPU, workers=0), tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_or_left_out(root, tmp_path, workers, caplog):
    bad = root / "train" / "bee" / "1.png"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/bee/1\.png \(no image.*row 8 of train, class bee.*--on-bad-image skip"):
        fill(root, tmp_path / "cache", workers=workers)
    filled, _ = fill(root, tmp_path / "cache", workers=workers, skip_bad=True)
    assert "left out: unreadable image" in caplog.text
    data = load_cache(tmp_path / "cache")
    assert data.cache["bad_images"] == {"train": ["train/bee/1.png"]}
    kept = [row for row in range(11) if row != 8]
    assert data.splits["train"].labels.tolist() == [0] * 7 + [1] * 3
    assert len(data.ids["train"]) == 10
    bad.write_bytes(good)
    np.testing.assert_allclose(
        data.splits["train"].features.numpy(), expected(root, "train")[kept], rtol=1e-6, atol=1e-6
    )
    # the image was mended: its block alone is extracted anew
    filled, _ = fill(root, tmp_path / "cache", workers=workers)
    assert filled.images == 3
    assert load_cache(tmp_path / "cache").splits["train"].features.shape == (11, 4)


def test_what_was_left_out_is_an_error_where_it_may_not_be(root, tmp_path):
    (root / "val" / "bee" / "1.png").write_bytes(b"")
    fill(root, tmp_path / "cache", skip_bad=True)
    with pytest.raises(DataError, match="row 3 of val, class bee"):
        fill(root, tmp_path / "cache")


def test_a_class_without_readable_images_is_refused(root, tmp_path):
    for path in (root / "val" / "bee").iterdir():
        path.write_bytes(b"")
    fill(root, tmp_path / "cache", skip_bad=True)
    with pytest.raises(DataError, match="no image of class bee in val"):
        load_cache(tmp_path / "cache")


def test_features_on_memory_maps_are_those_in_memory(root, tmp_path, monkeypatch):
    (root / "train" / "bee" / "1.png").write_bytes(b"")
    fill(root, tmp_path / "cache", skip_bad=True, views=2)
    whole = load_cache(tmp_path / "cache").splits["train"]
    monkeypatch.setattr("selmix.features.cached._COMFORTABLE", 0.0)
    mapped = load_cache(tmp_path / "cache").splits["train"]
    assert torch.equal(torch.cat(list(mapped.features.parts)), whole.features)
    assert torch.equal(torch.cat(list(mapped.views.parts)), whole.views)
    assert len(whole.views) == 2 * 10
    assert [len(part) for part in mapped.features.parts] == [4, 4, 2]


def test_every_rank_gets_the_blocks_that_are_its_own(root, tmp_path):
    fill(root, tmp_path / "cache")
    whole = load_cache(tmp_path / "cache")
    shards = [load_cache(tmp_path / "cache", ranks=Ranks(rank, 2)) for rank in range(2)]
    assert shards[0].ids["train"] == whole.ids["train"][:4] + whole.ids["train"][8:]
    assert shards[1].ids["train"] == whole.ids["train"][4:8]
    assert torch.equal(shards[1].splits["train"].features, whole.splits["train"].features[4:8])
    assert shards[1].splits["val"].features.shape == (0, 4)
    assert shards[0].splits["test"].labels.tolist() == whole.splits["test"].labels[:4].tolist()


@pytest.fixture
def pooled(root):
    """Return a folder with a pool of 9 images: 5 in a class folder, 3 in another one, one in none."""
    for folder, seeds in (("bee", range(50, 55)), ("moth", range(60, 63)), ("", [70])):
        (root / "unlabeled" / folder).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            noise_image(seed).save(root / "unlabeled" / folder / f"{seed}.png")
    return root


AUDIT = [-1] + [1] * 5 + [-1] * 3


def test_the_pool_is_extracted_with_its_views_and_keeps_labels_for_the_audit(pooled, tmp_path):
    filled, _ = fill(pooled, tmp_path / "cache", views=2)
    assert filled.images == 3 * 11 + 4 + 5 + 3 * 9
    data = load_cache(tmp_path / "cache")
    assert sorted(data.splits) == ["test", "train", "val"]
    pool = data.unlabeled
    np.testing.assert_allclose(pool.features.numpy(), expected(pooled, "unlabeled"), rtol=1e-6, atol=1e-6)
    assert pool.views.shape == (18, 4)
    assert data.splits["train"].views.shape == (22, 4)
    assert pool.audit.tolist() == AUDIT
    assert data.ids["unlabeled"] == open_images(str(pooled)).splits["unlabeled"].ids
    assert data.unlabeled_count == 9
    assert np.load(tmp_path / "cache" / "unlabeled.audit.npy").tolist() == AUDIT
    plain, _ = fill(pooled, tmp_path / "plain")
    assert load_cache(tmp_path / "plain").unlabeled.views is None
    # each view is a crop of the image it belongs to, mirrored or not: its first numbers are pixels of that image
    for row, path in enumerate(open_images(str(pooled)).splits["unlabeled"].images.paths):
        pixels = (np.asarray(Image.open(path)).astype(np.float32).reshape(-1) / 255 - 0.5) / 0.25
        for view in range(2):
            gaps = np.abs(pool.views[view * 9 + row].numpy()[:, None] - pixels).min(1)
            assert gaps.max() < 1e-5


def test_labels_for_the_audit_are_no_part_of_the_identity_and_are_renewed(pooled, tmp_path):
    once, _ = fill(pooled, tmp_path / "cache")
    images = open_images(str(pooled))
    pool = images.splits["unlabeled"]
    for audit in (np.arange(9) % 2, None):
        splits = images.splits | {"unlabeled": dataclasses.replace(pool, audit=audit)}
        filling = Filling(dataclasses.replace(images, splits=splits), backbone(), CPU, workers=0)
        filled = fill_cache(filling, tmp_path / "cache")
        assert filled.images == 0
        assert filled.sidecar.identity == once.sidecar.identity
        loaded = load_cache(tmp_path / "cache")
        assert (None if audit is None else audit.tolist()) == (
            None if loaded.unlabeled.audit is None else loaded.unlabeled.audit.tolist()
        )
        assert loaded.digests == {"data": images.digest, "backbone": "weights"}


@pytest.mark.parametrize("name", ["unlabeled/00001.npy", "unlabeled.view1/00002.json", "unlabeled.audit.npy"])
def test_harm_to_the_pool_is_seen_and_mended(pooled, tmp_path, name):
    fill(pooled, tmp_path / "cache", views=1)
    before = content(tmp_path / "cache")
    truncate(tmp_path / "cache" / name)
    with pytest.raises(DataError, match="unlabeled"):
        load_cache(tmp_path / "cache")
    filled, _ = fill(pooled, tmp_path / "cache", views=1)
    assert filled.images == {"npy": 4, "json": 1}[name[-4:].strip(".")] * ("/" in name)
    assert content(tmp_path / "cache") == before


def test_a_changed_image_of_the_pool_costs_its_block_alone(pooled, tmp_path, caplog):
    fill(pooled, tmp_path / "cache")
    changed(pooled / "unlabeled" / "moth" / "62.png")
    filled, _ = fill(pooled, tmp_path / "cache")
    assert filled.images == 1
    assert "block 2 of unlabeled: 1 of its images changed" in caplog.text


def test_bad_images_of_the_pool_are_named_or_left_out_even_all_of_a_class(pooled, tmp_path):
    for seed in range(50, 55):
        (pooled / "unlabeled" / "bee" / f"{seed}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"unlabeled/bee/50\.png \(no image.*row 1 of unlabeled\), or leave such"):
        fill(pooled, tmp_path / "cache", views=1)
    fill(pooled, tmp_path / "cache", skip_bad=True, views=1)
    data = load_cache(tmp_path / "cache")
    assert data.unlabeled.audit.tolist() == [-1] * 4
    assert data.ids["unlabeled"] == ["unlabeled/70.png", *(f"unlabeled/moth/{seed}.png" for seed in (60, 61, 62))]
    assert data.unlabeled.features.shape == data.unlabeled.views.shape == (4, 4)
    assert len(data.cache["bad_images"]["unlabeled"]) == 5


def test_every_rank_gets_its_blocks_of_the_pool(pooled, tmp_path):
    fill(pooled, tmp_path / "cache", views=1)
    whole = load_cache(tmp_path / "cache")
    shards = [load_cache(tmp_path / "cache", ranks=Ranks(rank, 2)) for rank in range(2)]
    own = [[0, 1, 2, 3, 8], [4, 5, 6, 7]]
    for shard, rows in zip(shards, own, strict=True):
        for part in ("features", "views"):
            assert torch.equal(getattr(shard.unlabeled, part), getattr(whole.unlabeled, part)[rows])
        assert shard.unlabeled.audit.tolist() == [AUDIT[row] for row in rows]
        assert shard.ids["unlabeled"] == [whole.ids["unlabeled"][row] for row in rows]


@pytest.mark.parametrize("comfortable", [0.0, 0.5])
def test_an_empty_pool_has_no_blocks(root, tmp_path, monkeypatch, comfortable):
    monkeypatch.setattr("selmix.features.cached._COMFORTABLE", comfortable)
    (root / "unlabeled").mkdir()
    filled, _ = fill(root, tmp_path / "cache", views=1)
    assert filled.images == 2 * 11 + 4 + 5
    data = load_cache(tmp_path / "cache")
    assert data.unlabeled.features.shape == data.unlabeled.views.shape == (0, 4)
    assert (data.unlabeled_count, data.unlabeled.audit, data.ids["unlabeled"]) == (0, None, [])
    assert fill(root, tmp_path / "cache", views=1)[0].images == 0


def test_pools_of_the_same_names_do_not_share_a_cache(root, tmp_path):
    for name in ("one", "two"):
        write_image_folder(tmp_path, {name: {"bee": 2}})
    data = open_images(str(root))
    folders = [
        fill_cache(Filling(with_pool(data, str(tmp_path / name)), backbone(), CPU, workers=0)).folder
        for name in ("one", "two", "one")
    ]
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]


def test_a_cache_of_an_older_format_is_refused_by_name(root, tmp_path):
    fill(root, tmp_path / "cache")
    document = read_sealed(tmp_path / "cache" / "cache.json")
    write_sealed(tmp_path / "cache" / "cache.json", document | {"format": 1, "unlabeled": 0})
    for opened in (lambda: load_cache(tmp_path / "cache"), lambda: fill(root, tmp_path / "cache")):
        with pytest.raises(DataError, match="another version of selmix; extract into another folder"):
            opened()


def test_a_complete_cache_that_cannot_be_written_is_read(root, tmp_path, monkeypatch):
    fill(root, tmp_path / "cache")
    (root / "train" / "ant" / "0.png").touch()

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("selmix.features.blocks.write_atomically", refuse)
    monkeypatch.setattr("selmix.features.filling.write_atomically", refuse)
    filled, model = fill(root, tmp_path / "cache")
    assert (filled.images, model.seen) == (0, [])
    (tmp_path / "cache" / "train" / "00000.json").unlink()
    with pytest.raises(DataError, match=r"cannot be written \(Read-only file system\).*--cache, or SELMIX_CACHE"):
        fill(root, tmp_path / "cache")


def test_a_disk_that_is_too_small_is_seen_beforehand(root, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3000))
    with pytest.raises(DataError, match=r"20 images need 3\.5 kB .*where 3\.0 kB are free; put it elsewhere"):
        fill(root, tmp_path / "cache")


def test_a_disk_that_fills_up_leaves_what_is_complete(root, tmp_path, monkeypatch):
    once, _ = fill(root, tmp_path / "once")
    written, replace = [], Path.replace

    def replaced(path: Path, target: Path) -> Path:
        written.append(target.name)
        if len(written) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(DataError, match="the disk of .* is full; what is complete stays"):
        fill(root, tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setattr(cache, "_FEWEST_ROWS", 4)
    assert not list((tmp_path / "cache").rglob(".writing*"))
    with pytest.raises(DataError, match="not complete"):
        load_cache(tmp_path / "cache")
    filled, _ = fill(root, tmp_path / "cache")
    assert filled.images == 20 - 4
    assert content(tmp_path / "cache") == content(tmp_path / "once")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(root, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=48k tmpfs {small} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
        with pytest.raises(DataError, match="the disk of .* is full"):
            fill(root, small / "cache")
        assert not list(small.rglob(".writing*"))
    finally:
        os.system(f"umount {small}")


@pytest.mark.parametrize("name", [".writing-00001.npy-77", ".writing-00001.json-77"])
def test_leftovers_of_killed_processes_are_removed(root, tmp_path, name):
    fill(root, tmp_path / "cache")
    (tmp_path / "cache" / "train" / name).touch()
    (tmp_path / "cache" / "train" / "00002.json").unlink()
    fill(root, tmp_path / "cache")
    assert not (tmp_path / "cache" / "train" / name).exists()


def test_the_second_writer_waits_and_then_reuses(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, "selmix")
    fill(root, tmp_path / "other")
    lock = FileLock(tmp_path / "cache" / ".lock")
    (tmp_path / "cache").mkdir()
    lock.acquire()
    results = []
    waiting = threading.Thread(target=lambda: results.append(fill(root, tmp_path / "cache")))
    waiting.start()
    while "another process writes" not in caplog.text:
        assert waiting.is_alive()
    shutil.copytree(tmp_path / "other", tmp_path / "cache", dirs_exist_ok=True)
    lock.release()
    waiting.join()
    ((filled, model),) = results
    assert filled.images == 0
    assert caplog.messages.count(f"another process writes to {tmp_path / 'cache'}; waiting for it") == 1
    assert caplog.messages[-1] == f"features reused from {tmp_path / 'cache'}"


class Interrupted(Plain):
    def forward(self, x):
        if len(self.seen) > 2:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupt_leaves_a_cache_that_goes_on(root, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("selmix.features.extract.Engine.batch_size", lambda _: 4)
    with pytest.raises(KeyboardInterrupt):
        fill(root, tmp_path / "cache", model=Interrupted())
    assert "interrupted; what is complete stays in" in caplog.text
    assert (tmp_path / "cache" / "train" / "00000.json").is_file()
    filled, _ = fill(root, tmp_path / "cache")
    assert filled.images < 20
    fill(root, tmp_path / "once")
    assert content(tmp_path / "cache") == content(tmp_path / "once")


def test_a_damaged_block_does_not_count_while_it_is_made_anew(root, tmp_path):
    class Stopped(Plain):
        def forward(self, x):
            raise KeyboardInterrupt

    fill(root, tmp_path / "cache")
    truncate(tmp_path / "cache" / "train" / "00001.npy")
    with pytest.raises(KeyboardInterrupt):
        fill(root, tmp_path / "cache", model=Stopped())
    assert not (tmp_path / "cache" / "train" / "00001.json").exists()


def test_numbers_that_do_not_fit_the_dtype_are_refused(root, tmp_path):
    class Large(Plain):
        def forward(self, x):
            return super().forward(x) * 1e5

    with pytest.raises(DataError, match=r"train/ant/0\.png that are not finite numbers; take --dtype float32"):
        fill(root, tmp_path / "cache", dtype="float16", model=Large())
    with pytest.raises(DataError, match="are its weights damaged"):
        fill(root, tmp_path / "nan", model=nn.Sequential(Plain(), nn.Threshold(float("inf"), float("nan"))))


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_is_there_too(tmp_path, monkeypatch):
    steps, replace = [], Path.replace

    def synced(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def replaced(path: Path, target: Path) -> Path:
        assert path.read_bytes() == b"rows"
        steps.append(f"-> {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "00000.npy", b"rows")
    assert steps[0].startswith(".writing-00000.npy-")
    assert steps[1:] == ["-> 00000.npy", tmp_path.name]


def test_a_sealed_document_is_what_was_written(tmp_path):
    write_sealed(tmp_path / "x.json", {"b": [1, None], "a": "ü"})
    assert read_sealed(tmp_path / "x.json") == {"b": [1, None], "a": "ü"}
    assert "sha256" in json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(blocks.Torn):
        read_sealed(tmp_path / "x.json")
