"""Image folders: one class table for all splits, unreadable files by name, and what the digest sees."""

import io
import shutil

import numpy as np
import pytest
from builders import noise_image, write_image_folder, write_images
from PIL import Image

from selmix.data.sources import open_images
from selmix.errors import DataError

COUNTS = {"train": {"bee": 3, "ant": 2}, "val": {"ant": 1, "bee": 2}, "test": {"bee": 1, "ant": 1}}


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", COUNTS)


def refusal(root) -> str:
    with pytest.raises(DataError) as caught:
        open_images(str(root))
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_classes_are_sorted_by_name_and_labels_follow_them_in_every_split(root):
    data = open_images(str(root))
    assert data.class_names == ["ant", "bee"]
    assert list(data.splits) == ["train", "val", "test"]
    assert data.splits["val"].ids == ["val/ant/0.png", "val/bee/0.png", "val/bee/1.png"]
    assert data.splits["val"].labels.tolist() == [0, 1, 1]
    assert data.splits["train"].labels.tolist() == [0, 0, 1, 1, 1]
    assert data.splits["train"].labels.dtype == np.int64
    np.testing.assert_array_equal(np.asarray(data.splits["val"].images.open(2)), np.asarray(noise_image(1)))


def test_train_alone_is_enough(root):
    for split in ("val", "test"):
        shutil.rmtree(root / split)
    assert list(open_images(str(root)).splits) == ["train"]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(("gone", "new"), [("ant", None), (None, "cow"), ("ant", "cow")])
def test_every_split_is_held_to_the_class_table_of_train(root, split, gone, new):
    if gone:
        shutil.rmtree(root / split / gone)
    if new:
        write_images(root / split / new, 1)
    message = refusal(root)
    assert str(root / split) in message
    assert (f"lacks {gone}" in message) == ("lacks" in message) == (gone is not None)
    assert (f"adds {new}" in message) == ("adds" in message) == (new is not None)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_class_is_named(root, split):
    for image in (root / split / "ant").iterdir():
        image.rename(image.with_suffix(".txt"))
    assert str(root / split / "ant") in refusal(root)


@pytest.mark.parametrize("gone", [".", "train", "train/*"])
def test_a_missing_root_or_train_is_named(root, gone):
    if gone == "train/*":
        for folder in (root / "train").iterdir():
            shutil.rmtree(folder)
    else:
        shutil.rmtree(root / gone)
    assert str(root / gone.removesuffix("/*")).removesuffix("/.") in refusal(root)


def test_hidden_folders_are_left_out_and_logged(root, caplog):
    for split in ("train", "val"):
        write_images(root / split / ".ipynb_checkpoints", 1)
    write_images(root / "train" / "ant" / ".thumbnails", 1)
    with caplog.at_level("WARNING", logger="selmix"):
        data = open_images(str(root))
    assert data.class_names == ["ant", "bee"]
    assert len(data.splits["train"].ids) == 5
    messages = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert len(messages) == 2
    for split in ("train", "val"):
        assert any(str(root / split) in message and ".ipynb_checkpoints" in message for message in messages)


def test_images_in_subfolders_belong_to_the_class_and_other_files_do_not(root):
    write_images(root / "train" / "ant" / "camera2", 1)
    noise_image(0).save(root / "train" / "ant" / "UPPER.JPG")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / "README").write_text("no class")
    train = open_images(str(root)).splits["train"]
    assert [name for name, label in zip(train.ids, train.labels, strict=True) if label == 0] == [
        "train/ant/0.png", "train/ant/1.png", "train/ant/UPPER.JPG", "train/ant/camera2/0.png",
    ]  # fmt: skip


@pytest.mark.parametrize("folders", [[""], ["x", "y/z"], ["", "ant"]])
def test_unlabeled_images_may_lie_flat_or_nested(root, folders):
    for folder in folders:
        write_images(root / "unlabeled" / folder, 2)
    unlabeled = open_images(str(root)).splits["unlabeled"]
    assert unlabeled.labels is None
    assert len(unlabeled.ids) == 2 * len(folders)
    assert {name.rsplit("/", 1)[0] for name in unlabeled.ids} == {f"unlabeled/{f}".rstrip("/") for f in folders}


def broken_content(kind: str) -> bytes:
    if kind == "text":
        return b"this is no image"
    if kind == "empty":
        return b""
    buffer = io.BytesIO()
    noise_image(0, (40, 40)).save(buffer, "PNG" if kind == "truncated png" else "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize("kind", ["text", "empty", "truncated png", "truncated jpeg"])
def test_an_unreadable_image_is_named_when_it_is_opened(root, kind):
    victim = root / "train" / "bee" / "1.png"
    victim.write_bytes(broken_content(kind))
    train = open_images(str(root)).splits["train"]
    train.images.open(2)
    with pytest.raises(DataError, match="unreadable image") as caught:
        train.images.open(3)
    assert str(victim) in str(caught.value)


def test_an_image_deleted_after_the_listing_is_named(root):
    train = open_images(str(root)).splits["train"]
    (root / "train" / "ant" / "0.png").unlink()
    with pytest.raises(DataError, match=r"train/ant/0\.png"):
        train.images.open(0)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_images_of_every_mode_become_rgb(root, mode):
    # white and black are the same in every mode
    pixels = Image.new("RGB", (4, 2), "white")
    pixels.paste("black", (0, 0, 2, 2))
    pixels.convert(mode).save(root / "train" / "ant" / "0.tif")
    image = open_images(str(root)).splits["train"].images.open(1)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.array([[[0] * 3] * 2 + [[255] * 3] * 2] * 2))


def test_subset_keeps_the_given_order(root):
    train = open_images(str(root)).splits["train"]
    part = train.subset(np.array([4, 0]))
    assert part.ids == ["train/bee/2.png", "train/ant/0.png"]
    assert part.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(np.asarray(part.images.open(0)), np.asarray(noise_image(2)))
    write_images(root / "unlabeled", 2)
    unlabeled = open_images(str(root)).splits["unlabeled"].subset(np.array([1]))
    assert unlabeled.labels is None
    assert unlabeled.ids == ["unlabeled/1.png"]


def rename_class(root):
    for split in COUNTS:
        (root / split / "bee").rename(root / split / "wasp")


CHANGES = {
    "class": rename_class,
    "id": lambda root: (root / "val" / "ant" / "0.png").rename(root / "val" / "ant" / "9.png"),
    "label": lambda root: (root / "train" / "bee" / "2.png").rename(root / "train" / "ant" / "2.png"),
    "one more": lambda root: write_images(root / "test" / "ant", 2),
    "unlabeled": lambda root: write_images(root / "unlabeled", 1),
    "a split less": lambda root: shutil.rmtree(root / "test"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_changes_with_a_class_an_id_or_a_label(root, change):
    before = open_images(str(root)).digest
    CHANGES[change](root)
    assert open_images(str(root)).digest != before


def test_digest_does_not_depend_on_the_place_or_on_other_files(root, tmp_path):
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    (moved / "train" / "ant" / "notes.txt").write_text("a note")
    assert open_images(str(moved)).digest == open_images(str(root)).digest
