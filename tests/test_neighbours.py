"""Neighbours are scikit-learn's, with faiss and without; nobody is a neighbour of himself, and nan of nobody."""

import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from selmix.features.rows import StackedRows
from selmix.neighbours import NeighbourIndex, _leading_directions, search_kind

KINDS = ["flat", "shortlist", "lists"]


@pytest.fixture(params=["faiss", "torch", "macos"])
def _engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)
        monkeypatch.setattr("selmix.neighbours._CELLS", 7 * 50)
    if request.param == "macos":
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("faiss.IndexFlat", None)  # must not be reached


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("_engine")
def test_the_nearest_are_scikit_learns():
    bank, queries = rows(50, 0), rows(20, 1)
    found = NeighbourIndex(bank, euclidean=True).search(queries, 5)
    distances, positions = NearestNeighbors(n_neighbors=5).fit(bank.numpy()).kneighbors(queries.numpy())
    assert (found.positions.numpy() == positions).all()
    np.testing.assert_allclose(found.values, distances**2, rtol=1e-4)
    products = (queries.double() @ bank.double().T).numpy()
    found = NeighbourIndex(bank).search(queries, 5)
    order = np.argsort(-products, 1)[:, :5]
    assert (found.positions.numpy() == order).all()
    np.testing.assert_allclose(found.values, np.take_along_axis(products, order, 1), rtol=1e-5)


@pytest.mark.usefixtures("_engine")
def test_what_is_missing_is_minus_one_and_nan_is_nobodys_neighbour():
    bank = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [0.5, 0.0]])
    queries = torch.tensor([[1.0, 0.0], [float("nan"), 1.0], [-1.0, float("inf")]])
    found = NeighbourIndex(bank).search(queries, 4)
    assert found.positions.tolist() == [[0, 2, -1, -1], [-1] * 4, [-1] * 4]
    assert found.values[0].tolist() == [1.0, 0.5, -np.inf, -np.inf]
    assert (found.values[1:] == -np.inf).all()
    assert NeighbourIndex(torch.empty(0, 2)).search(queries, 2).positions.tolist() == [[-1, -1]] * 3
    assert NeighbourIndex(bank, euclidean=True).search(queries, 4).values[0].tolist() == [0, 0.25, np.inf, np.inf]


@pytest.mark.usefixtures("_engine")
def test_a_query_is_left_out_by_its_number_even_if_a_twin_is_found_before_it():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = NeighbourIndex(bank).search(bank[:2], 2, own=torch.tensor([0, 1]))
    assert found.positions.tolist() == [[1, 2], [0, 2]]
    # position 3 is no neighbour of the first two in any case: the best remain
    found = NeighbourIndex(bank).search(bank[:1], 2, own=torch.tensor([3]))
    assert sorted(found.positions[0].tolist()) == [0, 1]


def test_lists_find_what_lies_close():
    bank = torch.nn.functional.normalize(rows(3000, 2))
    near = torch.nn.functional.normalize(bank + 0.01 * rows(3000, 3))
    found = NeighbourIndex(bank, kind="lists").search(near, 1).positions[:, 0]
    assert float((found == torch.arange(3000)).float().mean()) > 0.97


def clustered(count: int, seed: int, *, power: float = 1.0) -> torch.Tensor:
    """Return rows of 20 classes whose directions matter less and less, [count, 40]."""
    generator = torch.Generator().manual_seed(seed)
    fading = torch.arange(1, 41) ** -power
    means = torch.randn(20, 40, generator=torch.Generator().manual_seed(99)) * fading
    labels = torch.randint(20, (count,), generator=generator)
    return means[labels] + fading * torch.randn(count, 40, generator=generator)


def nearest(bank: torch.Tensor, queries: torch.Tensor, count: int, *, euclidean: bool) -> np.ndarray:
    """Return the positions of the nearest rows by all similarities in float64, the nearest first."""
    rows, asked = bank.double().numpy(), queries.double().numpy()
    away = ((asked[:, None] - rows) ** 2).sum(2) if euclidean else -asked @ rows.T
    return np.argsort(away, 1, kind="stable")[:, :count]


def recall(found: torch.Tensor, expected: np.ndarray) -> float:
    """Return the share of the expected positions that were found."""
    return float((expected[:, :, None] == found.numpy()[:, None]).any(2).mean())


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize(("kind", "bound"), [("flat", 1.0), ("shortlist", 0.97), ("lists", 0.7)])
def test_the_kinds_find_most_of_a_neighbourhood(kind, bound, euclidean):
    bank, queries = clustered(2000, 0), clustered(200, 1)
    found = NeighbourIndex(bank, euclidean=euclidean, kind=kind).search(queries, 10)
    assert recall(found.positions, nearest(bank, queries, 10, euclidean=euclidean)) >= bound
    pairs = queries[:, None].double(), bank[found.positions].double()
    exact = (pairs[0] - pairs[1]).square().sum(2) if euclidean else (pairs[0] * pairs[1]).sum(2)
    torch.testing.assert_close(found.values.double(), exact, rtol=1e-4, atol=1e-4)
    assert (found.values.diff(dim=1) * (1 if euclidean else -1) >= 0).all()


