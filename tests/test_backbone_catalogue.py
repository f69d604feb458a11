"""What backbones there are, and `selmix backbones`."""

import json
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants
from typer.testing import CliRunner

import selmix
from selmix.backbones.catalogue import own_architectures, shipped_backbones, timm_backbones
from selmix.commands import app
from selmix.errors import UsageError

ROOT = Path(selmix.__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(cache: Path, name: str) -> None:
    repo = cache / f"models--timm--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repo / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"")


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["backbones", *words])
    return result.exit_code, result.stdout, result.stderr


def test_what_ships_is_what_its_manifest_says():
    rows = {row["name"]: row for row in shipped_backbones()}
    assert set(rows) == {"shipped:fashion_resnet32", "shipped:cifar10_lt_mislas"}
    for name, row in rows.items():
        manifest = json.loads((ROOT / "pretrained" / name.removeprefix("shipped:") / "manifest.json").read_text())
        assert [row[key] for key in ("architecture", "licence")] == [manifest["architecture"], "Apache-2.0"]
        assert row["num_features"] == 64
        assert row["input_size"] == manifest["input_size"][1:]
        assert row["num_classes"] == 10
        assert row["test"] == manifest["metrics"]["test"]


def test_our_own_architectures_are_all_that_we_register():
    rows = {row["name"]: row for row in own_architectures()}
    assert set(rows) == {name for name in timm.list_models() if "selmix" in timm.model_entrypoint(name).__module__}
    assert rows["cifar_resnet32"] == {
        "name": "cifar_resnet32",
        "input_size": [32, 32],
        "num_features": 64,
        "parameters": 463_504,  # specs/stage1.md B.2
    }
    assert rows["wrn_28_2"]["num_features"] == 128


def test_cached_weights_are_listed_and_half_a_download_is_not(cache):
    assert timm_backbones() == []
    put(cache, "resnet10t.c3_in1k")
    (cache / "models--timm--resnet18.a1_in1k" / "blobs").mkdir(parents=True)
    (row,) = timm_backbones()
    assert row == {
        "name": "timm:resnet10t.c3_in1k",
        "input_size": [176, 176],
        "licence": "apache-2.0",
        "published": True,
        "cached": True,
    }


def test_a_pattern_lists_published_weights_and_architectures_without(cache):
    put(cache, "resnet10t.c3_in1k")
    rows = {row["name"]: row for row in timm_backbones("*resnet10t")}
    assert rows["timm:resnet10t.c3_in1k"]["cached"]
    assert [row["cached"] for row in timm_backbones("resnet18")] == [False] * len(
        timm.list_models("resnet18", pretrained=True)
    )
    (row,) = timm_backbones("wrn_28_2")
    assert (row["published"], row["cached"]) == (False, False)
    (row,) = timm_backbones("resnet18.a1_in1k")
    assert row["name"] == "timm:resnet18.a1_in1k"


def test_a_pattern_that_nothing_fits_is_refused():
    with pytest.raises(UsageError, match=r"no model that fits 'nonsense'.*'\*nonsense\*'"):
        timm_backbones("nonsense")
    code, stdout, stderr = run("nonsense")
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1


def test_the_command_shows_what_ships_what_is_ours_and_what_is_cached(cache):
    code, stdout, _ = run()
    assert code == 0
    assert "shipped:fashion_resnet32 (Apache-2.0): cifar_resnet32, 28x28 pixels, 64 features" in stdout
    assert "81.2 % mean recall, 27.0 % min recall" in stdout
    assert "wrn_28_2" in stdout
    assert "cache on this machine: none" in stdout
    put(cache, "resnet10t.c3_in1k")
    stdout = run()[1]
    assert "timm:resnet10t.c3_in1k" in stdout
    assert "cached here" in stdout
    assert "none" not in stdout


def test_one_json_document(cache):
    put(cache, "resnet10t.c3_in1k")
    document = json.loads(run("--json")[1])
    assert set(document) == {"shipped", "own", "timm"}
    assert [row["name"] for row in document["timm"]] == ["timm:resnet10t.c3_in1k"]
    assert json.loads(run("resnet18.a1*", "--json")[1])["timm"][0]["name"] == "timm:resnet18.a1_in1k"


def test_a_pattern_is_shown_as_a_table():
    code, stdout, _ = run("wrn_*")
    assert code == 0
    assert "timm:wrn_28_2" in stdout
    assert "none published" in stdout
