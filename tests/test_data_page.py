"""Every example of docs/data.md does what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest
from builders import write_images
from test_cifar import NAMES, write_batches

from selmix.data import spec as spec_module
from selmix.data.sources import open_images, survey_images
from selmix.data.spec import DataSpec

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SPECS = [text for language, text in BLOCKS if language == "toml"]
FOLDERS, LISTS, MANIFESTS, CIFAR_LT, PARETO, SEMI, IDS = SPECS


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the page takes for granted: birds in folders, lists and a manifest."""
    for folder, count in {"labeled": 40, "held_out": 2, "train": 40, "test": 1}.items():
        for name in ("heron", "stork"):
            write_images(tmp_path / "birds" / folder / name, count)
    write_images(tmp_path / "birds" / "from_the_web", 3)
    write_images(tmp_path / "photos", 5)
    (tmp_path / "birds.csv").write_text(next(text for language, text in BLOCKS if language == "csv"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("data_256/heron/0.png 0\ndata_256/stork/0.png 1\n")
    (tmp_path / "lists" / "val.txt").write_text("held_out/heron/0.png 0\nheld_out/stork/0.png 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(text):
    Path("x.toml").write_text(text)
    data, findings = survey_images("x.toml")
    assert [finding for finding in findings if finding.kind != "other folders"] == []
    return data


def sizes(data):
    return {
        split: len(part.ids) if part.labels is None else np.bincount(part.labels).tolist()
        for split, part in data.splits.items()
    }


def test_the_manifest(place):
    data = open_images("birds.csv")
    assert sizes(data) == {"train": [1, 1], "val": [1, 1], "unlabeled": 1}
    assert data.group_names == ["lake", "meadow"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FOLDERS, {"train": [40, 40], "val": [2, 2], "unlabeled": 3}),
        (LISTS, {"train": [1, 1], "val": [1, 1]}),
        (MANIFESTS, {"train": [1, 1], "val": [2, 2]}),
        # two classes: (3/1)^(1/6) - 1 = 0.201 and (3/2)^(1/6) - 1 = 0.0699; 20 * 0.0699 / 0.201 = 6.96
        (PARETO, {"train": [20, 6], "val": [3, 3], "test": [1, 1]}),
    ],
    ids=["folders", "lists", "manifests", "pareto"],
)
def test_a_spec(place, text, expected):
    data = opened(text)
    assert data.class_names == ["heron", "stork"]
    assert sizes(data) == expected


@pytest.mark.parametrize("text", [CIFAR_LT, SEMI], ids=["longtail", "semi"])
def test_a_protocol_on_cifar_asks_for_the_papers_counts(place, text, monkeypatch):
    write_batches(place / "downloads")
    asked = {}

    def carve(data, counts_of_split, *, seed):
        assert data.class_names == NAMES
        assert seed == 0
        asked.update(counts_of_split)
        return data

    monkeypatch.setattr("selmix.data.described.carve_train", carve)
    opened(text)
    if text == CIFAR_LT:
        # specs/stage1.md E.1
        assert asked == {"train": [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]}
    else:
        assert {split: (counts[0], counts[-1]) for split, counts in asked.items()} == {
            "train": (1500, 15), "unlabeled": (3000, 30), "val": (500, 500),
        }  # fmt: skip


def test_the_script_and_the_spec_of_its_ids(place):
    (script,) = [text for language, text in BLOCKS if language == "python"]
    Path("birds_lt.toml").write_text(PARETO)
    exec(script, {})
    assert opened(IDS).digest == open_images("birds_lt.toml").digest


def test_every_key_is_explained():
    tables = [DataSpec, spec_module.SplitPlace, spec_module._LongTail, spec_module._Semi]
    for key in {key for table in tables for key in table.model_fields}:
        assert re.search(rf"[`\[]{key}\b", PAGE), key