def test_a_shortlist_is_made_where_it_is_shorter_and_nowhere_else(monkeypatch):
    monkeypatch.setattr("selmix.neighbours._LISTED", 1)
    bank, queries = clustered(2000, 0), clustered(200, 1)
    expected = nearest(bank, queries, 10, euclidean=False)
    assert 0.6 < recall(NeighbourIndex(bank, kind="shortlist").search(queries, 10).positions, expected) < 0.99
    # most directions matter: all rows are judged by all of them
    bank, queries = clustered(2000, 0, power=0.25), clustered(200, 1, power=0.25)
    assert 20 < len(_leading_directions(bank)) < 40
    found = NeighbourIndex(bank, kind="shortlist").search(queries, 10).positions
    assert recall(found, nearest(bank, queries, 10, euclidean=False)) == 1


def test_the_leading_directions_are_the_fewest_that_miss_little():
    bank = clustered(300, 2).double()
    kept = _leading_directions(bank.float()).double()
    torch.testing.assert_close(kept @ kept.T, torch.eye(len(kept)).double(), rtol=0, atol=1e-5)

    def missed(directions: torch.Tensor) -> float:
        along = bank @ directions.T
        return float((bank @ bank.T - along @ along.T).square().mean().sqrt() / bank.square().sum(1).mean())

    fewer = np.linalg.svd(bank.numpy(), full_matrices=False)[2][: len(kept) - 1]
    assert missed(kept) <= 0.01 < missed(torch.from_numpy(fewer))


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_out_the_query_and_what_is_not_finite_and_pads(kind):
    bank = clustered(400, 3)
    bank[::50, 7] = float("nan")
    known = [position for position in range(400) if position % 50]
    index = NeighbourIndex(bank, kind=kind)
    found = index.search(bank, 5, own=torch.arange(400)).positions
    assert (found[::50] == -1).all()
    assert not (found == torch.arange(400)[:, None]).any()
    assert not ((found >= 0) & (found % 50 == 0)).any()
    others = nearest(bank[known], bank[known], 400, euclidean=False)
    expected = [
        [known[other] for other in row if known[other] != own][:5] for own, row in zip(known, others, strict=True)
    ]
    assert recall(found[known], np.array(expected)) > 0.8
    many = index.search(bank[1:3], 450)
    there = many.positions >= 0
    assert (many.positions[:, -58:] == -1).all()
    assert (many.values[~there] == -np.inf).all()
    assert many.values[there].isfinite().all()
    assert (there.sum(1) == 392).all() or kind == "lists"
    few = NeighbourIndex(bank[1:3], kind=kind).search(bank[1:3], 4).positions
    assert few.sort().values.tolist() == [[-1, -1, 0, 1]] * 2
    assert NeighbourIndex(torch.zeros(3, 8), kind=kind).search(torch.zeros(1, 8), 2).values.tolist() == [[0, 0]]
    assert NeighbourIndex(torch.empty(0, 8), kind=kind).search(torch.zeros(1, 8), 2).positions.tolist() == [[-1, -1]]


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_files_and_a_second_index_find_the_same(kind, monkeypatch, tmp_path):
    bank, own = clustered(1000, 4), torch.arange(100) * 3
    queries = bank[own] + 0.01 * clustered(100, 5)
    at_once = NeighbourIndex(bank, kind=kind).search(queries, 6, own=own)
    queries.numpy().tofile(tmp_path / "queries")
    mapped = torch.from_numpy(np.memmap(tmp_path / "queries", np.float32, "c", shape=(100, 40)))
    monkeypatch.setattr("selmix.features.rows.CELLS", 7 * 40)
    for given in mapped, StackedRows([mapped[:33], mapped[33:]]), queries.double():
        found = NeighbourIndex(bank, kind=kind).search(given, 6, own=own)
        assert (found.positions == at_once.positions).float().mean() > 0.999  # sums of another order may tie
        torch.testing.assert_close(found.values, at_once.values)


def test_search_is_exact_up_to_ten_to_the_twelfth_products(monkeypatch):
    assert search_kind(10**5, 10**5, 100) == "flat"
    assert search_kind(10**5, 10**5 + 1, 100) == "shortlist"
    assert search_kind(10**5, 10**6, 384) == "shortlist"
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert search_kind(10**5, 10**6, 384) == "flat"
