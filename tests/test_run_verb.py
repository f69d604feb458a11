"""`selmix run`: both stages from one recipe, precedence, resumption, and a finetune run repeated."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from builders import SMALL_RECIPE, small_features, write_npz, write_photos
from test_commands import run

import selmix.stages

QUICK = ("steps=60", "start_steps=40", "refresh=30")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_photos(folder, np.random.default_rng(0))
    (folder / "r.toml").write_text(SMALL_RECIPE)
    write_npz(folder / "f.npz", small_features(["cat", "dog", "owl"]))
    return folder


@pytest.fixture(autouse=True)
def _here(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("selmix.result.REPLICATES", 20)


@pytest.fixture(scope="module")
def done(workplace):
    """The folder of a finished run, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setattr("selmix.result.REPLICATES", 20)
        code, stdout, stderr = run("run", "r.toml", "stage1.epochs=1", "finetune.metric=macro_f1", "--out", "done")
    assert code == 0, stderr
    return workplace / "done", stdout


def result_of(folder):
    document = json.loads((folder / "result.json").read_text())
    document.pop("seconds")
    return document


def test_both_stages_run_and_what_is_set_goes_before_the_file(done):
    out, stdout = done
    assert json.loads((out / "stage1" / "manifest.json").read_text())["epoch"] == 1
    result = result_of(out / "stage2")
    assert result["metric"] == "macro_f1"
    assert result["before_is"] == "given head"
    assert tomllib.loads((out / "stage2" / "recipe.toml").read_text())["backbone"] == "done/stage1"
    merged = tomllib.loads((out / "recipe.toml").read_text())
    expected = tomllib.loads(SMALL_RECIPE)
    expected["stage1"]["epochs"], expected["finetune"]["metric"] = 1, "macro_f1"
    assert merged == expected
    assert tomllib.loads(stdout[: stdout.index("kept: epoch")]) == expected
    assert "macro_f1 on test" in stdout


def test_the_stages_are_those_of_their_own_verbs(done):
    out, _ = done
    assert run("train", "r.toml", "stage1.epochs=1", "--out", "t", "--quiet")[0] == 0
    weights = [(place / "model.safetensors").read_bytes() for place in (out / "stage1", out.parent / "t")]
    assert weights[0] == weights[1]
    words = (
        "--backbone",
        "t",
        "--data",
        "my_images",
        "--metric",
        "macro_f1",
        "--out",
        "t2",
        "steps=100",
        "start_steps=50",
    )
    assert run("finetune", *words)[0] == 0
    heads = [(place / "head.safetensors").read_bytes() for place in (out / "stage2", out.parent / "t2")]
    assert heads[0] == heads[1]


def test_the_saved_recipe_gives_the_same_run(done):
    out, _ = done
    code, stdout, stderr = run("run", out / "recipe.toml", "--out", "again", "--json")
    assert code == 0, stderr
    document = json.loads(stdout)
    assert document["stage1"]["sha256"] == json.loads((out / "stage1" / "manifest.json").read_text())["sha256"]
    first, second = result_of(out / "stage2"), result_of(out.parent / "again" / "stage2")
    assert [own.pop("features")["reused"] for own in (first, second)] == [False, False]  # a cache of its own, each
    assert [Path(own["origin"].pop("backbone")).parent.name for own in (first, second)] == ["done", "again"]
    assert first == second
    assert document["stage2"]["after"] == second["after"]


def test_an_interrupted_run_goes_on_and_a_finished_stage_is_reused(workplace, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selmix.stages, "finetune_all", interrupted)
        assert run("run", "r.toml", "--out", "cut")[0] == 130
    trained = (workplace / "cut" / "stage1" / "model.safetensors").read_bytes()
    code, _, stderr = run("run", "r.toml", "--out", "cut")
    assert code == 2
    assert "unfinished run; add --resume" in stderr
    code, _, stderr = run("run", "r.toml", "stage1.epochs=3", "loss.name=focal", "--out", "cut", "--resume")
    assert code == 2
    assert "loss.gamma, loss.name, stage1.epochs differ" in stderr
    code, _, stderr = run(
        "run", "r.toml", "finetune.metric=accuracy", "stage1.momentum=0.9", "--out", "cut", "--resume"
    )
    assert code == 0
    assert "reused from cut/stage1" in stderr
    assert (workplace / "cut" / "stage1" / "model.safetensors").read_bytes() == trained
    assert result_of(workplace / "cut" / "stage2")["metric"] == "accuracy"
    code, _, stderr = run("run", "r.toml", "--out", "cut", "--resume")
    assert code == 2
    assert "finished run" in stderr
    code, _, stderr = run("run", "r.toml", "finetune.seeds=[0,1]", "--out", "cut", "--overwrite")
    assert code == 0
    assert {path.name for path in (workplace / "cut" / "stage2").iterdir()} == {
        "report.html", "seed0", "seed1", "seeds.json"
    }  # fmt: skip
    code, _, stderr = run("run", "r.toml", "finetune.seed=1", "--out", "cut", "--overwrite")
    assert (code, result_of(workplace / "cut" / "stage2")["seed"]) == (0, 1)


