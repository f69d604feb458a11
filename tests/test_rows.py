"""Features in blocks of rows, gathered from several arrays, and larger than the memory that is allowed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from selmix.features import rows as rows_module
from selmix.features.rows import MappedRows, PickedRows, StackedRows, dense, gather, pick, read_dtype, row_blocks
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means

ROOT = str(Path(__file__).parent.parent)
FEATURES = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
LABELS = torch.arange(23) % 4
BACKWARDS = torch.arange(22, -1, -1)
with tempfile.TemporaryFile() as _file:
    MAP = np.memmap(_file, np.float32, "w+", shape=FEATURES.shape)
MAP[:] = FEATURES
FORMS = {
    "whole": FEATURES,
    "mapped": MappedRows(MAP),
    "mapped part": StackedRows([FEATURES[:9], MappedRows(MAP[9:])]),
    "stacked": StackedRows([FEATURES[:9], FEATURES[9:9], FEATURES[9:]]),
    "many": StackedRows(list(FEATURES.split(2))),
    "nested": StackedRows([FEATURES[:4], StackedRows([FEATURES[4:9], PickedRows(FEATURES, torch.arange(9, 23))])]),
    "picked": PickedRows(StackedRows([FEATURES.flip(0)[:6], FEATURES.flip(0)[6:]]), BACKWARDS),
}


@pytest.fixture(params=[1, 12, 50, 1 << 22])
def _cells(request, monkeypatch):
    monkeypatch.setattr(rows_module, "CELLS", request.param)


@pytest.fixture(params=FORMS)
def features(request):
    return FORMS[request.param]


def test_stacked_rows_tell_their_form():
    stacked = FORMS["stacked"]
    assert stacked.shape == (23, 5)
    assert len(stacked) == 23
    assert stacked.dtype == torch.float32
    assert stacked.device == FEATURES.device


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["whole", "stacked", "picked"])
def test_rows_are_read_as_float32_whatever_they_are_stored_in(dtype, form):
    stored = FEATURES.to(dtype)
    other = {"whole": stored, "stacked": StackedRows([stored[:9], FEATURES[9:]]), "picked": None}[form]
    if other is None:
        other = PickedRows(StackedRows([stored]), torch.arange(23))
    expected = stored.float()
    if form == "stacked":
        expected[9:] = FEATURES[9:]
    assert read_dtype(other) == torch.float32
    assert torch.equal(gather(other, torch.arange(23)), expected)
    assert torch.equal(torch.cat([rows for _, rows in row_blocks(other)]), expected)
    assert torch.equal(dense(other), expected)
    assert gather(other, torch.arange(2)).dtype == dense(other).dtype == torch.float32
    assert gather(FEATURES.double(), torch.arange(2)).dtype == torch.float64


def resident_pages() -> int:
    """Return the bytes of files in the memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is resident is asked of Linux")
@pytest.mark.parametrize("reading", ["blocks", "rows"])
def test_of_a_map_a_bounded_part_is_resident(tmp_path, monkeypatch, reading):
    monkeypatch.setattr(rows_module, "_SCATTERED", 8)
    (tmp_path / "map").write_bytes(bytes(1 << 26))
    array = np.memmap(tmp_path / "map", np.float16, "c", shape=(1 << 16, 512))
    order = torch.randperm(len(array), generator=torch.Generator().manual_seed(0)).split(256)

    def growth(features) -> int:
        before, most = resident_pages(), 0
        for part in row_blocks(features) if reading == "blocks" else (gather(features, own) for own in order):
            assert len(part)
            most = max(most, resident_pages() - before)
        return most

    assert growth(MappedRows(array)) < 1 << 25
    assert growth(torch.from_numpy(array)) > 7 << 23  # the test would notice: a plain map stays, 64 MB of it


def test_only_parts_that_are_hit_are_touched():
    class Guarded(torch.Tensor):
        def index_select(self, *_):
            raise AssertionError("read a part without hits")

    stacked = StackedRows([FEATURES[:9], FEATURES[9:14].as_subclass(Guarded), FEATURES[14:]])
    asked = torch.tensor([20, 0, 8, 14])
    assert torch.equal(gather(stacked, asked), FEATURES[asked])
    with pytest.raises(AssertionError, match="without hits"):
        gather(stacked, torch.tensor([9]))


def test_picking_copies_from_one_tensor_and_refers_to_several():
    asked = torch.tensor([22, 3, 3, 10])
    assert isinstance(pick(FEATURES, asked), torch.Tensor)
    for form in FORMS.values():
        assert torch.equal(dense(pick(form, asked)), FEATURES[asked])
        assert torch.equal(dense(pick(pick(form, asked), torch.tensor([1, 3]))), FEATURES[[3, 10]])
    assert pick(FORMS["stacked"], asked).base is FORMS["stacked"]
    assert pick(FORMS["picked"], asked).base is FORMS["picked"].base


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize(
    "positions", [None, torch.tensor([22, 0, 0, 9, 8, 3, 17]), torch.tensor([], dtype=torch.int64)]
)
def test_blocks_are_the_rows_in_order(features, positions):
    expected = FEATURES if positions is None else FEATURES[positions]
    found = torch.full_like(expected, torch.nan)
    for block, rows in row_blocks(features, positions):
        assert rows.numel() <= max(5, rows_module.CELLS)
        found[block] = rows
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 4), (0,)])
def test_gathered_rows_lie_where_they_were_asked_for(features, shape):
    positions = torch.randint(23, shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gather(features, positions), FEATURES[positions])


@pytest.mark.parametrize("position", [-1, 23])
def test_rows_that_do_not_exist_are_refused(features, position):
    with pytest.raises(IndexError, match="out of range"):
        gather(features, torch.tensor([3, position]))


