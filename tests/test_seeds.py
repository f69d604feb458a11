"""`finetune --seeds`: a run folder for each seed, and means and spreads that follow from them."""

import json
import statistics

import numpy as np
import pytest
from test_commands import features, run

from selmix import extraction, result


@pytest.fixture(autouse=True)
def _fewer_replicates(monkeypatch):
    monkeypatch.setattr(result, "REPLICATES", 100)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("seeds") / "features.npz"
    np.savez(path, **features({"train": (200, 60, 25), "test": (80, 80, 80)}, width=3))
    return path


def seeded(npz, out, *more):
    words = ("--features", npz, "--metric", "min_recall", "--out", out, "steps=200", "start_steps=200")
    return run("finetune", *words, *more)


def test_means_and_spreads_are_those_of_the_runs(npz, tmp_path, monkeypatch):
    loads = []
    load = extraction.load_features
    monkeypatch.setattr(extraction, "load_features", lambda path: loads.append(path) or load(path))
    code, stdout, stderr = seeded(npz, tmp_path / "run", "--seeds", "1..3", "--subject-to", "recall >= 0.05", "--json")
    assert code == 0, stderr
    assert len(loads) == 1
    document = json.loads(stdout)
    assert document == json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "seeds.json",
        "seed1",
        "seed2",
        "seed3",
        "report.html",
    }
    runs = [json.loads((tmp_path / "run" / f"seed{seed}" / "result.json").read_text()) for seed in (1, 2, 3)]
    assert document["seeds"] == [own["seed"] for own in runs] == [1, 2, 3]
    for split in ("val", "test"):
        for name in runs[0]["after"][split]:
            for key, value in {
                "before": lambda own: own["before"][split][name],  # noqa: B023
                "balanced": lambda own: own["balanced"][split][name],  # noqa: B023
                "after": lambda own: own["after"][split][name],  # noqa: B023
                "change": lambda own: own["after"][split][name] - own["before"][split][name],  # noqa: B023
                "change_from_balanced": lambda own: own["after"][split][name] - own["balanced"][split][name],  # noqa: B023
            }.items():
                shown = document[key][split][name]
                if name in runs[0]["undefined"]:
                    assert shown is None
                    continue
                values = [value(own) for own in runs]
                assert shown["mean"] == pytest.approx(statistics.mean(values), abs=1e-12)
                assert shown["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    recalls = [own["recall"]["after"]["test"][2] for own in runs]
    assert document["recall"]["after"]["test"][2]["mean"] == pytest.approx(statistics.mean(recalls))
    (kept,) = document["constraints"]
    assert (kept["met"], kept["met_on_test"], kept["bound"]) == (3, 3, 0.05)
    assert kept["test"]["mean"] == pytest.approx(statistics.mean(own["constraints"][0]["test"] for own in runs))
    # every seed set aside a part of train of its own
    held_out = [json.loads((tmp_path / "run" / f"seed{seed}" / "splits.json").read_text())["val"] for seed in (1, 2, 3)]
    assert held_out[0] != held_out[1] != held_out[2]


def test_a_seed_among_several_is_the_run_of_that_seed_alone(npz, tmp_path):
    assert seeded(npz, tmp_path / "both", "--seeds", "4,7", "--quiet")[0] == 0
    assert seeded(npz, tmp_path / "alone", "--seed", "7", "--quiet")[0] == 0
    for name in ("head.safetensors", "splits.json", "metrics.jsonl", "recipe.toml"):
        assert (tmp_path / "both" / "seed7" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_the_words_say_mean_spread_and_what_a_seed_is(npz, tmp_path):
    code, stdout, stderr = seeded(npz, tmp_path / "run", "--seeds", "0,1", "--subject-to", "recall >= 0.995")
    assert code == 4
    assert "not met on validation: recall >= 0.995 for 2 of 2 seeds" in stderr
    document = json.loads((tmp_path / "run" / "seeds.json").read_text())
    figures = document["after"]["test"]["min_recall"]
    assert f"min_recall on test: {100 * figures['mean']:.1f} ± {100 * figures['std']:.1f}" in stdout
    change = document["change"]["test"]["min_recall"]
    assert f"{100 * change['mean']:+.1f} ± {100 * change['std']:.1f} points" in stdout
    assert "subject to recall >= 0.995: met for 0 of 2 seeds on val, 0 on test" in stdout
    assert "a seed changes" in stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0..2", "--seed", "0"), "exclude each other"),
        (("--seeds", "2..0"), "--seeds is a range"),
        (("--seeds", "a"), "--seeds is a range"),
    ],
)
def test_faulty_seeds_are_refused(npz, tmp_path, words, message):
    code, _, stderr = seeded(npz, tmp_path / "run", *words)
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "run").exists()


def test_finished_runs_are_kept(npz, tmp_path):
    assert seeded(npz, tmp_path / "run", "--seeds", "0", "--quiet")[0] == 0
    before = (tmp_path / "run" / "seeds.json").read_bytes()
    assert json.loads(before)["after"]["test"]["accuracy"]["std"] is None
    code, _, stderr = seeded(npz, tmp_path / "run", "--seeds", "1")
    assert code == 2
    assert "--overwrite" in stderr
    assert (tmp_path / "run" / "seeds.json").read_bytes() == before
    assert seeded(npz, tmp_path / "run", "--seeds", "1", "--overwrite", "--quiet")[0] == 0
    assert json.loads((tmp_path / "run" / "seeds.json").read_text())["seeds"] == [1]
