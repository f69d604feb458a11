"""Weights from the hub: from its cache without a network; else one question, one clear line, and no waiting."""

import logging
import socket
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from builders import scattered
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from selmix.backbones import hub, load_backbone
from selmix.errors import DataError

NAME = "resnet10t.c3_in1k"
REPO = f"timm/{NAME}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and an endpoint where nobody listens, whatever the machine that the tests run on has."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return scattered(timm.create_model("resnet10t"), 0).eval()


def put(cache: Path, model: torch.nn.Module, file: str = "model.safetensors") -> Path:
    """Put weights where the hub's client puts its downloads."""
    repo = cache / f"models--{REPO.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    path = repo / "snapshots" / ("0" * 40) / file
    path.parent.mkdir(parents=True)
    save = safetensors.torch.save_file if file.endswith(".safetensors") else torch.save
    save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", [NAME, "resnet10t"])
def test_cached_weights_need_no_network(cache, model, file, name):
    put(cache, model, file)
    backbone = load_backbone(f"timm:{name}")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone.model(x), expected)
    assert backbone.head is None  # of the classes of ImageNet
    assert backbone.unnamed_classes == 0
    assert backbone.preprocessing["mean"] == (0.485, 0.456, 0.406)


def test_the_hub_and_a_file_give_the_same_digest(cache, model):
    path = put(cache, model)
    assert load_backbone(f"timm:{NAME}").digest == load_backbone(f"timm:{NAME}@{path}").digest


def test_a_damaged_cache_is_named(cache, model):
    path = put(cache, model)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged or no checkpoint") as caught:
        load_backbone(f"timm:{NAME}")
    assert str(path) in str(caught.value)


def test_cached_weights_of_another_model_are_one_line(cache):
    put(cache, timm.create_model("resnet18"))
    with pytest.raises(DataError, match=f"{NAME}.*@FILE") as caught:
        load_backbone(f"timm:{NAME}")
    assert "\n" not in str(caught.value)


def assert_refused_at_once(capfd, caplog, *, within: float) -> str:
    caplog.set_level(logging.INFO)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_backbone(f"timm:{NAME}")
    assert time.monotonic() - started < within
    message = str(caught.value)
    assert message.startswith(f"the weights of {NAME} cannot be fetched (")
    assert message.endswith(f"); download them elsewhere and use timm:{NAME}@FILE")
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert not caplog.messages
    return message


def test_no_network_is_one_line_without_noise(capfd, caplog):
    assert_refused_at_once(capfd, caplog, within=2)


def test_a_hub_that_does_not_answer_is_not_waited_for(capfd, caplog, monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_refused_at_once(capfd, caplog, within=3)


def test_offline_mode_is_respected(capfd, caplog, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in assert_refused_at_once(capfd, caplog, within=2)


def test_what_is_not_cached_is_asked_for_and_downloaded(tmp_path, monkeypatch, model):
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), path)
    asked, fetched = [], []

    def metadata(url: str, timeout: float) -> None:
        asked.append(url.removeprefix(constants.ENDPOINT))
        if url.endswith(".safetensors"):
            raise EntryNotFoundError("404")

    monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *words, revision: fetched.append(words) or str(path))
    assert hub.hub_weights(NAME) == path
    # where the hub serves a file of a repository's main branch
    assert [url.split("/resolve/main/")[1] for url in asked] == ["model.safetensors", "pytorch_model.bin"]
    assert fetched == [(REPO, "pytorch_model.bin")]


def test_a_repository_without_weights_is_named(monkeypatch):
    def metadata(url: str, timeout: float) -> None:
        raise EntryNotFoundError("404")

    monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)
    with pytest.raises(DataError, match=f"{REPO} has none of model.safetensors, pytorch_model.bin.*@FILE"):
        hub.hub_weights(NAME)


def test_models_that_are_not_on_the_hub_have_no_file_there():
    assert hub.hub_weights("cifar_resnet20") is None
    assert hub.cached_weights("cifar_resnet20") is None
