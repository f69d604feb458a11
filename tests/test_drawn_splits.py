"""Splits drawn from train: the protocols' counts, disjoint parts, and the same images again from their ids."""

import json

import numpy as np
import pytest
from builders import write_image_folder

from selmix.data.assembly import digest_of_images
from selmix.data.carving import carve_train
from selmix.data.images import ArrayImages, ImageData, ImageSplit
from selmix.data.longtail import disjoint_class_draws, exponential_counts
from selmix.data.semi import unlabeled_counts
from selmix.data.sources import open_images, survey_images
from selmix.data.splits_file import select_splits, write_splits
from selmix.errors import UsageError


def balanced(per_class: int, num_classes: int, *, test: int = 1) -> ImageData:
    """Return images of one grey each: the class in the first pixel, the number within the class in the second."""

    def split(name: str, count: int) -> ImageSplit:
        labels = np.arange(count * num_classes) % num_classes
        pixels = np.zeros((len(labels), 1, 2), dtype=np.uint8)
        pixels[:, 0, 0], pixels[:, 0, 1] = labels, np.arange(len(labels)) // num_classes % 256
        return ImageSplit([f"{name}/{row}" for row in range(len(labels))], labels, ArrayImages(pixels))

    splits = {"train": split("train", per_class), "test": split("test", test)}
    names = [f"c{label}" for label in range(num_classes)]
    return ImageData(names, splits, digest_of_images(names, splits))


def counts_of(split: ImageSplit) -> list[int]:
    """Count the classes by what the images show."""
    return np.bincount([np.asarray(split.images.open(row))[0, 0, 0] for row in range(len(split.ids))]).tolist()


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        # specs/stage1.md E.1 with head 3000 instead of 5000: int(3000 * 0.01 ** (i / 9)), by hand at the ends
        ("consistent", (3000, 30)),
        ("reversed", (30, 3000)),
        ("uniform", (3000, 3000)),
    ],
)
def test_unlabeled_counts_have_their_ends(profile, expected):
    counts = unlabeled_counts(3000, 100, 10, profile=profile, seed=0)
    assert (counts[0], counts[-1]) == expected
    assert counts == sorted(counts, reverse=profile == "consistent")


def test_unknown_counts_are_the_profile_in_an_order_of_their_own():
    profile = exponential_counts(3000, 100, 10)
    first, again, other = (unlabeled_counts(3000, 100, 10, profile="unknown", seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    for counts in (first, other):
        assert sorted(counts, reverse=True) == profile
        assert counts not in (profile, profile[::-1])


SEMI = """
source = "all.toml"
[semi]
head_count = 15
imbalance_factor = 5
unlabeled_head_count = 30
val_per_class = 5
"""


@pytest.fixture
def folder(tmp_path):
    """Three classes of 50 training images each, 1 test image, and a spec that names both."""
    write_image_folder(tmp_path / "images", {"train": dict.fromkeys("abc", 50), "test": dict.fromkeys("abc", 1)})
    (tmp_path / "all.toml").write_text('root = "images"\n[train]\nfolder = "train"\n[test]\nfolder = "test"\n')
    return tmp_path


def opened(folder, text):
    (folder / "drawn.toml").write_text(text)
    return open_images(str(folder / "drawn.toml"))


# head 15, factor 5, three classes: 15, int(15 / sqrt 5) = int(6.7) = 6, 3; head 30: 30, int(13.4) = 13, 6
@pytest.mark.parametrize(
    ("extra", "unlabeled"),
    [
        ("", [30, 13, 6]),
        ('unlabeled_profile = "reversed"', [6, 13, 30]),
        ('unlabeled_profile = "uniform"', [30, 30, 30]),
        ("unlabeled_imbalance_factor = 30", [30, 5, 1]),
    ],
)
def test_semi_supervised_parts_are_disjoint_and_have_the_protocols_counts(folder, extra, unlabeled):
    data = opened(folder, SEMI + extra)
    assert list(data.splits) == ["train", "val", "test", "unlabeled"]
    assert np.bincount(data.splits["train"].labels).tolist() == [15, 6, 3]
    assert np.bincount(data.splits["val"].labels).tolist() == [5, 5, 5]
    assert data.splits["unlabeled"].labels is None
    of_class = [name.split("/")[1] for name in data.splits["unlabeled"].ids]
    assert [of_class.count(name) for name in "abc"] == unlabeled
    every = [name for split in data.splits.values() for name in split.ids]
    assert len(set(every)) == len(every)


def test_the_labeled_part_is_the_communitys_choice_whatever_else_is_drawn(folder):
    alone = opened(folder, SEMI.split("[semi]")[0] + "[longtail]\nhead_count = 15\nimbalance_factor = 5")
    everything = opened(folder, SEMI)
    assert alone.splits["train"].ids == everything.splits["train"].ids
    source = open_images(str(folder / "all.toml")).splits["train"]
    rows = disjoint_class_draws(source.labels, {"train": [15, 6, 3]}, seed=0)["train"]
    assert alone.splits["train"].ids == [source.ids[row] for row in rows]


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        ("imbalance_factor = 4", [40, 20, 10]),
        ('profile = "step"\nimbalance_factor = 4', [40, 10, 10]),
        # lomax quantiles of 3 classes: 4^a - 1, 2^a - 1, (4/3)^a - 1 with a = 1: 3, 1, 1/3; then the floor
        ('profile = "pareto"\ntail_count = 7\nexponent = 1', [40, 13, 7]),
    ],
)
def test_long_tails_of_every_profile(folder, keys, counts):
    data = opened(folder, f'source = "all.toml"\n[longtail]\nhead_count = 40\nval_per_class = 10\n{keys}')
    assert np.bincount(data.splits["train"].labels).tolist() == counts
    assert np.bincount(data.splits["val"].labels).tolist() == [10, 10, 10]
    assert not set(data.splits["train"].ids) & set(data.splits["val"].ids)
    other = opened(folder, f'source = "all.toml"\n[longtail]\nhead_count = 40\nseed = 1\n{keys}')
    assert other.splits["train"].ids != data.splits["train"].ids