def test_training_that_was_cut_goes_on_to_the_same_weights(workplace, monkeypatch):
    real, epochs = selmix.training.EpochLog.__call__, []

    def cut(self, record):
        real(self, record)
        epochs.append(record["epoch"])
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selmix.training.EpochLog.__call__", cut)
        assert run("run", "r.toml", "--out", "half")[0] == 130
    assert (workplace / "half" / "stage1" / "checkpoint.pt").is_file()
    assert run("run", "r.toml", "--out", "half", "--resume", "--quiet")[0] == 0
    assert run("run", "r.toml", "--out", "whole", "--quiet")[0] == 0
    weights = [(workplace / name / "stage1" / "model.safetensors").read_bytes() for name in ("half", "whole")]
    assert weights[0] == weights[1]


def test_images_that_changed_are_noticed_when_a_stage_is_reused(workplace, monkeypatch):
    (workplace / "other").mkdir()
    write_photos(workplace / "other", np.random.default_rng(1))
    recipe = SMALL_RECIPE.replace('"my_images"', '"other/my_images"')
    (workplace / "o.toml").write_text(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(selmix.stages, "finetune_all", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("run", "o.toml", "--out", "changed")
    (workplace / "other" / "my_images" / "train" / "cat" / "000.jpg").unlink()
    code, _, stderr = run("run", "o.toml", "--out", "changed", "--resume")
    assert code == 3
    assert "of other images than other/my_images has now" in stderr


def test_a_finetune_run_is_repeated_from_its_recipe(workplace):
    subject = ("--subject-to", "coverage >= 0.2/k")
    words = ("finetune", "--features", "f.npz", "--metric", "0.5*accuracy + 0.5*recall[owl]", "--seed", "3", *subject)
    assert run(*words, "--out", "a", *QUICK)[0] == 0
    code, stdout, _ = run("run", "a/recipe.toml", "--out", "b")
    assert code == 0
    assert result_of(workplace / "a") == result_of(workplace / "b")
    assert (workplace / "a" / "head.safetensors").read_bytes() == (workplace / "b" / "head.safetensors").read_bytes()
    assert 'metric = "0.5*accuracy + 0.5*recall[owl]"' in stdout


def test_seeds_and_several_metrics_stand_in_a_recipe_and_a_flag_goes_before(workplace):
    (workplace / "s.toml").write_text(
        '[finetune]\nfeatures = "f.npz"\nmetric = "min_recall, accuracy"\nseeds = "0..1"\n'
        "[finetune.stage2]\nsteps = 60\nstart_steps = 40\n"
    )
    assert run("run", "s.toml", "--out", "s", "--quiet")[0] == 0
    assert json.loads((workplace / "s" / "sweep.json").read_text())["seeds"] == [0, 1]
    code, stdout, _ = run("run", "s.toml", "--seed", 4, "--out", "s4", "--json")
    assert code == 0
    assert json.loads(stdout)["stage2"]["seeds"] == [4]
    words = ("finetune.metric=accuracy", "finetune.seed=3", "--out", "s3", "--quiet")
    assert run("run", "s.toml", *words)[0] == 0
    assert result_of(workplace / "s3")["seed"] == 3
    assert run("run", "s3/recipe.toml", "seeds=[5,6]", "--out", "s56", "--quiet")[0] == 0
    assert json.loads((workplace / "s56" / "seeds.json").read_text())["seeds"] == [5, 6]


def test_one_stage_runs_in_the_folder_itself(workplace):
    assert run("run", "r.toml", "stage1.epochs=1", "--out", "both", "--quiet")[0] == 0
    (workplace / "one.toml").write_text(SMALL_RECIPE.split("[finetune]")[0])
    assert run("run", "one.toml", "stage1.epochs=1", "--seed", 2, "--out", "one", "--quiet")[0] == 0
    assert json.loads((workplace / "one" / "manifest.json").read_text())["recipe"]["seed"] == 2
    code, _, stderr = run("run", "one.toml", "stage1.epochs=1", "seed=2", "--out", "one", "--resume", "--quiet")
    assert (code, stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("finetune.metric=min_recal",), "[finetune] unknown metric 'min_recal': did you mean min_recall?"),
        (("finetune.stage2.stps=3",), "[finetune] unknown key stps: did you mean steps?"),
        (("finetune.backbone=x",), "[finetune] backbone cannot be given"),
        (("stage1.epochs=0", "finetune.metric=x"), "recipe r.toml: [stage1] epochs must be"),
        (("stage1.epochs=0", "finetune.metric=x"), "; [finetune] unknown metric 'x'"),
        (("name.x=1",), "name is no section"),
        (("finetune.seed=1", "finetune.seeds=0..1"), "seed and seeds exclude each other"),
    ],
)
def test_a_faulty_recipe_is_one_line_and_leaves_nothing(workplace, words, message):
    code, _, stderr = run("run", "r.toml", *words, "--out", "faulty")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (workplace / "faulty").exists()


def test_missing_data_leave_nothing_and_other_files_are_kept(workplace):
    code, _, _ = run("run", "r.toml", "data=nowhere", "--out", "missing", "--quiet")
    assert code == 3
    assert not (workplace / "missing").exists()
    assert run("finetune", "--features", "f.npz", "--metric", "accuracy", "--out", "single", "--quiet", *QUICK)[0] == 0
    code, _, stderr = run("run", "r.toml", "--out", "single", "--overwrite")
    assert code == 2
    assert "holds a run of one stage" in stderr
    (workplace / "thesis").mkdir()
    (workplace / "thesis" / "chapter.tex").touch()
    assert run("run", "r.toml", "--out", "thesis", "--overwrite")[0] == 2
    assert [path.name for path in (workplace / "thesis").iterdir()] == ["chapter.tex"]
