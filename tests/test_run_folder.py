"""Run folders: what a killed run leaves is replaced, a live one is left alone, a finished one is kept."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock
from test_commands import features, finetune, run

from selmix import finetuning
from selmix.errors import DataError
from selmix.run import UNFINISHED

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
QUICK = ("steps=60", "refresh=20", "start_steps=20")


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch):
    monkeypatch.setattr("selmix.result.REPLICATES", 40)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / "features.npz"
    np.savez(path, **features({"train": (60, 30, 12), "val": (20, 20, 20), "test": (20, 20, 20)}, width=3))
    return path


def content(folder):
    """Return every file; of those that say how long it took, what does not depend on it."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    plain = {}
    for name, path in files.items():
        if name.endswith((".html", ".toml")):  # name the run's own folder
            continue
        plain[name] = path.read_bytes()
        if path.name in ("result.json", "seeds.json"):
            document = json.loads(plain[name])
            plain[name] = {key: value for key, value in document.items() if key != "seconds"}
    return plain


@pytest.mark.parametrize("lacks", ["result.json", "report.html"])
def test_what_a_killed_run_leaves_is_replaced(npz, tmp_path, caplog, lacks):
    assert finetune(npz, tmp_path / "whole", *QUICK)[0] == 0
    out = tmp_path / "killed"
    assert finetune(npz, out, *QUICK)[0] == 0
    (out / lacks).unlink()  # the result is written last, but for the report
    (out / UNFINISHED).touch()
    (out / ".writing-head.safetensors-4711").write_bytes(b"half")
    code, _, stderr = finetune(npz, out, *QUICK)
    assert code == 0, stderr
    assert "did not end; it is replaced" in caplog.text
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_seeds_that_are_killed_on_the_way_come_to_the_same_end(npz, tmp_path):
    words = ["finetune", "--features", npz, "--metric", "min_recall", "--seeds", "0..3", *QUICK, "--out"]
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "selmix", *words, out, "--quiet"], env=ENVIRONMENT)
    while not (out / "seed0" / "result.json").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "seeds.json").exists()
    for place in (out, tmp_path / "whole"):
        code, _, stderr = run(*words, place)
        assert code == 0, stderr
    assert content(out) == content(tmp_path / "whole")


def test_a_folder_that_a_run_is_writing_to_is_left_alone(npz, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "splits.json").write_text("half")
    with FileLock(out / UNFINISHED):
        code, _, stderr = finetune(npz, out, *QUICK)
        assert code == 2
        assert "another run is writing" in stderr
        assert (out / "splits.json").read_text() == "half"
    assert finetune(npz, out, *QUICK)[0] == 0
    assert not (out / UNFINISHED).exists()


def test_a_run_that_is_interrupted_at_its_report_is_done_again(npz, tmp_path, monkeypatch, caplog):
    out = tmp_path / "run"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selmix.report.writer.write_samples", interrupted)
        assert finetune(npz, out, *QUICK)[0] == 130
    assert (out / "result.json").is_file()
    assert finetune(npz, out, *QUICK)[0] == 0
    assert "did not end; it is replaced" in caplog.text
    assert finetune(npz, out, *QUICK)[0] == 2  # now it has ended
    assert finetune(npz, tmp_path / "whole", *QUICK)[0] == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_run_that_fails_leaves_the_finished_one_and_no_mark(npz, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert finetune(npz, out, *QUICK)[0] == 0
    before = content(out)

    def fail(*_, **__):
        raise DataError("a fault")

    monkeypatch.setattr(finetuning, "prepare_job", fail)
    assert finetune(npz, out, *QUICK, "--overwrite")[0] == 3
    assert content(out) == before
    assert finetune(npz, tmp_path / "new", *QUICK)[0] == 3
    assert not (tmp_path / "new").exists()