def test_images_in_memory_are_drawn_with_their_labels_and_hashed():
    data = balanced(50, 4)
    drawn = carve_train(data, {"train": [50, 20, 9, 3], "val": [0, 30, 1, 2]}, seed=0)
    assert counts_of(drawn.splits["train"]) == [50, 20, 9, 3]
    assert counts_of(drawn.splits["val"]) == [0, 30, 1, 2]
    assert drawn.splits["test"] is data.splits["test"]
    before = drawn.digest
    data.splits["train"].images.pixels[int(drawn.splits["train"].ids[5].split("/")[1]), 0, 1] ^= 1
    assert digest_of_images(drawn.class_names, drawn.splits) != before


def test_groups_go_with_the_images():
    data = balanced(10, 2)
    data.splits["train"] = ImageSplit(
        data.splits["train"].ids, data.splits["train"].labels, data.splits["train"].images, np.arange(20) % 3
    )
    drawn = carve_train(data, {"train": [4, 2], "unlabeled": [1, 1]}, seed=0).splits
    assert drawn["train"].groups.tolist() == [int(name.split("/")[1]) % 3 for name in drawn["train"].ids]
    assert drawn["unlabeled"].groups is None


def test_too_few_images_are_named_with_their_classes():
    with pytest.raises(UsageError, match="class c1 has 10 images, the splits ask for 12, class c3 has 10 .* 11; lower"):
        carve_train(balanced(10, 4), {"train": [10, 10, 10, 9], "val": [0, 2, 0, 2]}, seed=0)


def test_a_split_that_is_there_is_not_drawn_again():
    with pytest.raises(UsageError, match="split test already"):
        carve_train(balanced(10, 4), {"train": [1] * 4, "test": [1] * 4}, seed=0)


def test_splits_come_back_from_their_ids_with_the_same_digest(folder):
    drawn = opened(folder, SEMI + 'unlabeled_profile = "reversed"\nseed = 7')
    write_splits(drawn, folder / "splits.json")
    again = opened(folder, 'source = "all.toml"\nsplits = "splits.json"')
    assert again.digest == drawn.digest
    assert {name: split.ids for name, split in again.splits.items()} == {
        name: split.ids for name, split in drawn.splits.items()
    }
    assert again.splits["train"].labels.tolist() == drawn.splits["train"].labels.tolist()
    assert again.splits["unlabeled"].labels is None
    for split, part in again.splits.items():
        np.testing.assert_array_equal(
            np.asarray(part.images.open(2)), np.asarray(drawn.splits[split].images.open(2)), err_msg=split
        )


def test_a_file_of_ids_may_be_written_by_hand(folder):
    (folder / "splits.json").write_text(json.dumps({"splits": {"train": ["train/c/7.png", "train/a/0.png"]}}))
    data = opened(folder, 'source = "all.toml"\nsplits = "splits.json"')
    assert list(data.splits) == ["train"]
    assert data.splits["train"].labels.tolist() == [2, 0]


def test_ids_that_two_splits_share_belong_to_the_split_of_the_same_name(tmp_path):
    data = balanced(4, 2, test=4)
    for split in ("train", "test"):
        part = data.splits[split]
        data.splits[split] = ImageSplit([name.split("/")[1] for name in part.ids], part.labels, part.images)
    data.splits["test"].images.pixels[:] = 99
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"splits": {"train": ["0", "1"], "val": ["2"], "test": ["3"]}}))
    selected, findings = select_splits(data, path)
    assert findings == []
    shown = {name: np.asarray(part.images.open(0))[0, 0, 0] for name, part in selected.splits.items()}
    assert shown == {"train": 0, "val": 0, "test": 99}


IDS = {"train": ["train/a/0.png", "train/b/0.png"]}


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ({"splits": {"train": ["train/a/0.png", "train/z/0.png"]}}, "unknown id", ["train/z/0.png", "1 id"]),
        ({"splits": {"train": ["train/a/0.png"] * 2}}, "repeated image", ["train/a/0.png"]),
        ({"splits": IDS | {"val": ["train/a/0.png"]}}, "repeated image", ["val", "train/a/0.png"]),
        ({"splits": IDS | {"vals": []}}, "split name", ["vals", "did you mean val?"]),
        ({"splits": {"val": ["train/a/0.png"]}}, "no train", ["no ids of train"]),
        ({"splits": IDS, "digest": "0" * 64}, "digest", ["differs"]),
        ({"splits": {"train": "train/a/0.png"}}, "splits", ["list of ids"]),
        ([], "splits", ["no file of splits"]),
        ("{", "splits", ["no file of splits"]),
        (None, "splits", ["no file of splits"]),
    ],
)
def test_a_faulty_file_of_splits_is_found_out(folder, content, kind, words):
    if content is not None:
        (folder / "splits.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "drawn.toml").write_text('source = "all.toml"\nsplits = "splits.json"')
    _, findings = survey_images(str(folder / "drawn.toml"))
    assert [finding.kind for finding in findings] == [kind]
    for word in words:
        assert word in str(findings[0])
