"""`selmix doctor`: what works is ok, what is broken is a problem with its remedy, and nothing ends in a traceback."""

import json
import sys
from collections import namedtuple

import pytest
import torch
import torchvision
from test_commands import run

import selmix.doctor
from selmix.doctor import examine


def findings():
    return {own.name: own for own in examine()}


def test_this_machine_can():
    code, stdout, _ = run("doctor", "--json")
    document = json.loads(stdout)
    assert code == 0, stdout
    seen = {own["name"]: own for own in document["findings"]}
    assert set(seen) >= {
        "python", "torch and torchvision", "device cpu", "torchvision", "timm", "faiss", "pillow", "safetensors",
        "pyarrow", "matplotlib", "scikit-learn", "worker processes", "threads", "memory", "feature cache",
        "current folder",
    }  # fmt: skip
    assert document["counts"]["problem"] == 0
    assert torch.__version__.split("+")[0] in seen["torch and torchvision"]["detail"]
    code, stdout, _ = run("doctor")
    assert code == 0
    assert "0 problem(s)" in stdout


def test_a_torchvision_of_another_torch_is_seen_before_it_crashes(monkeypatch):
    versions = {"torch": "2.6.0+cpu", "torchvision": "0.20.1"}
    monkeypatch.setattr(selmix.doctor, "_version", versions.get)
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy", "torch==2.5.1", "pillow>=5.3"])
    found = findings()["torch and torchvision"]
    assert found.status == "problem"
    assert "built for torch 2.5.1" in found.detail
    assert "pip install 'torch==2.5.1'" in found.remedy
    versions["torch"] = "2.5.1+cu124"
    assert findings()["torch and torchvision"].status == "ok"
    versions["torchvision"] = None
    assert "torchvision is not installed" in findings()["torch and torchvision"].detail


def test_an_operator_that_is_missing_is_a_problem_with_a_remedy(monkeypatch):
    def missing(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    found = findings()["torchvision"]
    assert (found.status, found.detail) == ("problem", "operator torchvision::nms does not exist")
    assert "--force-reinstall torch torchvision" in found.remedy
    code, stdout, _ = run("doctor")
    assert code == 3
    assert "problem torchvision: operator" in stdout


def test_a_wrong_answer_is_a_problem(monkeypatch):
    monkeypatch.setattr(torchvision.ops, "nms", lambda *_: torch.tensor([0]))
    assert findings()["torchvision"].status == "problem"


@pytest.mark.parametrize(
    ("module", "name", "status"),
    [("timm", "timm", "problem"), ("faiss", "faiss", "warning"), ("PIL", "images", "problem")],
)
def test_a_missing_library_is_named_and_the_rest_is_tried(monkeypatch, module, name, status):
    monkeypatch.setitem(sys.modules, module, None)
    seen = findings()
    assert seen[name].status == status
    assert seen[name].remedy
    assert seen["memory"].detail


def test_little_memory_little_disk_and_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("M", "available total")(1e9, 8e9))
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("D", "free")(5e8))
    seen = findings()
    assert (seen["memory"].status, seen["memory"].detail) == ("warning", "1.0 GB of 8.0 GB are free")
    assert seen["feature cache"].status == seen["current folder"].status == "warning"
    (tmp_path / "file").touch()
    monkeypatch.setenv("SELMIX_CACHE", "/proc/nowhere")
    assert findings()["feature cache"].status == "problem"
    assert "SELMIX_CACHE" in findings()["feature cache"].remedy


def test_more_threads_than_cores_are_slow(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert findings()["threads"].remedy.endswith("OMP_NUM_THREADS=2")
