"""Arrays on disk: what the digest sees, and that no fault of a file is anything but a DataError."""

import io
import zipfile

import numpy as np
import pytest
from builders import Trap, write_npz

from selmix.data.arrays import digest_of_arrays, read_npz
from selmix.errors import DataError

ARRAYS = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array([0.5, -1.0])}


def test_arrays_come_back(tmp_path):
    read = read_npz(write_npz(tmp_path / "x.npz", ARRAYS))
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_digest_ignores_order_compression_and_memory_layout(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **dict(reversed(ARRAYS.items())))
    expected = digest_of_arrays(ARRAYS)
    assert digest_of_arrays(read_npz(tmp_path / "x.npz")) == expected
    assert digest_of_arrays(ARRAYS | {"a": np.asfortranarray(ARRAYS["a"])}) == expected
    assert len(expected) == 64


@pytest.mark.parametrize(
    "changed",
    [
        ARRAYS | {"b": np.array([0.5, -1.5])},
        ARRAYS | {"b": np.array([-1.0, 0.5])},
        ARRAYS | {"a": ARRAYS["a"].reshape(3, 2)},
        ARRAYS | {"a": ARRAYS["a"].view(np.uint32)},
        {"a": ARRAYS["a"], "c": ARRAYS["b"]},
        {"a": ARRAYS["a"]},
        ARRAYS | {"c": np.empty(0)},
    ],
    ids=["value", "place", "shape", "dtype", "name", "member gone", "empty member more"],
)
def test_digest_changes_with_the_content(changed):
    assert digest_of_arrays(changed) != digest_of_arrays(ARRAYS)


def pickled(tmp_path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([Trap(tmp_path / "executed")], dtype=object))
    return buffer.getvalue()


def plain(tmp_path) -> bytes:
    return write_npz(tmp_path / "plain.npz", ARRAYS).read_bytes()


def flipped(tmp_path) -> bytes:
    # the bytes of the values, which the checksum of the zip member covers
    return plain(tmp_path).replace(ARRAYS["b"].tobytes(), ARRAYS["b"].tobytes()[::-1])


def damaged_deflate(tmp_path) -> bytes:
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(10000))
    with zipfile.ZipFile(tmp_path / "zeros.npz") as archive:
        start = archive.getinfo("a.npy").header_offset + 60
    raw = bytearray((tmp_path / "zeros.npz").read_bytes())
    raw[start : start + 8] = b"\xff" * 8
    return bytes(raw)


FAULTS = {
    "pickled": pickled,
    "flipped": flipped,
    "damaged deflate": damaged_deflate,
    "truncated at the start": lambda path: plain(path)[:100],
    "truncated at the end": lambda path: plain(path)[:-10],
    "text": lambda path: b"train_features,train_labels\n1,2\n",
    "empty": lambda path: b"",
    "bare pickle": lambda path: b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_a_data_error_that_names_it(tmp_path, fault):
    path = tmp_path / "faulty.npz"
    path.write_bytes(FAULTS[fault](tmp_path))
    with pytest.raises(DataError) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)
    assert "np.savez" in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_the_trap_works(tmp_path):
    path = tmp_path / "trap.npz"
    path.write_bytes(pickled(tmp_path))
    with np.load(path, allow_pickle=True) as archive:
        archive["a"]
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(("name", "message"), [("none.npz", "no such file"), (".", "is a folder")])
def test_a_missing_file_is_named(tmp_path, name, message):
    with pytest.raises(DataError, match=message) as caught:
        read_npz(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
