"""Training in two processes under torchrun is training in one: the same steps on the same batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_trainers

from selmix.ranks import Ranks, join_ranks

SCRIPT = Path(two_trainers.__file__)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders in which one process, this one, and two have trained the same."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with torch.random.fork_rng():
        two_trainers.main(one)
    finished = subprocess.run(
        [*TORCHRUN, SCRIPT, two], capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT
    )
    assert finished.returncode == 0, finished.stderr
    return one, two


def said(folder: Path, rank: int = 0) -> dict:
    return json.loads((folder / f"said{rank}.json").read_text())


def weights(folder: Path, name: str, rank: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(folder / f"{name}{rank}.pt", weights_only=True)


@pytest.mark.parametrize("name", ["mixup", "parts", "weights", "normed", "single"])
def test_two_processes_come_to_the_weights_of_one(folders, name):
    one, first, second = weights(folders[0], name), weights(folders[1], name), weights(folders[1], name, 1)
    for which in ("model", "kept"):
        assert list(one[which]) == list(first[which])  # a checkpoint of several processes is one of any
        for key, tensor in one[which].items():
            near = 1e-5 if name == "single" else 1e-10  # the others are computed in float64
            torch.testing.assert_close(first[which][key], tensor, rtol=near, atol=near)
            # batch statistics are sums, so the two agree to the bit
            assert torch.equal(first[which][key], second[which][key])
    records = [said(folders[0])[name], said(folders[1])[name], said(folders[1], 1)[name]]
    for own in records[1:]:
        assert own["record"]["loss"] == pytest.approx(records[0]["record"]["loss"], rel=1e-5)
        assert own["validation"] == records[0]["validation"]
    assert records[0]["synced"] == 0
    assert records[1]["synced"] == (2 if name in ("normed", "single") else 19)


def test_training_moved_the_weights(folders):
    trained = weights(folders[1], "mixup")["model"]
    other = weights(folders[1], "weights")["model"]
    assert not torch.allclose(trained["conv1.weight"], other["conv1.weight"], atol=1e-3)


def test_all_processes_tell_the_same_fault(folders):
    assert said(folders[1])["faults"] == said(folders[1], 1)["faults"]
    diverged, too_few = said(folders[1])["faults"]
    assert "is not finite" in diverged
    assert "a batch of 3 images cannot be cut into 2 parts for each of 2 processes" in too_few


@pytest.mark.parametrize("gpu", [False, True])
def test_what_lies_on_a_gpu_travels_by_nccl_and_the_rest_by_gloo(gpu, monkeypatch):
    # no machine of the tests has GPUs: what accelerate is asked for, word by word as its documentation has it
    asked = []

    class State:
        process_index, num_processes = 1, 2

        def __init__(self, **options):
            asked.append(options)

        def destroy_process_group(self):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", State)
    assert join_ranks(gpu=gpu) == Ranks(1, 2)
    (options,) = asked
    assert options.pop("timeout").days == 1
    assert options == ({"cpu": False, "backend": "cpu:gloo,cuda:nccl"} if gpu else {"cpu": True})
