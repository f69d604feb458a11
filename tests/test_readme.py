"""Every command and every script that the README shows runs, and so do those of the pages that go on from there."""

import json
import re

import pytest
from pages import ROOT, blocks, run, steps, verb, write_workplace

PAGES = [
    "README.md",
    "docs/index.md",
    "docs/guide.md",
    "docs/walkthrough.md",
    "docs/results.md",
    "docs/choosing.md",
    "docs/faq.md",
]
STEPS = steps(*PAGES)
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages take for granted, and their own files in small."""
    folder = tmp_path_factory.mktemp("readme")
    write_workplace(folder)
    (spec,) = blocks("docs/walkthrough.md", "toml")
    (recipe,) = blocks("docs/guide.md", "toml")
    assert "5000" in spec
    (folder / "my_recipe.toml").write_text(recipe.replace("224, 224", "64, 64").replace("epochs = 20", "epochs = 2"))
    (folder / "cifar10_lt").mkdir()
    (folder / "cifar10_lt" / "data.toml").write_text(spec.replace("5000", "40").replace("= 100", "= 10"))
    return folder


def test_the_pages_have_commands():
    readme = {verb(step) for step in steps("README.md")}
    assert readme >= {"check", "compare", "export", "finetune", "predict"}
    assert {verb(step) for step in STEPS} >= readme | {"backbones", "demo", "extract", "metrics", "train"}
    assert len(STEPS) >= 25


@pytest.fixture(autouse=True)
def _one_cache(_own_cache, shared_cache, monkeypatch):
    # many commands name the same images
    monkeypatch.setenv("SELMIX_CACHE", str(shared_cache))


@pytest.mark.usefixtures("_quick_retraining")
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[:100])
def test_the_step_runs(step, workplace):
    run(step, workplace)


def test_the_run_folder_holds_what_the_page_lists(workplace):
    (command,) = [step for step in STEPS if step.endswith("--out runs/features")]
    assert verb(command) == "finetune"
    page = (ROOT / "docs" / "results.md").read_text()
    listed = set(re.findall(r"^\| `([\w.]+)` \|", page, flags=re.MULTILINE))
    assert listed - {"pseudo_labels.csv"} == {path.name for path in (workplace / "runs" / "features").iterdir()}
    shown = json.loads(blocks("docs/results.md", "json")[0])
    result = json.loads((workplace / "runs" / "features" / "result.json").read_text())
    assert set(shown) <= set(result)
    for key in ("before", "support", "recall", "interval", "versions"):
        assert set(shown[key]) <= set(result[key]), key


def test_the_readme_fits_three_screens_and_its_make_targets_and_links_exist():
    assert len(README.splitlines()) <= 150
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link
