"""The tutorial runs from top to bottom."""

import csv

import pytest
from pages import run, steps, verb

STEPS = steps("docs/tutorial.md")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(autouse=True)
def _one_cache(_own_cache, workplace, monkeypatch):
    # the commands go on from each other's features
    monkeypatch.setenv("SELMIX_CACHE", str(workplace / "cache"))


@pytest.mark.usefixtures("_quick_retraining")
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[:100])
def test_the_step_runs(step, workplace):
    run(step, workplace)
    if verb(step) == "predict":
        with (workplace / "predictions.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(list((workplace / "new_photos").iterdir())) == 12


def test_every_chapter_has_a_step():
    assert [verb(step) for step in STEPS] == [
        "", "check", "finetune", "report", "compare", "finetune", "predict", "evaluate", "export", "export", "export",
        "",
    ]  # fmt: skip
