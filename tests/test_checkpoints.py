"""Weights on disk: read without executing anything, fitted strictly, written whole."""

import argparse
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from builders import Trap
from torch import nn

from selmix.checkpoints import (
    file_digest,
    load_strictly,
    read_metadata,
    read_state_dict,
    save_tensors,
    write_atomically,
)
from selmix.errors import DataError

STATE = {"stem.weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7), "half": torch.ones(2).bfloat16()}
WRAPPED = {f"module.{name}": tensor for name, tensor in STATE.items()}
FORMS = {
    "top level": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 3, "best_prec1": 92.6},
    "model": {"model": STATE, "optimizer": {"lr": 0.1}},
    "module. prefix": WRAPPED,
    "state_dict with module. prefix": {"state_dict": WRAPPED},
}


def assert_is_state(read: dict[str, torch.Tensor]) -> None:
    assert read.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_checkpoints_of_every_form_are_read(tmp_path, form, zipped):
    torch.save(FORMS[form], tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    assert_is_state(read_state_dict(tmp_path / "model.pth"))


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert_is_state(read_state_dict(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, zipped):
    path, mark = tmp_path / "model.pth", tmp_path / "executed"
    torch.save(STATE | {"trap": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match="more than plain tensors") as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap does not work"


CONTENTS = {
    "a pickle": pickle.dumps({"weight": [1.0, 2.0]}, protocol=2),
    "half a checkpoint": None,
    "zeros": bytes(100),
    "half a zip": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", CONTENTS)
def test_garbage_is_named(tmp_path, content, suffix):
    path = tmp_path / f"model{suffix}"
    save_tensors(STATE, path, {}) if suffix == ".safetensors" else torch.save(STATE, path)
    path.write_bytes(CONTENTS[content] or path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {"weight": torch.zeros(3), "epoch": 3}, {"model": {"epoch": 3}}, 5]
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(DataError, match="holds no state dict"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match="no such checkpoint") as caught:
        read_state_dict(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_a_fitting_state_is_loaded_whole():
    model = net()
    state = {name: torch.full_like(tensor, 3) for name, tensor in model.state_dict().items()}
    load_strictly(model, state, source="x.pth")
    assert len(state) == 7
    assert all((tensor == 3).all() for tensor in model.state_dict().values())


def test_every_misfit_is_listed_and_nothing_is_loaded():
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    state["0.weight"] = torch.zeros(3, 2)
    state["extra"] = state.pop("1.running_var")
    with pytest.raises(DataError) as caught:
        load_strictly(model, state, source="x.pth")
    message = str(caught.value)
    assert message.startswith("x.pth does not fit Sequential: ")
    assert "missing 1.running_var;" in message
    assert "unexpected extra" in message
    assert "misshapen 0.weight" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value):
    model = net()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["1.running_mean"][1] = value
    with pytest.raises(DataError, match="does not fit Sequential: not finite 1.running_mean$"):
        load_strictly(model, state, source="x.pth")


def test_a_file_older_than_the_batch_counters_is_loaded():
    model = net()
    state = {name: tensor + 3 for name, tensor in model.state_dict().items()}
    del state["1.num_batches_tracked"]
    load_strictly(model, state, source="x.pth")
    assert int(model.state_dict()["1.num_batches_tracked"]) == 0
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_long_list_of_misfits_is_cut():
    with pytest.raises(DataError, match=r"missing 0\.weight, .*1\.running_mean and 1 more"):
        load_strictly(net(), {}, source="x.pth")


def test_saved_tensors_carry_metadata_and_leave_no_other_file(tmp_path):
    transposed = nn.Parameter(torch.arange(6.0).view(2, 3)).T
    metadata = {"metric": "min_recall", "class_names": ["ant", "bee"]}
    save_tensors({"weight": transposed}, tmp_path / "head.safetensors", metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
    with safetensors.safe_open(tmp_path / "head.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["selmix"]) == metadata
        assert file.get_tensor("weight").tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "abcdef":
        save_tensors(STATE, tmp_path / name, {str(key): key for key in range(6)})
    assert len({file_digest(tmp_path / name) for name in "abcdef"}) == 1


@pytest.mark.parametrize(("content", "expected"), [("new é", "new é".encode()), (b"\x00new", b"\x00new")])
def test_writing_replaces_the_file(tmp_path, content, expected):
    path = tmp_path / "result.json"
    path.write_text("old and longer")
    write_atomically(path, content)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_an_open_reader_keeps_the_old_content(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with path.open() as reader:
        write_atomically(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_file_digest_is_the_published_sha256_of_abc(tmp_path):
    # FIPS 180-4 example
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_prefixes_of_wrappers_in_front_are_cut_and_those_inside_are_not(tmp_path, prefix):
    state = STATE | {"inner.module.weight": torch.ones(1)}
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model.pth")
    assert read_state_dict(tmp_path / "model.pth").keys() == state.keys()


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    torch.save(STATE | WRAPPED, tmp_path / "model.pth")
    with pytest.raises(DataError, match="with and without the prefix"):
        read_state_dict(tmp_path / "model.pth")


OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model_state_dict": STATE, "epoch": 1},
        {"ema_model": STATE},
        {"model_ema": STATE},
        {"state_dict_ema": STATE},
        {"state_dict_ema": OTHER, "state_dict": STATE},
        {"ema_model": OTHER, "model": STATE},
    ],
)
def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    assert_is_state(read_state_dict(tmp_path / "model.pth"))


@pytest.mark.parametrize("numpy_1", [False, True])
def test_options_and_numpy_scalars_beside_the_tensors_are_no_hindrance(tmp_path, numpy_1):
    figures = {"args": argparse.Namespace(lr=0.1), "ece": np.float64(2.5), "best": np.float32(1), "hit": np.bool_(True)}
    path = tmp_path / "model.pth"
    torch.save({"state_dict": STATE, "epoch": np.int64(3)} | figures, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert raw.count(b"numpy._core.multiarray") >= 1
    if numpy_1:
        path.write_bytes(raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_is_state(read_state_dict(path))


def mislas() -> dict[str, object]:
    """Return a checkpoint in the form of MiSLAS: 3 classes on 2 features."""
    return {
        "epoch": 10,
        "state_dict_model": {f"module.{name}": tensor for name, tensor in STATE.items()},
        "state_dict_classifier": {
            "module.fc.weight": torch.tensor([[1.0, 2], [3, 4], [5, 6]]),
            "module.fc.bias": torch.tensor([1.0, 2, 3]),
        },
        "state_dict_lws_model": {"module.learned_norm": torch.tensor([[2.0, 3, -1]])},
        "best_acc1": torch.tensor(82.5),
        "its_ece": np.float64(3.66),
    }


def test_the_split_dicts_of_mislas_become_one_and_the_scale_goes_into_the_head(tmp_path):
    torch.save(mislas(), tmp_path / "model.pth")
    state = read_state_dict(tmp_path / "model.pth", classifier="linear")
    head = {name: state.pop(name) for name in ("linear.weight", "linear.bias")}
    assert_is_state(state)
    features = torch.tensor([0.5, -1.0])
    # by hand: W h + b = (1 * .5 - 2 + 1, 3 * .5 - 4 + 2, 5 * .5 - 6 + 3) = (-.5, -.5, -.5), times (2, 3, -1)
    torch.testing.assert_close(head["linear.weight"] @ features + head["linear.bias"], torch.tensor([-1.0, -1.5, 0.5]))


def test_a_mislas_checkpoint_of_stage_one_has_no_scale(tmp_path):
    content = mislas()
    del content["state_dict_lws_model"]
    torch.save(content, tmp_path / "model.pth")
    state = read_state_dict(tmp_path / "model.pth")
    assert torch.equal(state["fc.weight"], content["state_dict_classifier"]["module.fc.weight"])
    assert torch.equal(state["fc.bias"], content["state_dict_classifier"]["module.fc.bias"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict_block": {"conv1.weight": torch.zeros(1)}}, "state_dict_block, an extra block"),
        ({"state_dict_classifier": {"fc.weight": torch.zeros(3, 2)}}, "no linear classifier"),
        ({"state_dict_classifier": {"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(2)}}, "no linear class"),
        ({"state_dict_classifier": None}, "no linear classifier"),
        ({"state_dict_lws_model": {"learned_norm": torch.ones(1, 4)}}, "no scale of 3 classes"),
        ({"state_dict_lws_model": {"a": torch.ones(3), "b": torch.ones(3)}}, "no scale of 3 classes"),
        ({"state_dict_model": 5}, "holds no state dict"),
    ],
)
def test_a_faulty_mislas_checkpoint_is_refused(tmp_path, changes, message):
    torch.save(mislas() | changes, tmp_path / "model.pth")
    with pytest.raises(DataError, match=message):
        read_state_dict(tmp_path / "model.pth")


def test_metadata_are_read_back_and_foreign_files_have_none(tmp_path):
    save_tensors(STATE, tmp_path / "ours.safetensors", {"class_names": ["a", "b"]})
    assert read_metadata(tmp_path / "ours.safetensors") == {"class_names": ["a", "b"]}
    safetensors.torch.save_file(STATE, tmp_path / "theirs.safetensors", {"format": "pt"})
    safetensors.torch.save_file(STATE, tmp_path / "odd.safetensors", {"selmix": "no json"})
    torch.save(STATE, tmp_path / "model.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    for name in ("theirs.safetensors", "odd.safetensors", "model.pth", "broken.safetensors", "none.safetensors"):
        assert read_metadata(tmp_path / name) == {}
