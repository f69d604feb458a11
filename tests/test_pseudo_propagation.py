"""Label propagation: the dense closed form, what no head may know, and a case where neighbours alone are wrong."""

import math

import numpy as np
import pytest
import torch

from selmix.errors import UsageError
from selmix.features.rows import StackedRows
from selmix.pseudo.propagation import AffinityGraph, PropagationSettings
from selmix.pseudo.voting import VoteSettings, VotingBank

UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)
LABELS = torch.tensor([0] * 12 + [1] * 6 + [2] * 3)
FOLDS = torch.tensor([0, 1, 2] * 6 + [0, 1, -1])


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + 1


def closed_form(seeds, prior, *, count, temperature, alpha):
    """Return normalised rows of (1 - alpha) (I - alpha S)^-1 Y over 21 labeled samples and 15 of the pool."""
    labeled, pool = features(21, 0).double(), features(15, 1).double()
    centre = sum(labeled[c == LABELS].mean(0) for c in range(3)) / 3
    rows = torch.cat([labeled, pool]) - centre
    rows = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    cosine = rows @ rows.T
    ties = np.zeros((36, 36))
    for i in range(36):
        others = sorted((j for j in range(36) if j != i), key=lambda j: -cosine[i, j])
        for j in others[:count]:
            ties[i, j] = math.exp((cosine[i, j] - 1) / temperature)
    ties = ties + ties.T
    degrees = ties.sum(1)
    normalised = ties / np.sqrt(degrees[:, None] * degrees)
    start = np.zeros((36, 3))
    for i in seeds:
        start[i, LABELS[i]] = float(prior[LABELS[i]]) / sum(int(LABELS[j] == LABELS[i]) for j in seeds)
    spread = (1 - alpha) * np.linalg.inv(np.eye(36) - alpha * normalised) @ start
    return torch.from_numpy(spread / spread.sum(1, keepdims=True)).float()


@pytest.mark.parametrize("cells", [1 << 26, 36], ids=["at_once", "class_by_class"])
@pytest.mark.parametrize("excluded", [-1, 1, 3])
def test_it_is_the_closed_form_for_every_head(excluded, cells, monkeypatch):
    monkeypatch.setattr("selmix.pseudo.propagation._CELLS", cells)
    monkeypatch.setattr("selmix.features.rows.CELLS", 4 * 10)
    settings = PropagationSettings(count=4, temperature=0.3, alpha=0.8, steps=100)
    pool = features(15, 1)
    graph = AffinityGraph(features(21, 0), LABELS, StackedRows([pool[:4], pool[4:]]), 3, settings, folds=FOLDS)
    found = graph.propagate(excluded=excluded)
    seeds = [i for i in range(21) if FOLDS[i] == -1 or FOLDS[i] != excluded]
    for prior in (UNIFORM, torch.tensor([0.1, 0.2, 0.7])):
        expected = closed_form(seeds, prior, count=4, temperature=0.3, alpha=0.8)
        torch.testing.assert_close(found.probabilities(prior), expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            found.probabilities(prior, rows=slice(21, 30)), expected[21:30], atol=1e-4, rtol=1e-3
        )
    assert len(found) == 36


def test_a_head_does_not_see_the_labels_of_its_fold():
    def judged(labels: torch.Tensor) -> torch.Tensor:
        graph = AffinityGraph(features(21, 0), labels, features(15, 1), 3, PropagationSettings(count=4), folds=FOLDS)
        # labels move the centre, too: the graph is to be the same
        graph.affinity = AffinityGraph(features(21, 0), LABELS, features(15, 1), 3, PropagationSettings(4)).affinity
        return graph.propagate(excluded=0).probabilities(UNIFORM)

    other = torch.where(FOLDS == 0, (LABELS + 1) % 3, LABELS)
    assert torch.equal(judged(LABELS), judged(other))
    assert not torch.equal(judged(LABELS), judged(torch.where(FOLDS == 1, (LABELS + 1) % 3, LABELS)))


def test_only_the_likeliest_classes_are_kept(monkeypatch):
    monkeypatch.setattr("selmix.pseudo.propagation._KEPT", 2)
    monkeypatch.setattr("selmix.pseudo.propagation._CELLS", 36)
    graph = AffinityGraph(features(21, 0), LABELS, features(15, 1), 3, PropagationSettings(4, 0.3, 0.8, 100))
    whole = closed_form(range(21), UNIFORM, count=4, temperature=0.3, alpha=0.8)
    least = whole.argmin(1, keepdim=True)
    expected = whole.scatter(1, least, 0)
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(graph.propagate().probabilities(UNIFORM), expected, atol=1e-4, rtol=1e-3)


def test_a_class_reaches_along_the_pool_where_no_label_is_near():
    # two arcs on the sphere of cosines: labels at one end of each; the far end is nearer to the other label
    angle = torch.linspace(0, 2.6, 120)
    arcs = torch.cat([torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, z)], 1) for z in (0.25, -0.25)])
    arcs[120:, :2] *= -1
    labeled, labels = arcs[[0, 120]], torch.tensor([0, 1])
    truth = torch.tensor([0] * 120 + [1] * 120)
    graph = AffinityGraph(labeled, labels, arcs, 2, PropagationSettings(count=4, alpha=0.99, steps=400))
    prior = torch.ones(2) / 2
    spread = graph.propagate().probabilities(prior, rows=slice(2, None)).argmax(1)
    voted = VotingBank(labeled, labels, 2).search(arcs, VoteSettings()).probabilities(prior).argmax(1)
    assert float((spread == truth).double().mean()) == 1
    assert float((voted == truth).double().mean()) < 0.7


def test_nobody_and_nothing():
    settings = PropagationSettings(count=50)
    # fewer samples than neighbours; a row of nan is tied to nobody
    pool = torch.tensor([[1.0, 0.1], [math.nan, 0.0], [-1.0, 0.1]])
    graph = AffinityGraph(torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 1]), pool, 3, settings)
    found = graph.propagate().probabilities(UNIFORM)
    assert found[[0, 1, 2, 4]].argmax(1).tolist() == [0, 1, 0, 1]
    assert found[3].tolist() == [0, 0, 0]
    assert found[:, 2].tolist() == [0] * 5
    alone = AffinityGraph(pool[:1], torch.tensor([0]), pool[:0], 2, settings).propagate().probabilities(UNIFORM[:2])
    assert alone.tolist() == [[1, 0]]
    empty = AffinityGraph(pool[:0], torch.empty(0, dtype=torch.int64), pool, 2, settings)
    assert empty.propagate().probabilities(UNIFORM[:2]).tolist() == [[0, 0]] * 3
    with pytest.raises(UsageError, match="count must .* temperature must .* alpha must .* steps must"):
        PropagationSettings(count=0, temperature=0, alpha=1, steps=0)