@pytest.mark.usefixtures("_cells")
def test_statistics_do_not_depend_on_blocks(features):
    exact = FEATURES.double().numpy()
    space = FeatureSpace.fit(features)
    np.testing.assert_allclose(space.centre, exact.mean(0), rtol=1e-6)
    assert space.scale == pytest.approx(float(exact.var(0).sum() ** 0.5), rel=1e-12)
    expected = np.stack([exact[label == LABELS].mean(0) for label in range(4)])
    np.testing.assert_allclose(class_means(features, LABELS, 4), expected, rtol=1e-12)


@pytest.mark.usefixtures("_cells")
def test_scale_of_sorted_blocks_far_apart_and_far_from_the_origin():
    # a block per cluster: all spread is between blocks, then hardly any
    for apart in (100.0, 0.0):
        far = (torch.arange(3).repeat_interleave(10) * apart + 1e6)[:, None] + torch.arange(30)[:, None] % 2
        expected = far.double().numpy().std()
        assert FeatureSpace.fit(far).scale == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize("positions", [None, torch.tensor([4, 4, 21])])
def test_predictions_are_those_of_the_decoded_head(features, positions):
    space = FeatureSpace.fit(FEATURES)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    expected = space.decode_head(weight).predict(FEATURES if positions is None else FEATURES[positions])
    assert torch.equal(space.predict(weight, features, positions=positions), expected)


MEMORY = """
import resource, sys
import numpy as np
import torch
from selmix.descent import cross_entropy_step_
from selmix.features.pool import Pool
from selmix.features.rows import StackedRows
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.pairs import ClassMembers
from selmix.stage2.batches import PairBatches

torch.set_num_threads(1)
n, d, k = 100_000, 512, 20
train = torch.from_numpy(np.memmap(sys.argv[1], np.float32, "c", shape=(n, d)))
val = torch.randn(1000, d, generator=torch.Generator().manual_seed(0))
pool, labels = StackedRows([train, val]), torch.arange(n + 1000) % k

# the kernel may keep pages of the file; what counts is what the process asks for itself
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (int(sys.argv[2]) << 20),) * 2)
space = FeatureSpace.fit(pool)
means = class_means(pool, labels, k)
members = [ClassMembers.from_labels(labels, k)] * 6
batches = PairBatches(Pool(pool), space, members, 64, 0.6, torch.Generator().manual_seed(0), torch.zeros(k))
weights = torch.zeros(6, k, d + 1)
for features, targets in batches.draw(torch.full((k, k), k**-2.0, dtype=torch.float64), 50):
    cross_entropy_step_(weights, features, targets, rate=0.1)
predictions = space.predict(weights[-1], pool)
assert len(predictions) == n + 1000 and weights.isfinite().all() and weights.abs().sum() > 0
# all but the first row and a thousand are holes of the file, zeros
expected = (val.double().sum(0) + train[0].double()) / (n + 1000)
assert torch.allclose(space.centre.double(), expected, rtol=1e-5, atol=1e-9)
"""


TUNING = """
import resource, sys
import numpy as np
import torch
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.rows import StackedRows
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.pipeline import tune
from selmix.stage2 import evidence
from selmix.stage2.settings import RefineSettings

torch.set_num_threads(1)
evidence._JUDGED_TRAIN = evidence._JUDGED_VAL = 2000
n, d, k = 100_000, 512, 10
whole = np.memmap(sys.argv[1], np.float32, "c", shape=(n, d))
half = torch.from_numpy(np.memmap(sys.argv[1], np.float16, "c", shape=(2 * n, d)))[:1000]
features = StackedRows([torch.from_numpy(whole[:70_000]), half, StackedRows([torch.from_numpy(whole[70_000:])])])
generator = torch.Generator().manual_seed(0)
labels = torch.arange(n + 1000) % k
test = torch.randn(500, d, generator=generator)
splits = {"train": LabeledFeatures(features, labels, views=features), "test": LabeledFeatures(test, labels[:500])}
head = LinearHead(torch.randn(k, d, generator=generator), torch.zeros(k))
ids = {name: ["x"] * len(split.labels) for name, split in splits.items()}
data = FeatureData([str(label) for label in range(k)], splits, ids, head=head)
settings = RefineSettings(folds=2, steps=4, refresh=2, start_steps=4, batch_size=8)
torch.randn(64, 64) @ torch.randn(64, 64)

used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (int(sys.argv[2]) << 20),) * 2)
done = tune(data, METRICS["mean_recall"], settings, seed=0)
assert done.support["train"].sum() + done.support["val"].sum() == n + 1000
assert done.head.weight.isfinite().all()
"""

# a freed block raises the size from which glibc takes new ones apart from its heap, and what is free inside the heap
# still counts: with fixed thresholds the need of a process is the same every time
FIXED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is that of Linux")
@pytest.mark.parametrize(
    ("script", "megabytes", "fits"), [(MEMORY, 32, True), (MEMORY, 4, False), (TUNING, 80, True), (TUNING, 8, False)]
)
def test_a_file_larger_than_the_memory_that_is_allowed(tmp_path, script, megabytes, fits):
    path = tmp_path / "features"
    with path.open("wb") as file:
        file.write(FEATURES.abs().half().numpy().tobytes())  # finite numbers as float32, too
        file.truncate(100_000 * 512 * 4)  # 205 MB, of holes
    path.chmod(0o400)
    child = [sys.executable, "-c", script, path, str(megabytes)]
    environment = FIXED | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}
    finished = subprocess.run(child, capture_output=True, text=True, env=environment, check=False)
    assert (finished.returncode == 0) == fits, finished.stderr
    assert fits or "memory" in finished.stderr
