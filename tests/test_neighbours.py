"""Neighbours are scikit-learn's, with faiss and without; nobody is a neighbour of himself, and nan of nobody."""

import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from selmix.neighbours import NeighbourIndex


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
