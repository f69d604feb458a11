import dataclasses
import tomllib
from pathlib import Path

import pytest

from selmix.errors import UsageError
from selmix.option_words import parse_assignments
from selmix.pseudo.settings import PseudoSettings
from selmix.recipe import FinetuneRecipe, build_recipe, load_recipe, refine_settings
from selmix.semi.settings import SemiSettings
from selmix.shipped import shipped_recipe
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.retraining import RetrainSettings
from selmix.stage1.settings import SupervisedSettings
from selmix.stage2.settings import RefineSettings
from selmix.train_recipe import TrainRecipe, supervised_settings

ROOT = Path(__file__).parent.parent


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('metric = "min_recall"\nfeatures = "a.npz"\nseed = 3\n[stage2]\nsteps = 10\nrefresh = 5\n')
    recipe = load_recipe(path, FinetuneRecipe, {"seed": 4, "stage2.steps": 20})
    assert (recipe.metric, recipe.features, recipe.seed) == ("min_recall", "a.npz", 4)
    settings = refine_settings(recipe.stage2)
    assert (settings.steps, settings.refresh) == (20, 5)
    untouched = {f.name: f.default for f in dataclasses.fields(RefineSettings) if f.name not in ("steps", "refresh")}
    assert {name: getattr(settings, name) for name in untouched} == untouched


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["steps=200", "mix_low=0.5"], {"steps": 200, "mix_low": 0.5}),
        (["bfloat16=false", "start=given"], {"bfloat16": False, "start": "given"}),
        (['name="a=b"', "path=/x y/z"], {"name": "a=b", "path": "/x y/z"}),
        (["empty="], {"empty": ""}),
        ([], {}),
    ],
)
def test_assignments_are_toml_values_or_plain_strings(words, values):
    assert parse_assignments(words) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [(["steps"], "key=value, got 'steps'"), (["=3"], "key=value"), (["a=1", "a=2"], "given twice")],
)
def test_words_that_are_no_assignments_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        parse_assignments(words)


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"stps": 3}, ["unknown key stps: did you mean steps?"]),
        (
            {"steps": "many", "mix_lo": 1},
            ["steps must be an integer", "got 'many'", "did you mean mix_low"],
        ),
        ({"steps": 0, "mix_low": 1.5}, ["steps must be >= 1, got 0", "mix_low must be in [0, 1], got 1.5"]),
        ({"start": "raw"}, ["start must be one of best, given, logit_adjusted, balanced, got raw"]),
        ({"learning_rate": float("nan")}, ["learning_rate must be a finite number, got nan"]),
        ({"learning_rate": float("inf")}, ["learning_rate must be a finite number, got inf"]),
        ({"xyz": 1}, ["unknown key xyz: there are: folds, start, start_steps, steps"]),
    ],
)
def test_every_fault_of_the_settings_is_named_at_once(values, messages):
    with pytest.raises(UsageError) as caught:
        refine_settings(values)
    for message in messages:
        assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_stage_one_settings_are_checked_too():
    assert supervised_settings({"epochs": 7}) == SupervisedSettings(epochs=7)
    with pytest.raises(UsageError, match=r"warmup_epochs must be in \[0, epochs\), got 5"):
        supervised_settings({"epochs": 5})


@pytest.mark.parametrize(
    "content",
    [
        {"metric": "min_recall"},
        {"metric": "min_recall", "backbone": "b"},
        {"metric": "min_recall", "data": "d"},
        {"metric": "min_recall", "features": "f", "backbone": "b", "data": "d"},
        {"metric": "min_recall", "features": "f", "data": "d"},
    ],
)
def test_exactly_one_source_is_asked_for(content):
    with pytest.raises(UsageError, match="either --features, or --backbone and --data"):
        build_recipe(FinetuneRecipe, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric = ", "cannot be read"),
        ('metrik = "a"\nfeatures = "f"', "metric is missing; unknown key metrik: did you mean metric?"),
        ('metric = "a"\nfeatures = "f"\nseed = "x"', "seed must be an integer"),
        ('metric = "a"\nfeatures = "f"\nstage2 = 3', "stage2 must be a table"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "faulty.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path, FinetuneRecipe, {})
    assert "faulty.toml" in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_and_a_missing_section_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read"):
        load_recipe(tmp_path / "nowhere.toml", FinetuneRecipe, {})
    path = tmp_path / "r.toml"
    path.write_text('metric = "a"\nfeatures = "f"\n')
    with pytest.raises(UsageError, match="metric is no section"):
        load_recipe(path, FinetuneRecipe, {"metric.steps": 3})


def test_every_shipped_recipe_is_valid():
    demo = load_recipe(shipped_recipe("demo"), FinetuneRecipe, {})
    assert refine_settings(demo.stage2) == RefineSettings()
    backbone = load_recipe(shipped_recipe("fashion_resnet32"), TrainRecipe, {})
    assert supervised_settings(backbone.stage1).epochs == 200
    assert {path.stem for path in (ROOT / "recipes").glob("*.toml")} == {"demo", "fashion_resnet32"}
    with pytest.raises(UsageError, match="did you mean demo.; `selmix recipes ls` lists them"):
        shipped_recipe("dmeo")


def documented(section: str) -> dict[str, str]:
    """Return key -> default as the tables of docs/settings.md have them."""
    text = (ROOT / "docs" / "settings.md").read_text().split(f"(`[{section}]`")[1].split("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    return {row[1].strip().strip("`"): row[2].strip().strip("`") for row in rows}


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("stage2", RefineSettings),
        ("pseudo", PseudoSettings),
        ("stage1", SupervisedSettings),
        ("classifier", RetrainSettings),
        ("autobalance", AutoBalanceSettings),
        ("semi", SemiSettings),
    ],
)
def test_the_documented_defaults_are_the_defaults(section, kind):
    shown = documented(section)
    assert list(shown) == [field.name for field in dataclasses.fields(kind)]
    for field in dataclasses.fields(kind):
        text = shown[field.name]
        # a rule is explained where it is defined
        assert any(f"{field.name}:" in (own.__doc__ or "") for own in kind.__mro__)
        if field.default is None:
            assert text == ("none" if kind is PseudoSettings else "automatic")
        else:
            told = text if isinstance(field.default, str) else tomllib.loads(f"v = {text}")["v"]
            assert field.default == (tuple(told) if isinstance(told, list) else told)
