"""Files that others made: whatever their bytes are, the answer is a typed error, in bounded memory."""

import io
import json
import multiprocessing
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import write_backbone_folder, write_image_folder, write_npz
from PIL import Image
from test_feature_file import ready

from selmix.backbones import load_backbone_folder
from selmix.checkpoints import read_state_dict
from selmix.data.arrays import read_npz
from selmix.data.sources import open_images
from selmix.errors import DataError
from selmix.features.file import load_features


@pytest.mark.parametrize("key", ["sha256", "class_names", "mean"])
def test_a_manifest_without_a_key_is_refused_by_its_name(tmp_path, key):
    write_backbone_folder(tmp_path / "net")
    path = tmp_path / "net" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"lacks {key}"):
        load_backbone_folder(tmp_path / "net")


def test_a_backbone_folder_without_weights_is_refused(tmp_path):
    write_backbone_folder(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_backbone_folder(tmp_path / "net")


@pytest.mark.parametrize(
    "content", [b"", b"hello garbage", b"(dp0\n", b"<!DOCTYPE html>\n<html>", bytes(range(255, 0, -1))]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_no_checkpoint(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        read_state_dict(path)


def test_a_checkpoint_with_numbers_for_names_is_refused(tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match="no state dict"):
        read_state_dict(tmp_path / "x.pth")


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.randn(3, 2), "b": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(DataError):
            read_state_dict(path)


def test_a_single_array_under_an_npz_name_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="no .npz of named arrays"):
        read_npz(tmp_path / "x.npz")


def test_a_zip_of_other_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train_features.npy", "not an array")
        archive.writestr("train_labels.npy", "neither")
    with pytest.raises(DataError, match="no .npz of named arrays"):
        load_features(tmp_path / "x.npz")


@pytest.mark.parametrize("field", ["encrypted", "unknown compression"])
def test_a_damaged_zip_header_is_refused(tmp_path, field):
    offset, bits = {"encrypted": (6, 1), "unknown compression": (8, 77)}[field]
    raw = bytearray(write_npz(tmp_path / "x.npz", {"a": np.arange(3)}).read_bytes())
    central = raw.index(b"PK\x01\x02")
    for start in (0, central + 2):
        raw[start + offset] |= bits
    (tmp_path / "x.npz").write_bytes(raw)
    with pytest.raises(DataError, match="not a readable"):
        read_npz(tmp_path / "x.npz")


def _load_limited(path, answer):
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    try:
        load_features(Path(path))
    except BaseException as error:
        answer.put(type(error).__name__)


def test_a_huge_label_costs_no_memory(tmp_path):
    arrays = ready(class_names=None, head_weight=None, head_bias=None)
    arrays["train_labels"][0] = 10**12
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_load_limited, args=(str(write_npz(tmp_path / "x.npz", arrays)), answer))
    process.start()
    process.join(30)
    assert process.exitcode == 0, f"killed after 20 CPU seconds, exit code {process.exitcode}"
    assert answer.get(timeout=1) == "DataError"


def test_features_beyond_float32_are_refused(tmp_path):
    arrays = ready(val_features=1e300 * ready()["val_features"].astype(np.float64))
    with pytest.raises(DataError, match="val_features"):
        load_features(write_npz(tmp_path / "x.npz", arrays))


@pytest.fixture
def one_image(tmp_path):
    write_image_folder(tmp_path, {"train": {"a": 1, ".cache": 1}})
    return tmp_path / "train" / "a" / "0.png"


def opened(path):
    return np.asarray(open_images(str(path.parents[2])).splits["train"].images.open(0))


def test_sixteen_bit_grey_keeps_its_greys(one_image):
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(one_image)
    # 32768 / 65535 of 255 is 127.5
    assert np.abs(opened(one_image)[0].astype(int) - [[0] * 3, [127] * 3, [255] * 3]).max() <= 1


def test_a_transparent_palette_is_read_without_a_warning(one_image):
    image = Image.open(one_image).quantize(8)
    image.save(one_image, transparency=bytes([0, 128, 255, 255, 0, 0, 0, 0]))
    assert opened(one_image).shape[2] == 3


def test_floating_point_pixels_are_refused(one_image):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(one_image, format="TIFF")
    with pytest.raises(DataError, match="floating-point"):
        opened(one_image)


def test_hidden_folders_are_logged_once(one_image, caplog):
    with caplog.at_level("WARNING", logger="selmix"):
        open_images(str(one_image.parents[2]))
    assert len(caplog.records) == 1
