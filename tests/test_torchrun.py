"""Two processes under torchrun, with gloo: what they tell each other, and what the command line makes of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import gaussian_splits, write_image_folder, write_npz
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
RECIPE = """
name = "tiny"
architecture = "cifar_resnet20"
data = "{data}"
input_size = [8, 8]
[stage1]
epochs = 1
batch_size = 15
warmup_epochs = 0
learning_rate = 0.001
mixup_alpha = 1.0
accumulation = 2
"""
COUNTS = {"train": 94, "val": 36, "test": 120}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder in which two processes have worked, and what they wrote on stderr."""
    folder = tmp_path_factory.mktemp("two")
    splits = gaussian_splits([60, 25, 9], seed=0, per_class=40, val=12, spread=0.7)
    arrays = {f"{name}_{part}": getattr(own, part).numpy() for name, own in splits.items() for part in ("features", "labels")}  # fmt: skip  # noqa: E501
    write_npz(folder / "f.npz", arrays)
    shutil.copy(folder / "f.npz", folder / "only0.npz")
    data = write_image_folder(folder / "images", {"train": {"a": 20, "b": 12}})
    (folder / "recipe.toml").write_text(RECIPE.format(data=data))
    finished = subprocess.run(
        [*TORCHRUN, SCRIPT, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stderr


def test_what_two_processes_tell_each_other(done):
    said = [json.loads((done[0] / f"rank{rank}.json").read_text()) for rank in range(2)]
    for own in said:
        assert own["count"] == 2
        assert own["total"] == [10, 12, 14]
        assert own["gathered"] == [0, 1]
        assert own["flags"] == [False, True]
        assert own["first"] == [0, 1, 2]
        assert own["texts"] == ["", "x"]
    assert [own["shares"] for own in said] == [[[0, 0], [3, 10]], [[1, 5], [3, 10]]]


def test_exit_codes_are_the_same_on_all_but_for_a_constraint_that_the_first_tells(done):
    said = [json.loads((done[0] / f"rank{rank}.json").read_text()) for rank in range(2)]
    expected = {"one": 0, "again": 2, "seeds": 0, "diagnose": 2, "compare": 2, "lost": 3}
    expected |= {"train": 0, "train_again": 2, "search": 2, "diverged": 5}
    assert said[0]["codes"] == expected | {"unmet": 4}
    assert said[1]["codes"] == expected | {"unmet": 0}


def test_errors_are_told_and_leave_nothing(done):
    lines = {line for line in done[1].splitlines() if line.startswith("error:")}  # here nobody ends the second process
    assert len(lines) == 8
    told = ("finished run", "--diagnose", "compare", "only1.npz", "not met")
    for words in (*told, "trained backbone", "searched in one process", "not finite"):
        assert sum(words in line for line in lines) == 1
    assert not (done[0] / "no").exists()


def test_torchrun_lets_one_process_speak_for_all(tmp_path):
    finished = subprocess.run(
        [*TORCHRUN, "-m", "selmix", "finetune", "--features", "lost.npz", "--metric", "accuracy", "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert finished.returncode != 0
    assert [line for line in finished.stderr.splitlines() if line.startswith("error:")] == [
        "error: no such file: lost.npz; check the path"
    ]
    assert finished.stdout == ""
    assert not any(tmp_path.iterdir())


def test_the_run_is_complete_and_tells_of_all_samples(done):
    folder = done[0]
    result = json.loads((folder / "one" / "result.json").read_text())
    ids = json.loads((folder / "one" / "splits.json").read_text())
    assert {name: sorted(map(int, own)) for name, own in ids.items()} == {
        name: list(range(count)) for name, count in COUNTS.items()
    }
    assert result["support"] == {"train": [60, 25, 9], "val": [12] * 3, "test": [40] * 3, "unlabeled": 0}
    assert result["after"]["test"]["mean_recall"] == pytest.approx(np.mean(result["recall"]["after"]["test"]))
    seeds = json.loads((folder / "seeds" / "seeds.json").read_text())
    assert seeds["seeds"] == [0, 1]
    assert seeds["after"]["test"]["mean_recall"]["mean"] > 0.5
    assert json.loads((folder / "seeds" / "seed0" / "result.json").read_text())["after"] == result["after"]


def test_two_processes_train_the_network_that_one_trains(done):
    alone = done[0] / "alone"
    command = [sys.executable, "-m", "selmix", "train", done[0] / "recipe.toml", "--quiet", "--out", alone]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (alone, done[0] / "trained"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    lines = [json.loads((folder / "metrics.jsonl").read_text()) for folder in (alone, done[0] / "trained")]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)
    assert {path.name for path in alone.iterdir()} == {path.name for path in (done[0] / "trained").iterdir()}
