"""`selmix recipes`: what ships is listed, shown, copied and in order; what is wrong is said, all of it."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from test_commands import run
from typer.main import get_command

from selmix.commands import app
from selmix.recipe_check import recipe_faults
from selmix.recipe_header import read_header
from selmix.shipped import shipped_recipes

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_what_ships_is_in_order_and_says_what_it_claims_and_how_it_is_run(path):
    assert recipe_faults(path) == []
    header = read_header(path)
    assert header.title.endswith(".")
    assert set(header.parts) >= {"Source", "Here"}
    assert len(header.claim) < 400
    content, name = tomllib.loads(path.read_text()), path.relative_to(ROOT).as_posix()
    verb = "train" if "architecture" in content else "demo" if "metric" in content else "check"
    if verb == "train" and path.parent != ROOT / "recipes":
        assert "Published" in header.parts
    assert header.commands[0].split()[:2] == ["selmix", verb]
    for command in header.commands:
        _, verb, *words = shlex.split(command)
        for word in words:
            if ".toml" in word:
                assert (ROOT / word.partition("=")[2 * ("=" in word)]).is_file()
        if verb != "demo":
            assert words[0] == name
        group = get_command(app)
        group.commands[verb].make_context(verb, list(words))  # raises for words that the verb does not know


def test_ls_lists_every_file_with_its_verb_and_claim():
    rows = json.loads(run("recipes", "ls", "--json")[1])
    assert [row["name"] for row in rows] == list(shipped_recipes())
    assert len(rows) == len(FILES)
    code, stdout, _ = run("recipes", "ls")
    assert code == 0
    for row in rows:
        (line,) = (own for own in stdout.splitlines() if own.split()[:1] == [row["name"]])
        assert line.split()[1] == row["verb"]
        assert row["claim"].split()[0] in line
    (row,) = (row for row in rows if row["name"] == "cifar10_lt_if100/mislas_stage1")
    assert row["claim"].endswith("published: accuracy 72.8 %; here: accuracy 71.8 % on test")


def test_show_prints_the_file():
    assert run("recipes", "show", "demo")[1] == (ROOT / "recipes" / "demo.toml").read_text()
    code, _, stderr = run("recipes", "show", "dmo")
    assert code == 2
    assert "did you mean demo?" in stderr


def test_cp_copies_the_data_spec_too_and_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, _ = run("recipes", "cp", "cifar10_lt_if100/mislas_stage2", "mine")
    assert code == 0
    assert stdout.split() == ["written:", "mine/mislas_stage2.toml", "written:", "mine/data.toml"]
    source = ROOT / "recipes" / "cifar10_lt_if100"
    assert Path("mine/data.toml").read_bytes() == (source / "data.toml").read_bytes()
    copied, original = (tomllib.loads((folder / "mislas_stage2.toml").read_text()) for folder in (Path("mine"), source))
    assert copied == original | {"data": "mine/data.toml"}
    assert run("recipes", "validate", "mine/mislas_stage2.toml", "mine/data.toml")[0] == 0
    Path("mine/mislas_stage2.toml").write_text("mine")
    code, _, stderr = run("recipes", "cp", "cifar10_lt_if100/mislas_stage2", "mine")
    assert code == 2
    assert "there already" in stderr
    assert Path("mine/mislas_stage2.toml").read_text() == "mine"
    assert run("recipes", "cp", "demo", "mine")[0] == 0
    assert {path.name for path in Path("mine").iterdir()} == {"demo.toml", "data.toml", "mislas_stage2.toml"}


FAULTY = """
name = "x"
architecture = "resnt18"
data = "shipped:nope"
seedd = 1
[stage1]
epochs = -1
foo = 3
[loss]
name = "focl"
[finetune]
metric = "min_recal, acuracy"
subject_to = ["coverag >= 1"]
seeds = "4..1"
[finetune.stage2]
stps = 3
[finetune.pseudo]
threshold = 2.0
"""


def test_validate_prints_every_fault(tmp_path):
    path = tmp_path / "faulty.toml"
    path.write_text(FAULTY)
    code, stdout, stderr = run("recipes", "validate", path, ROOT / "recipes" / "demo.toml")
    assert (code, stdout) == (2, "")
    for said in (
        "unknown key seedd: did you mean seed?", "unknown key foo", "epochs must be", "no loss 'focl'",
        "nothing called",
        "no model 'resnt18': did you mean resnet18?", "did you mean min_recall?", "did you mean coverage?", "4..1",
        "unknown key stps: did you mean steps?", "threshold must be in [0, 1], got 2.0", "error: 1 of 2 file(s)",
    ):  # fmt: skip
        assert said in stderr, said
    assert len(json.loads(run("recipes", "validate", path, "--json")[1])[str(path)]) >= 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("metric = 3\nfeatures = 'f.npz'", "metric must be a text"),
        ("metric = 'accuracy'", "give either --features, or --backbone and --data; got none of them"),
        ("metric = 'accuracy'\nfeatures = 'f'\ndata = 'd'", "--backbone and --data; got --features and --data"),
        ("[finetune]\nfeatures = 'f.npz'", "metric is missing"),
        ("[stage1]\nepochs = 3", "architecture is missing"),
        ("source = 'cifar10:x'\n[longtail]\nhead_cnt = 3", "head_cnt"),
        ("finetune = 3", "is a table, got 3"),
        ("x = ", "cannot be read"),
    ],
)
def test_each_kind_of_file_is_known_by_its_keys(tmp_path, content, said):
    path = tmp_path / "r.toml"
    path.write_text(content)
    assert said in " ".join(recipe_faults(path))


def test_the_page_shows_a_recipe_that_is_in_order_and_commands_that_parse(tmp_path):
    text = "".join((ROOT / "docs" / name).read_text() for name in ("recipes.md", "sweep.md"))
    (recipe,) = re.findall(r"^```toml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "r.toml").write_text(recipe)
    assert recipe_faults(tmp_path / "r.toml") == []
    commands = re.findall(r"^selmix (.*?)(?: +#.*)?$", text, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        verb, *words = shlex.split(command)
        own = get_command(app).commands[verb]
        if verb == "recipes":
            own, *words = own.commands[words[0]], *words[1:]
        own.make_context(verb, list(words))


def test_nothing_named_checks_what_ships():
    code, stdout, _ = run("recipes", "validate")
    assert code == 0
    assert f"{len(FILES)} file(s) are in order" in stdout
