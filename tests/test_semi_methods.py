"""The table of methods: their keys, their page, what does not go with them, two processes."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from test_semi_training import data, log, train

from selmix.errors import UsageError
from selmix.semi.methods import METHODS
from selmix.semi.settings import SemiSettings
from selmix.train_recipe import semi_settings

__all__ = ["data"]

PAGE = (Path(__file__).parent.parent / "docs" / "settings.md").read_text().partition("## The methods of `[semi]`")[2]


def test_the_page_lists_every_method_with_its_keys_and_defaults():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.split("\n## ")[0], re.MULTILINE))
    common = {field.name for field in dataclasses.fields(SemiSettings)}
    assert list(rows) == list(METHODS)
    for name, kind in METHODS.items():
        own = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in common}
        listed = [
            f"`{key}` {value:g}" if isinstance(value, float) else f"`{key}` {value}" for key, value in own.items()
        ]
        assert rows[name] == ", ".join(listed)
        assert semi_settings({"method": name}) == kind()
        assert kind().method == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "csst", "threshold": 0.9}, "unknown key threshold"),
        ({"method": "abc", "generations": 3}, "unknown key generations"),
        ({"method": "abc", "pseudo_labels": "softt"}, "pseudo_labels"),
        ({"method": "crest_plus", "generations": 0}, "generations must be >= 1"),
        ({"method": "crest_plus", "quota": 0.0, "least_power": 1.5}, "quota must be > 0.*least_power must be in"),
        ({"method": "daso", "queue_size": 0, "threshold": -1.0}, "threshold must be >= 0.*queue_size must be >= 1"),
        (
            {"method": "daso", "similarity_temperature": 0.0, "distribution_temperature": 0.0},
            "similarity_temperature must be > 0.*distribution_temperature must be > 0",
        ),
        (
            {"method": "daso", "distribution_steps": 0, "alignment_weight": -1.0, "warmup_steps": -1},
            "distribution_steps must be >= 1.*alignment_weight must be >= 0.*warmup_steps must be >= 0",
        ),
        (
            {"method": "csst", "coverage_floor": 1.5, "multiplier_rate": 0.0, "divergence": 0.0},
            r"coverage_floor must be in \[0, 1\].*multiplier_rate must be > 0.*divergence must be > 0",
        ),
        ({"method": "csst", "unlabeled_ratio": 0}, "unlabeled_ratio must be >= 1"),
    ],
)
def test_faulty_settings_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        semi_settings(values)


@pytest.mark.parametrize("name", ["abc", "daso", "csst"])
def test_a_recipe_trains_by_every_method(data, tmp_path, name):

    words = [f"semi.method={name}", "architecture=cifar_resnet20", "stage1.epochs=1"]
    result = train(tmp_path, "a", "--quiet", *words, drop_threshold=name == "csst")
    assert result.exit_code == 0, result.output

    (row,) = log(tmp_path / "a")
    assert np.isfinite(row["loss"])


def test_csst_steers_by_val_and_needs_images_of_every_class_there(data, tmp_path):
    def refused(*words):
        result = train(tmp_path, "a", "semi.method=csst", *words, drop_threshold=True)
        assert result.exit_code == 2
        assert not (tmp_path / "a").exists()
        return " ".join(result.stderr.split())

    assert "[loss] does not go with the method csst" in refused("loss.name=logit_adjustment")
    val = data.splits["val"]
    data.splits["val"] = val.subset(np.arange(9))
    assert f"steers by val, which has no image of the class {data.class_names[9]}" in refused()
    del data.splits["val"]
    assert "the method csst steers by val, and some/data has none; set val_fraction" in refused()
    # two images a class: one of each stays, one is set aside
    words = ("semi.method=csst", "val_fraction=0.5", "architecture=cifar_resnet20", "stage1.epochs=1", "--quiet")
    assert train(tmp_path, "b", *words, drop_threshold=True).exit_code == 0


def test_daso_needs_an_average(data, tmp_path):
    result = train(tmp_path, "a", "semi.method=daso", "stage1.average_decay=0")
    assert result.exit_code == 2
    assert "daso learns from the averaged network" in " ".join(result.stderr.split())
