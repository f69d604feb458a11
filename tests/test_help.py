"""Help that answers before it is asked: every example runs, what a TAB completes is right and quick."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import SMALL_RECIPE, small_features, write_npz, write_photos
from typer.testing import CliRunner

from selmix.commands import app, completion
from selmix.commands.guide import GUIDE
from selmix.compare import ABOUT
from selmix.metrics import ALIASES, DEFINITIONS

ROOT = Path(__file__).parent.parent
QUICK = ["steps=60", "start_steps=40", "refresh=30"]
VERBS = [*([verb] for verb in GUIDE), *(["recipes", verb] for verb in ("ls", "show", "cp", "validate"))]


def examples_of(verb: list[str]) -> list[str]:
    """Return the example lines that `selmix VERB --help` shows."""
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.partition("Examples:")[2].splitlines()]
    return [line for line in lines if line.startswith("selmix ")]


EXAMPLES = [line for verb in VERBS for line in examples_of(verb)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the examples take for granted, in small."""
    folder = tmp_path_factory.mktemp("help")
    write_photos(folder, np.random.default_rng(0))
    write_npz(folder / "features.npz", small_features(["cat", "dog", "owl"]))
    (folder / "my_recipe.toml").write_text(SMALL_RECIPE)
    (folder / "demo.toml").write_text('backbone="shipped:fashion_resnet32"\ndata="my_images"\nmetric="min_recall"\n')
    return folder


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_examples_of_itself(verb):
    lines = examples_of(verb)
    assert lines
    for line in lines:
        assert line.startswith(" ".join(["selmix", *verb]))


def test_brackets_are_shown_and_not_taken_for_markup():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "100"}).stdout
    assert "[finetune]: metric" in shown
    assert "[finetune.stage2]" in shown


@pytest.mark.usefixtures("_quick_retraining")
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(example, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("selmix.result.REPLICATES", 20)
    monkeypatch.setattr("selmix.verdict.REPLICATES", 20)
    if example.split()[1] == "demo":  # what ships is tried, whole, by tests/test_demo.py
        monkeypatch.setattr("selmix.shipped.shipped_recipe", lambda name: workplace / f"{name}.toml")
    words = shlex.split(example)[1:]
    quick = QUICK if words[0] in ("demo", "finetune", "compare") else []
    if "runs/a/recipe.toml" in words and not (workplace / "runs" / "a").is_dir():
        CliRunner().invoke(app, [*shlex.split(examples_of(["finetune"])[0])[1:], *QUICK])
    result = CliRunner().invoke(app, [*words, *quick])
    assert result.exit_code == 0, result.output


def test_the_first_help_is_a_guide():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    places = [shown.index(f"─ {panel} ─") for panel in dict.fromkeys(panel for panel, _ in GUIDE.values())]
    assert places == sorted(places)
    assert [verb for verb in re.findall(r"^│ (\w+) ", shown, flags=re.MULTILINE) if verb in GUIDE] == sorted(
        GUIDE, key=lambda verb: shown.index(f"│ {verb} ")
    )


def test_finetune_asks_in_the_order_of_the_questions():
    shown = CliRunner().invoke(app, ["finetune", "--help"], env={"COLUMNS": "100"}).stdout
    order = ["--features", "--backbone", "--metric", "--subject-to", "--out", "--arch", "Examples:"]
    places = [re.search(rf"^[│ *]+{word}", shown, flags=re.MULTILINE).start() for word in order]
    assert places == sorted(places)


def test_names_that_complete_are_the_names_that_there_are():
    assert set(completion.METRICS) == {*DEFINITIONS, *ALIASES}
    assert list(completion.METHODS) == list(ABOUT)


def complete(words: str, number: int) -> tuple[set[str], str]:
    """Return what bash would be offered for the word of this number, and what the process imported of PyTorch."""
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        "sys.argv = ['selmix']; from selmix.commands import main; main()"
    )
    asked = {"_SELMIX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    return set(done.stdout.split()), done.stderr.strip()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("selmix fine", {"finetune"}),
        ("selmix finetune --metric min_r", {"min_recall"}),
        ("selmix compare --metric accuracy,mean", {"accuracy,mean_recall"}),
        ("selmix finetune --backbone shipped:fash", {"shipped:fashion_resnet32"}),
        ("selmix recipes show cifar10_lt_if100/mixup", {f"cifar10_lt_if100/mixup_{end}" for end in ("crt", "lws")}),
        ("selmix run shipped:de", {"shipped:demo"}),
        ("selmix compare --methods bias,plug", {"bias,plug_in"}),
    ],
)
def test_a_tab_completes_without_waiting_for_pytorch(words, offered):
    assert complete(words, len(words.split()) - 1) == (offered, "False")


@pytest.mark.parametrize(
    ("begun", "offered"), [("", {"fashion_resnet32", "cifar10_lt_mislas"}), ("fa", {"fashion_resnet32"})]
)
def test_bash_which_parts_words_at_colons_gets_what_follows_the_colon(begun, offered):
    words = ["selmix", "finetune", "--backbone", "shipped", ":", *[begun] * bool(begun)]
    assert complete("\n".join(words), len(words) - 1) == (offered, "False")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script(shell, monkeypatch):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    monkeypatch.setattr("typer.completion.shellingham", None, raising=False)
    result = CliRunner().invoke(app, ["--show-completion"], prog_name="selmix")
    assert result.exit_code == 0
    assert "_SELMIX_COMPLETE" in result.stdout
