"""Ready features in an `.npz`: every fault named, all faults at once, and nothing but a DataError."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import write_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selmix.data import arrays as arrays_module
from selmix.data.arrays import digest_of_arrays
from selmix.errors import DataError
from selmix.features.file import load_features, with_pool_features
from selmix.features.rows import MappedRows
from selmix.ranks import Ranks


def ready(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return faultless arrays of 3 classes and 4 columns with `changes`; None takes a key away."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, rows in (("train", 9), ("val", 6), ("test", 3)):
        arrays[f"{split}_features"] = rng.standard_normal((rows, 4)).astype(np.float32)
        arrays[f"{split}_labels"] = np.arange(rows) % 3
    arrays["unlabeled_features"] = rng.standard_normal((5, 4)).astype(np.float32)
    arrays["head_weight"] = rng.standard_normal((3, 4)).astype(np.float32)
    arrays["head_bias"] = rng.standard_normal(3).astype(np.float32)
    arrays["class_names"] = np.array(["ant", "bee", "cat"])
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def with_value(key: str, index: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    """Return a copy of one faultless array with one entry replaced."""
    array = ready()[key].copy()
    array[index] = value
    return {key: array}


def test_a_faultless_file_comes_back(tmp_path):
    arrays = ready()
    data = load_features(write_npz(tmp_path / "f.npz", arrays))
    assert data.class_names == ["ant", "bee", "cat"]
    assert list(data.splits) == ["train", "val", "test"]
    for split, content in data.splits.items():
        assert torch.equal(content.features, torch.from_numpy(arrays[f"{split}_features"]))
        assert torch.equal(content.labels, torch.from_numpy(arrays[f"{split}_labels"]))
        assert data.ids[split] == [str(row) for row in range(len(content.labels))]
    assert torch.equal(data.head.weight, torch.from_numpy(arrays["head_weight"]))
    assert torch.equal(data.head.bias, torch.from_numpy(arrays["head_bias"]))
    assert data.unlabeled_count == 5
    assert data.digests == {"data": digest_of_arrays(arrays)}


def test_the_pool_comes_back_and_labels_of_it_go_to_the_audit_alone(tmp_path):
    arrays = ready()
    plain = load_features(write_npz(tmp_path / "f.npz", arrays))
    assert torch.equal(plain.unlabeled.features, torch.from_numpy(arrays["unlabeled_features"]))
    assert (plain.unlabeled.views, plain.unlabeled.audit) == (None, None)
    assert plain.ids["unlabeled"] == ["0", "1", "2", "3", "4"]
    labels = np.array([2, -1, 0, 3, 10**12])
    for kind in ("int64", "uint64"):
        own = ready(unlabeled_labels=labels.astype(kind))
        data = load_features(write_npz(tmp_path / "f.npz", own))
        assert data.unlabeled.audit.tolist() == [2, -1, 0, -1, -1]
        assert data.digests == plain.digests
    assert load_features(write_npz(tmp_path / "f.npz", ready(unlabeled_features=WIDE[:, :4]))).digests != plain.digests


def test_an_empty_pool_is_no_fault(tmp_path):
    changes = {"unlabeled_features": np.zeros((0, 4)), "unlabeled_labels": np.zeros(0, int)}
    data = load_features(write_npz(tmp_path / "f.npz", ready(**changes)))
    assert data.unlabeled.features.shape == (0, 4)
    assert (data.unlabeled.audit.tolist(), data.ids["unlabeled"], data.unlabeled_count) == ([], [], 0)


def test_a_pool_of_another_file(tmp_path):
    data = load_features(write_npz(tmp_path / "f.npz", ready()))
    pool = np.arange(8.0).reshape(2, 4)
    own = {"unlabeled_features": pool, "unlabeled_labels": np.array([7, 1])}
    path = write_npz(tmp_path / "p.npz", own | {"more": np.zeros(1)})
    other = with_pool_features(data, path)
    assert other.unlabeled.features.tolist() == pool.tolist()
    assert other.unlabeled.audit.tolist() == [-1, 1]
    assert other.ids == data.ids | {"unlabeled": ["0", "1"]}
    assert other.digests["data"] == data.digests["data"]
    again = with_pool_features(data, write_npz(tmp_path / "q.npz", {"unlabeled_features": pool}))
    assert again.digests == other.digests
    more = with_pool_features(data, write_npz(tmp_path / "q.npz", {"unlabeled_features": pool + 1}))
    assert more.digests != other.digests
    parts = [with_pool_features(replace(data, ranks=Ranks(rank, 3)), path) for rank in range(3)]
    assert [part.unlabeled.features.tolist() for part in parts] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], []]
    assert [part.unlabeled.audit.tolist() for part in parts] == [[-1], [1], []]
    assert [part.ids["unlabeled"] for part in parts] == [["0"], ["1"], []]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((2, 4))}, r"lacks unlabeled_features \(it has features\)"),
        ({"unlabeled_features": np.zeros((2, 5))}, "unlabeled_features has 5 columns, train has 4"),
        ({"unlabeled_features": np.full((2, 4), np.nan)}, r"NaN or infinite values in 2 row\(s\)"),
        ({"unlabeled_features": np.zeros((2, 4)), "unlabeled_labels": np.zeros(3, int)}, "unlabeled_labels has 3 rows"),
    ],
)
def test_a_faulty_pool_of_another_file_is_refused(tmp_path, arrays, message):
    data = load_features(write_npz(tmp_path / "f.npz", ready()))
    with pytest.raises(DataError, match=message):
        with_pool_features(data, write_npz(tmp_path / "p.npz", arrays))


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_test_that_are_elsewhere_are_warned_of(tmp_path, caplog, order):
    arrays = ready()
    load_features(write_npz(tmp_path / "clean.npz", arrays))
    with_pool_features(load_features(write_npz(tmp_path / "clean.npz", arrays)), tmp_path / "clean.npz")
    assert not caplog.text
    arrays["unlabeled_features"][3] = arrays["test_features"][0]
    arrays["train_features"][1:3] = arrays["test_features"][:2]
    arrays["val_features"][0] = arrays["test_features"][2, ::-1]  # the same sum, but not the same row
    arrays = {name: np.asarray(array, order=order) for name, array in arrays.items()}
    data = load_features(write_npz(tmp_path / "leaky.npz", arrays))
    assert "2 row(s) of test are in train and unlabeled, too" in caplog.text
    caplog.clear()
    with_pool_features(data, tmp_path / "leaky.npz")
    assert "1 row(s) of test are in unlabeled, too" in caplog.text


def test_train_alone_is_enough(tmp_path):
    arrays = {key: array for key, array in ready().items() if key.startswith("train")}
    data = load_features(write_npz(tmp_path / "f.npz", arrays))
    assert data.class_names == ["0", "1", "2"]
    assert data.head is None
    assert data.unlabeled_count == 0
    assert list(data.splits) == ["train"]


def test_a_head_gives_the_number_of_classes_and_has_no_bias_by_default(tmp_path):
    data = load_features(write_npz(tmp_path / "f.npz", ready(class_names=None, head_bias=None)))
    assert data.class_names == ["0", "1", "2"]
    assert torch.equal(data.head.bias, torch.zeros(3))


@pytest.mark.parametrize("float_type", ["float16", "float64", ">f4"])
@pytest.mark.parametrize("label_type", ["uint8", "int32", "uint64", ">i8"])
def test_other_number_types_are_accepted(tmp_path, float_type, label_type):
    arrays = {key: array.astype(float_type) for key, array in ready().items() if array.dtype.kind == "f"}
    labels = {key: array.astype(label_type) for key, array in ready().items() if key.endswith("labels")}
    data = load_features(write_npz(tmp_path / "f.npz", ready() | arrays | labels))
    assert data.splits["val"].features.dtype == data.head.weight.dtype == torch.float32
    assert data.splits["val"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(
        data.splits["val"].features, torch.from_numpy(ready()["val_features"]), rtol=1e-3, atol=0
    )


WIDE = np.zeros((3, 5), dtype=np.float32)
FAULTS = {
    "no train features": ({"train_features": None}, ["lacks train_features"]),
    "no train at all": ({"train_features": None, "train_labels": None}, ["lacks train_features, train_labels"]),
    "no val labels": ({"val_labels": None}, ["lacks val_labels"]),
    "no test features": ({"test_features": None}, ["lacks test_features"]),
    "bias without weight": ({"head_weight": None}, ["lacks head_weight"]),
    "unknown key": ({"train_feats": WIDE}, ["unknown keys train_feats", "known:", "train_features"]),
    "missing and unknown": ({"val_labels": None, "extra": WIDE}, ["lacks val_labels", "unknown keys extra"]),
    "flat features": ({"train_features": np.zeros(9)}, ["train_features", "2 dimension", "(9,)"]),
    "image features": ({"val_features": np.zeros((6, 2, 2))}, ["val_features", "2 dimension", "(6, 2, 2)"]),
    "labels in a column": ({"train_labels": np.zeros((9, 1), dtype=int)}, ["train_labels", "1 dimension", "(9, 1)"]),
    "scalar labels": ({"test_labels": np.array(1)}, ["test_labels", "1 dimension", "()"]),
    "no rows": ({"test_features": np.zeros((0, 4))}, ["test_features", "non-empty", "(0, 4)"]),
    "no rows and no columns": ({"unlabeled_features": np.zeros((0, 0))}, ["unlabeled_features", "(0, 0)"]),
    "an empty list": ({"unlabeled_features": np.zeros(0)}, ["unlabeled_features", "2 dimension", "(0,)"]),
    "an empty pool, wider": ({"unlabeled_features": np.zeros((0, 5))}, ["unlabeled_features has 5 columns"]),
    "audit labels alone": (
        {"unlabeled_features": None, "unlabeled_labels": np.zeros(5, int)}, ["lacks unlabeled_features"]
    ),
    "too few audit labels": ({"unlabeled_labels": np.zeros(4, int)}, ["unlabeled_labels has 4 rows"]),
    "float audit labels": ({"unlabeled_labels": np.zeros(5)}, ["unlabeled_labels", "integers", "float64"]),
    "no columns": ({"unlabeled_features": np.zeros((4, 0))}, ["unlabeled_features", "non-empty", "(4, 0)"]),
    "matrix bias": ({"head_bias": np.zeros((3, 1))}, ["head_bias", "1 dimension", "(3, 1)"]),
    "integer features": ({"train_features": np.zeros((9, 4), dtype=int)}, ["train_features", "floats", "int64"]),
    "complex features": ({"val_features": np.zeros((6, 4), dtype=complex)}, ["val_features", "floats", "complex128"]),
    "float labels": ({"train_labels": np.arange(9) % 3 * 1.0}, ["train_labels", "integers", "float64"]),
    "boolean labels": ({"train_labels": np.arange(9) % 2 > 0}, ["train_labels", "integers", "bool"]),
    "byte names": ({"class_names": np.array([b"a", b"b", b"c"])}, ["class_names", "strings", "|S1"]),
    "integer names": ({"class_names": np.arange(3)}, ["class_names", "strings", "int64"]),
    "two bad types": (
        {"train_labels": np.zeros(9), "head_weight": np.zeros(3)},
        ["train_labels must hold integers", "head_weight must be a non-empty array of 2"],
    ),
    "val wider": ({"val_features": np.zeros((6, 5))}, ["val_features has 5 columns", "train_features has 4"]),
    "unlabeled wider": ({"unlabeled_features": WIDE}, ["unlabeled_features has 5 columns"]),
    "head wider": ({"head_weight": WIDE}, ["head_weight has 5 columns"]),
    "labels too short": ({"val_labels": np.arange(5) % 3}, ["val_labels has 5 rows"]),
    "bias of 4": ({"head_bias": np.zeros(4)}, ["head_bias has 4", "head_weight has 3", "class_names has 3"]),
    "names of 2": ({"class_names": np.array(["a", "b"])}, ["class_names has 2", "head_weight has 3"]),
    "several shapes": (
        {"head_weight": WIDE, "val_labels": np.arange(7) % 3, "class_names": np.array(["a"])},
        ["head_weight has 5 columns", "val_labels has 7 rows", "class_names has 1"],
    ),
    "NaN": (with_value("train_features", (4, 2), np.nan), ["train_features", "NaN", "1 row(s)", "first is 4"]),
    "infinite": (with_value("unlabeled_features", (3, 0), -np.inf), ["unlabeled_features", "1 row(s)", "first is 3"]),
    "NaN in the head": (with_value("head_weight", (2, 1), np.nan), ["head_weight", "first is 2"]),
    "NaN in the bias": (with_value("head_bias", (1,), np.nan), ["head_bias", "first is 1"]),
    "negative label": (with_value("val_labels", (0,), -1), ["val_labels must lie in 0..2", "-1..2"]),
    "label too large": (with_value("train_labels", (8,), 3), ["train_labels must lie in 0..2", "0..3"]),
    "huge label": (with_value("test_labels", (0,), 10**12), ["test_labels must lie in 0..2", "1000000000000"]),
    "class missing in val": ({"val_labels": np.array([0, 2] * 3)}, ["val has no sample of class bee"]),
    "class missing in train": ({"train_labels": np.arange(9) % 2}, ["train has no sample of class cat"]),
    "several contents": (
        with_value("test_labels", (1,), 7) | with_value("head_bias", (0,), np.inf) | {"val_labels": np.zeros(6, int)},
        ["val has no sample of class bee, cat", "test_labels must lie in 0..2", "head_bias has NaN or infinite"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path, fault):
    changes, fragments = FAULTS[fault]
    path = write_npz(tmp_path / "f.npz", ready(**changes))
    with pytest.raises(DataError) as caught:
        load_features(path)
    assert caught.value.exit_code == 3
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)


# whole numbers stay small and floats within float32
NUMBERS = {"int8": st.integers(-2, 3), "int64": st.integers(-2, 9), "uint64": st.integers(0, 4), "bool": st.booleans()}
NUMBERS |= {kind: st.floats(-99, 99, width=16) | st.just(np.nan) for kind in ("float16", "float32", "float64")}
NUMBERS |= {"U3": st.sampled_from(["", "a", "bcd"])}
ANY_ARRAY = st.sampled_from(sorted(NUMBERS)).flatmap(
    lambda kind: hnp.arrays(
        kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=NUMBERS[kind]
    )
)
CLOSE = {
    "train_features": hnp.arrays("float32", (4, 2), elements=st.floats(-9, 9, width=16)),
    "train_labels": hnp.arrays("int64", (4,), elements=st.integers(0, 1)),
    "val_features": hnp.arrays("float64", (3, 2), elements=NUMBERS["float64"]),
    "val_labels": hnp.arrays("uint8", (3,), elements=st.integers(0, 2)),
    "head_weight": hnp.arrays("float32", st.tuples(st.integers(1, 3), st.just(2)), elements=NUMBERS["float32"]),
    "head_bias": hnp.arrays("float16", (2,), elements=NUMBERS["float16"]),
    "class_names": hnp.arrays("U3", (2,), elements=NUMBERS["U3"]),
}
DICTS = st.dictionaries(
    st.sampled_from([*CLOSE, "test_features", "other"]), ANY_ARRAY, max_size=5
) | st.fixed_dictionaries(
    {key: CLOSE[key] for key in ("train_features", "train_labels")},
    optional={key: CLOSE[key] | ANY_ARRAY for key in [*CLOSE][2:]},
)


@given(arrays=DICTS)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_small_arrays_load_consistently_or_raise_data_error(tmp_path_factory, arrays):
    path = write_npz(tmp_path_factory.getbasetemp() / "any.npz", arrays)
    try:
        data = load_features(path)
    except DataError:
        return
    for content in data.splits.values():
        assert torch.isfinite(content.features).all()
        assert set(content.labels.tolist()) == set(range(len(data.class_names)))
        assert content.features.shape == (len(content.labels), data.splits["train"].features.shape[1])
    if data.head is not None:
        assert data.head.weight.shape == (len(data.class_names), data.splits["train"].features.shape[1])
        assert data.head.bias.shape == (len(data.class_names),)


def test_large_features_stay_on_disk_and_give_what_small_ones_give(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays_module, "LARGE", 1)
    rng = np.random.default_rng(0)
    arrays = {"train_labels": np.arange(40) % 2, "train_features": rng.normal(size=(40, 3)).astype(np.float16)}
    path = write_npz(tmp_path / "x.npz", arrays)
    mapped = load_features(path)
    monkeypatch.undo()
    whole = load_features(path)
    assert isinstance(mapped.splits["train"].features, MappedRows)
    assert torch.equal(mapped.splits["train"].tensor, whole.splits["train"].features)
    assert mapped.digests == whole.digests
    assert mapped.ids == whole.ids == {"train": [str(row) for row in range(40)]}


def test_damage_to_large_features_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays_module, "LARGE", 1)
    features = np.arange(120, dtype=np.float16).reshape(40, 3)
    path = write_npz(tmp_path / "x.npz", {"train_labels": np.arange(40) % 2, "train_features": features})
    path.write_bytes(path.read_bytes().replace(features.tobytes(), features[::-1].tobytes()))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_features(path)
