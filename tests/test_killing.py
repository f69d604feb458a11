"""Commands that are interrupted or killed: what they say, what they leave, and that they come to the same end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selmix.commands.console import show_interrupted
from selmix.commands.interruption import Interrupted, interruptible, interruption_code

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
HARNESS, FAULTS = BENCHMARKS / "killing.py", BENCHMARKS / "faults.py"


@pytest.mark.skipif(os.name == "nt", reason="no fork")
def test_killed_commands_come_to_the_same_end():
    """The harness of docs/reliability.md, at one moment for each signal."""
    words = [sys.executable, HARNESS, "--verbs", "train,finetune", "--moments", "1", "--seed", "7"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (train|finetune) \| SIG(KILL|TERM|INT) \| 1 \| .* \| 0 \|$", done.stdout, re.M)
    assert len(rows) == 6, done.stdout


@pytest.mark.skipif(os.name == "nt", reason="no fork")
def test_disturbed_commands_end_well_or_with_one_line():
    """The harness of docs/reliability.md, one try for each fault that needs no rights."""
    faults = ("quota", "vanished", "clock", "worker", "twice")
    words = [sys.executable, FAULTS, "--verbs", "extract", "--faults", ",".join(faults), "--tries", "1", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\| extract \| (\w+) \| 1 \| .* \| 0 \|$", done.stdout, re.M) == list(faults)


def test_sigterm_interrupts_and_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught, interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 128 + 15
    assert signal.getsignal(signal.SIGTERM) is before


def test_torchrun_keeps_its_sigterm(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("there", "words", "processes", "said"),
    [
        (True, ["train", "a b.toml"], "1", "to go on: selmix train 'a b.toml' --resume"),
        (True, ["train", "r.toml", "--resume"], "1", "to go on: selmix train r.toml --resume"),
        (False, ["train", "r.toml"], "1", "to start again: selmix train r.toml"),
        (True, ["train", "r.toml"], "2", "to go on: torchrun --nproc-per-node 2 -m selmix train r.toml --resume"),
    ],
)
def test_an_interruption_says_the_command_that_goes_on(monkeypatch, tmp_path, capsys, there, words, processes, said):
    monkeypatch.setattr(sys, "argv", ["selmix", *words])
    monkeypatch.setenv("WORLD_SIZE", processes)
    if there:
        (tmp_path / "recipe.toml").touch()
    assert interruption_code(KeyboardInterrupt()) == 130
    show_interrupted(tmp_path / "recipe.toml")
    assert capsys.readouterr().err == f"interrupted; {said}\n"
