"""Features in blocks of rows, gathered from several arrays, and larger than the memory that is allowed."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from selmix.features import rows as rows_module
from selmix.features.rows import StackedRows, gather, row_blocks
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means

FEATURES = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
LABELS = torch.arange(23) % 4
FORMS = {"whole": FEATURES, "stacked": StackedRows([FEATURES[:9], FEATURES[9:9], FEATURES[9:]])}


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
# all but a thousand rows are holes of the file, zeros
expected = val.double().sum(0) / (n + 1000)
assert torch.allclose(space.centre.double(), expected, rtol=1e-5, atol=1e-9)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is that of Linux")
@pytest.mark.parametrize(("megabytes", "fits"), [(64, True), (4, False)])
def test_a_file_larger_than_the_memory_that_is_allowed(tmp_path, megabytes, fits):
    path = tmp_path / "features"
    with path.open("wb") as file:
        file.truncate(100_000 * 512 * 4)  # 205 MB of holes
    path.chmod(0o400)
    child = [sys.executable, "-c", MEMORY, path, str(megabytes)]
    finished = subprocess.run(child, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"}, check=False)
    assert (finished.returncode == 0) == fits, finished.stderr
