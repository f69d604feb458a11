"""The unlabeled pool: where it may lie, and labels that its source has all the same, which go to the audit alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import noise_image, write_image_folder, write_images

from selmix.data.assembly import digest_of_images
from selmix.data.images import ArrayImages, ImageData, ImageSplit
from selmix.data.sources import open_images, survey_images
from selmix.data.splits_file import write_splits
from selmix.data.unlabeled import with_pool
from selmix.errors import DataError, UsageError

COUNTS = {"train": {"ant": 3, "bee": 2}, "val": {"ant": 1, "bee": 1}}


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", COUNTS)


def pool_of(data) -> dict[str, int | None]:
    """Return the audit label of each id of the pool; the labels themselves must be gone."""
    part = data.splits["unlabeled"]
    assert part.labels is None
    assert part.groups is None
    assert len(part.images) == len(part.ids)
    return dict(zip(part.ids, [None] * len(part.ids) if part.audit is None else part.audit.tolist(), strict=True))


def test_class_folders_of_the_pool_are_labels_for_the_audit(root):
    for folder in ("", "bee", "ant/camera", "moth"):
        write_images(root / "unlabeled" / folder, 1)
    expected = {"0.png": -1, "ant/camera/0.png": 0, "bee/0.png": 1, "moth/0.png": -1}
    assert pool_of(open_images(str(root))) == {f"unlabeled/{name}": label for name, label in expected.items()}


def test_folders_that_are_no_classes_are_no_labels(root):
    for folder in ("2023", "2024"):
        write_images(root / "unlabeled" / folder, 1)
    assert set(pool_of(open_images(str(root))).values()) == {None}


def test_an_empty_pool_is_said_and_is_no_fault(root, caplog):
    (root / "unlabeled").mkdir()
    assert pool_of(open_images(str(root))) == {}
    assert "has no images" in caplog.text


def test_a_manifest_and_a_list_may_have_labels_of_the_pool(root):
    rows = ["path,label,split"]
    rows += [f"data/train/{name}/0.png,{name},train" for name in ("ant", "bee")]
    rows += [
        "data/train/bee/1.png,bee,unlabeled", "data/val/ant/0.png,moth,unlabeled", "data/val/bee/0.png,,unlabeled"
    ]  # fmt: skip
    (root.parent / "m.csv").write_text("\n".join(rows))
    expected = {"data/train/bee/1.png": 1, "data/val/ant/0.png": -1, "data/val/bee/0.png": -1}
    assert pool_of(open_images(str(root.parent / "m.csv"))) == expected
    (root / "train.txt").write_text("train/ant/0.png 0\ntrain/bee/0.png 1\n")
    (root / "pool.txt").write_text("val/ant/0.png 0\nval/bee/0.png 7\ntrain/ant/1.png\n")
    spec = '[train]\nlist = "train.txt"\n[unlabeled]\nlist = "pool.txt"\n'
    for classes, own in (("", "01"), ('classes = ["ant", "bee"]\n', ["ant", "bee"])):
        (root / "d.toml").write_text(classes + spec)
        data = open_images(str(root / "d.toml"))
        assert data.class_names == list(own)
        assert pool_of(data) == {"val/ant/0.png": 0, "val/bee/0.png": -1, "train/ant/1.png": -1}


def test_integers_of_a_manifest_are_positions_where_there_is_a_class_table_of_names(root):
    (root / "pool.csv").write_text("path,label\nval/ant/0.png,1\nval/bee/0.png,moth\n")
    text = 'classes = ["ant", "bee"]\n[train]\nfolder = "train"\n[unlabeled]\nmanifest = "pool.csv"\n'
    (root / "d.toml").write_text(text)
    assert pool_of(open_images(str(root / "d.toml"))) == {"val/ant/0.png": 1, "val/bee/0.png": -1}


def test_rows_whose_file_is_gone_take_their_label_with_them(root):
    (root / "pool.csv").write_text("path,label\nval/ant/9.png,ant\nval/bee/0.png,bee\n")
    with pytest.raises(DataError, match=r"9\.png"):
        with_pool(open_images(str(root)), str(root / "pool.csv"))
    (root / "d.toml").write_text('[train]\nfolder = "train"\n[unlabeled]\nmanifest = "pool.csv"\n')
    assert pool_of(survey_images(str(root / "d.toml"))[0]) == {"val/bee/0.png": 1}
    (root / "pool.csv").write_text("path,label\nval/bee/0.png,bee\n")
    assert pool_of(with_pool(open_images(str(root)), str(root / "pool.csv"))) == {"val/bee/0.png": 1}


def test_what_is_drawn_as_the_pool_keeps_its_labels_for_the_audit(tmp_path):
    write_image_folder(tmp_path / "data", {"train": {"ant": 9, "bee": 9}})
    semi = "[semi]\nhead_count = 2\nimbalance_factor = 2\nunlabeled_head_count = 4\nunlabeled_imbalance_factor = 2\n"
    (tmp_path / "d.toml").write_text('source = "data"\n' + semi)
    drawn = open_images(str(tmp_path / "d.toml"))
    expected = {name: ["ant", "bee"].index(name.split("/")[1]) for name in drawn.splits["unlabeled"].ids}
    assert sorted(expected.values()) == [0, 0, 0, 0, 1, 1]
    assert pool_of(drawn) == expected
    write_splits(drawn, tmp_path / "s.json")
    assert "audit" not in (tmp_path / "s.json").read_text()
    (tmp_path / "again.toml").write_text('source = "data"\nsplits = "s.json"\n')
    assert pool_of(open_images(str(tmp_path / "again.toml"))) == expected
    # the pool of a pool, by ids
    ids = json.loads((tmp_path / "s.json").read_text())
    part = {"splits": {"train": ids["splits"]["train"], "unlabeled": ids["splits"]["unlabeled"][:3]}}
    (tmp_path / "part.json").write_text(json.dumps(part))
    (tmp_path / "part.toml").write_text('source = "again.toml"\nsplits = "part.json"\n')
    some = open_images(str(tmp_path / "part.toml"))
    assert pool_of(some) == {name: expected[name] for name in part["splits"]["unlabeled"]}


def test_no_digest_depends_on_labels_for_the_audit():
    split = ImageSplit(["a", "b"], None, ArrayImages(np.zeros((2, 1, 1), dtype=np.uint8)))
    digests = {
        digest_of_images(["x"], {"unlabeled": ImageSplit(split.ids, None, split.images, audit=audit)})
        for audit in (None, np.array([0, -1]), np.array([0, 0]))
    }
    assert len(digests) == 1
    assert split.subset(np.array([1])).audit is None
    assert ImageSplit(["a", "b"], None, split.images, audit=np.array([3, 5])).subset(np.array([1])).audit.tolist() == [
        5
    ]


def lists(root):
    (root / "p.csv").write_text("path\nplain/0.png\nplain/1.png\n")
    (root / "split.csv").write_text("path,label,split\nplain/0.png,bee,unlabeled\nplain/1.png,bee,train\n")
    (root / "p.txt").write_text("plain/0.png\nplain/1.png 1\n")
    pq.write_table(pa.table({"path": ["plain/1.png"], "label": ["ant"]}), root / "p.parquet")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("plain", {"0.png": None, "1.png": None}),
        ("classes", {"ant/0.png": 0, "moth/0.png": -1}),
        ("empty", {}),
        ("p.csv", {"plain/0.png": None, "plain/1.png": None}),
        ("split.csv", {"plain/0.png": 1}),
        ("p.txt", {"plain/0.png": None, "plain/1.png": None}),  # 1 is no class of ant and bee
        ("p.parquet", {"plain/1.png": 0}),
        ("other", {"train/bee/0.png": 1, "train/cat/0.png": -1}),
        ("full", {"unlabeled/0.png": None}),
        ("described", {"pool/bee/0.png": 1}),
    ],
)
def test_a_pool_may_lie_elsewhere(root, tmp_path, spec, expected):
    write_images(tmp_path / "plain", 2)
    write_image_folder(tmp_path, {"classes": {"ant": 1, "moth": 1}})
    (tmp_path / "empty").mkdir()
    write_image_folder(tmp_path / "other", {"train": {"bee": 1, "cat": 1}})
    write_image_folder(tmp_path / "full", {"train": {"ant": 1, "bee": 1}})
    write_images(tmp_path / "full" / "unlabeled", 1)
    write_image_folder(tmp_path / "described", {"own": {"bee": 1}, "pool": {"bee": 1}})
    text = '[train]\nfolder = "own"\n[unlabeled]\nfolder = "pool"\n'
    (tmp_path / "described" / "data.toml").write_text(text)
    lists(tmp_path)
    write_images(root / "unlabeled", 3)
    data = open_images(str(root))
    other = with_pool(data, str(tmp_path / spec))
    assert pool_of(other) == expected
    assert other.digest != data.digest
    assert {name: part for name, part in other.splits.items() if name != "unlabeled"} == {
        name: part for name, part in data.splits.items() if name != "unlabeled"
    }
    assert other.splits["unlabeled"].images.open(0).size == (6, 5) if expected else True


def test_a_pool_that_ships_has_no_labels():
    pixels = ArrayImages(np.zeros((2, 2, 2), dtype=np.uint8))
    data = ImageData(["bee", "ant"], {"train": ImageSplit(["0", "1"], np.array([0, 1]), pixels)}, "")
    shipped = open_images("shipped:fashion_mnist_lt").splits["unlabeled"]
    assert pool_of(with_pool(data, "shipped:fashion_mnist_lt")) == dict.fromkeys(shipped.ids)


def test_audit_labels_of_another_data_set_go_by_name_and_stay_unknown_where_they_were(root, tmp_path):
    other = write_image_folder(tmp_path / "other", {"train": {"aye": 1, "bee": 1}})
    for name in ("aye", "bee", "zebra"):
        write_images(other / "unlabeled" / name, 1)
    found = pool_of(with_pool(open_images(str(root)), str(other)))
    assert found == {"unlabeled/aye/0.png": -1, "unlabeled/bee/0.png": 1, "unlabeled/zebra/0.png": -1}


def test_a_pool_left_aside_is_as_if_it_had_never_been(root):
    before = open_images(str(root))
    write_images(root / "unlabeled", 2)
    data = open_images(str(root))
    assert data.digest != before.digest
    without = with_pool(data, None)
    assert list(without.splits) == ["train", "val"]
    assert without.digest == before.digest == with_pool(before, None).digest


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nowhere", DataError, "no such folder"),
        ("shipped:nothing", UsageError, "nothing called 'nothing' ships"),
        ("gone.csv", DataError, r"gone\.csv is no file"),
        ("gone.txt", DataError, r"gone\.txt cannot be read"),
        ("train_only.csv", DataError, "no usable row of unlabeled"),
        ("two.txt", DataError, r"no such file, the first is .*a\.png"),
        ("photo.png", DataError, "is no folder"),
        ("none.txt", DataError, r"none\.txt has no usable line; a line is a path$"),
    ],
)
def test_a_wrong_pool_is_refused(root, tmp_path, monkeypatch, spec, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_only.csv").write_text("path,label,split\ndata/train/ant/0.png,ant,train\n")
    (tmp_path / "two.txt").write_text("a.png\nb.png\n")
    (tmp_path / "none.txt").write_text("\n")
    noise_image(0).save(tmp_path / "photo.png")
    with pytest.raises(error, match=message):
        with_pool(open_images(str(root)), spec)
