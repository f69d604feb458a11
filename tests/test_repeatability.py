"""The same command, seed and machine give the same files, bit for bit, but for what says how long they took."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import SMALL_RECIPE, small_features, write_npz, write_photos
from safetensors.torch import load_file
from test_commands import run

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from trials import digests, without_times

QUICK = ("steps=60", "start_steps=40", "refresh=30")
pytestmark = pytest.mark.usefixtures("_quick_retraining")

IMAGES = ("--backbone", "trained", "--data", "my_images", "--cache", "cache")
VERBS = {
    "train": ("train", "r.toml", "--out", "out"),
    "run": ("run", "r.toml", "--out", "out", "stage1.epochs=1"),
    "extract": ("extract", "--backbone", "trained", "--data", "my_images", "--views", "2", "--out", "out"),
    "finetune": ("finetune", *IMAGES, "--unlabeled", "more_images", "--metric", "min_recall", "--out", "out", *QUICK),
    "finetune --seeds": (
        *("finetune", "--features", "f.npz", "--metric", "min_recall", "--seeds", "0,1", "--diagnose"),
        *("--out", "out", *QUICK),
    ),
    "sweep": ("finetune", "--features", "f.npz", "--metric", "min_recall,macro_f1", "--out", "out", *QUICK),
    "compare": (
        *("compare", "--features", "f.npz", "--metric", "min_recall", "--methods", "crt,ncm,bias,selmix"),
        *("--seeds", "0,1", "--out", "out", *QUICK),
    ),
    "check": ("check", "my_images", "--out", "out.csv"),
    "predict": ("predict", "tuned", "new_images", "--out", "out.csv"),
    "evaluate": ("evaluate", "tuned", "--data", "my_images", "--split", "val", "--json"),
    "export": ("export", "tuned", "--format", "onnx", "--out", "out.onnx"),
    "export --format timm": ("export", "tuned", "--format", "timm", "--out", "out.safetensors"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, features, a backbone and a run, to work in."""
    folder = tmp_path_factory.mktemp("repeat")
    write_photos(folder, np.random.default_rng(0))
    write_npz(folder / "f.npz", small_features(["cat", "dog", "owl"]))
    (folder / "r.toml").write_text(SMALL_RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("selmix.result.REPLICATES", 20)
        patch.setattr("selmix.verdict.REPLICATES", 20)
        for words in (
            ("train", "r.toml", "--out", "trained"),
            ("finetune", *IMAGES, "--metric", "min_recall", "--out", "tuned", *QUICK),
        ):
            code, _, stderr = run(*words)
            assert code == 0, stderr
        yield folder


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_repeats_to_the_bit(place, verb):
    ends = []
    for _ in range(2):
        for path in place.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(place / "cache", ignore_errors=True)
        code, stdout, stderr = run(*VERBS[verb])
        assert code == 0, stderr
        written = digests(place, tuple(path.name for path in place.glob("out*")))
        assert written or "--json" in VERBS[verb]
        ends.append((written, without_times(stdout) if "--json" in VERBS[verb] else ""))
    assert ends[0] == ends[1]


def test_another_number_of_threads_moves_a_head_by_rounding_alone(tmp_path, monkeypatch):
    """The tolerance that docs/reliability.md states: logits within 1e-4 of their largest, in float32."""
    monkeypatch.setattr("selmix.result.REPLICATES", 20)
    write_npz(tmp_path / "f.npz", wide_features())
    heads = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            out = tmp_path / f"out{threads}"
            code, _, stderr = run(
                "finetune", "--features", tmp_path / "f.npz", "--metric", "macro_f1", "--out", out, *QUICK
            )
        finally:
            torch.set_num_threads(1)
        assert code == 0, stderr
        heads.append(load_file(out / "head.safetensors"))
    features = torch.from_numpy(wide_features()["test_features"])
    logits = [features @ head["weight"].T + head["bias"] for head in heads]
    assert (logits[0] - logits[1]).abs().max() <= 1e-4 * logits[0].abs().max()


def wide_features() -> dict[str, np.ndarray]:
    """Return enough numbers that threads share their sums."""
    rng, arrays = np.random.default_rng(0), {}
    centres = rng.normal(size=(10, 256))
    for split, count in {"train": 400, "val": 40, "test": 40}.items():
        labels = np.repeat(np.arange(10), count)
        arrays[f"{split}_features"] = (centres[labels] + 6 * rng.normal(size=(len(labels), 256))).astype(np.float32)
        arrays[f"{split}_labels"] = labels
    return arrays
