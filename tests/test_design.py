"""The loss that AutoBalance learns, and what is balanced, against the specification's numbers and by hand."""

import json

import pytest
import torch
from torch.nn import functional as F

from selmix.stage1.cells import Goals, cell_numbers
from selmix.stage1.design import LossDesign, LossTables, class_clusters

LOGITS = torch.tensor([[2, 1, 0.1], [0.5, -1, 3], [0, 0, 0], [-1, 2, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 2])
COUNTS = torch.tensor([100, 10, 1])


def design(counts=COUNTS, **options):
    options = {"learn": ("offset", "scale", "weight"), "tau": 0.0} | options
    return LossDesign.begin(counts.view(len(counts), -1), **options)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("alpha", "losses"),
    [  # the specification's shared toy batch
        ({"scale": column(1, 1, 1)}, [0.548538, 3.118565, 1.098612, 1.465092]),
        ({"scale": column(0, 0, 0)}, [0.689777, 2.351952, 1.098612, 1.277976]),
        ({}, [0.417030, 4.095674, 1.098612, 1.741311]),
        ({"tau": torch.tensor(1.0)}, [0.037569, 3.937237, 4.709530, 4.221416]),
        (
            {"scale": column(1, 0, -1), "offset": column(0.3, -0.2, 0.1), "weight": column(1, 2, 3).log()},
            [0.355332, 4.586028, 3.257818, 3.558386],
        ),
    ],
)
def test_losses_as_tabulated(alpha, losses):
    plain = design()
    plain = LossDesign(plain.clusters.double(), plain.log_prior.double(), {}, "sigmoid", 0.0, 0.0)
    assert plain.tables(alpha).losses(LOGITS, LABELS).tolist() == pytest.approx(losses, abs=1e-6)


def test_group_loss_as_tabulated():
    logits = torch.tensor([[1, -0.5], [0.2, 0.7]], dtype=torch.float64)
    cells = cell_numbers(torch.tensor([0, 1]), torch.tensor([0, 1]), num_groups=2)
    table = LossTables(
        torch.tensor([[1, 0], [0.5, -0.5]], dtype=torch.float64).sigmoid(),
        torch.tensor([[0.2, -0.3], [0, 0.4]], dtype=torch.float64),
        torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64),
        torch.zeros(2, 2),
    )
    losses = table.losses(logits, cells)
    assert losses.tolist() == pytest.approx([0.253652, 1.406444], abs=1e-6)
    everyone = torch.arange(2)
    mean = table.objective().share(logits, cells, everyone, epoch=0)
    assert float(mean) == pytest.approx(0.830048, abs=1e-6)
    again = LossTables.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.losses(logits.float(), cells).tolist() == pytest.approx(losses.tolist(), abs=1e-6)


def test_gradients_against_finite_differences():
    free = design(cluster_size=2)
    free = LossDesign(free.clusters.double(), free.log_prior.double(), {}, "sigmoid", 0.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 1, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def losses(scale, offset, weight):
        tables = free.tables({"scale": scale, "offset": offset, "weight": weight})
        return tables.losses(LOGITS, LABELS)

    assert torch.autograd.gradcheck(losses, values)
    # a constant on all offsets changes nothing
    (slope,) = torch.autograd.grad(losses(*values).sum(), values[1])
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)


def test_start_is_logit_adjustment():
    plain = design(learn=("offset", "scale"), tau=1.0, transform="identity")
    prior = COUNTS.float() / 111
    assert plain.start["offset"][:, 0].tolist() == pytest.approx(prior.log().tolist())
    expected = F.cross_entropy(LOGITS.float() + prior.log(), LABELS, reduction="none")
    torch.testing.assert_close(plain.tables(plain.start).losses(LOGITS.float(), LABELS), expected)
    halves = design(learn=("tau",), tau=0.5)
    expected = F.cross_entropy(LOGITS.float() + 0.5 * prior.log(), LABELS, reduction="none")
    torch.testing.assert_close(halves.tables(halves.start).losses(LOGITS.float(), LABELS), expected)
    torch.testing.assert_close(halves.tables({}).losses(LOGITS.float(), LABELS), expected)  # fixed offsets
    weighted = design(transform="softplus").tables(design().start)
    assert weighted.weight.tolist() == [[1], [1], [1]]
    assert weighted.scale[:, 0].tolist() == pytest.approx([1.3132617] * 3)  # log(1 + e)


def test_start_with_groups_and_empty_cells():
    counts = torch.tensor([[6, 0], [2, 2]])
    start = design(counts, learn=("offset",), tau=2.0).start["offset"]
    torch.testing.assert_close(start, 2 * torch.tensor([[0.6, 0.1], [0.2, 0.2]]).log())


def test_clusters_by_hand():
    counts = torch.arange(80, 0, -10)
    values = torch.tensor([1.0, 3])
    assert (class_clusters(counts, size=4) @ values).tolist() == [1, 1, 1, 1, 3, 3, 3, 3]
    line = class_clusters(counts, size=4, expand="linear")
    assert (line @ values).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert (line.flip(0) @ values).tolist() == (
        class_clusters(counts.flip(0), size=4, expand="linear") @ values
    ).tolist()
    assert class_clusters(torch.tensor([5, 5, 9]), size=1).tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]  # ties in order
    assert torch.equal(class_clusters(counts, size=1), class_clusters(counts, size=1, expand="linear"))


@pytest.mark.parametrize("size", [1, 3, 7, 8, 20])
@pytest.mark.parametrize("expand", ["repeat", "linear"])
def test_clusters_of_any_size(size, expand):
    counts = torch.arange(20) * 37 % 11  # unsorted, with ties
    matrix = class_clusters(counts, size=size, expand=expand)
    assert matrix.shape == (20, -(-20 // size))
    assert torch.allclose(matrix.sum(1), torch.ones(20))
    # the values grow with the rank, so that those of classes do not fall with it
    by_rank = (matrix @ torch.arange(matrix.shape[1]).float())[counts.argsort(descending=True, stable=True)]
    assert (by_rank.diff() >= -1e-6).all()
    if expand == "repeat":
        assert set(matrix.unique().tolist()) <= {0.0, 1.0}
        assert matrix.sum(0).tolist() == [size] * (20 // size) + [20 % size] * (20 % size > 0)


@pytest.mark.parametrize(("size", "columns"), [(20, 408), (40, 204)])
def test_clusters_of_inaturalist(size, columns):
    """8142 classes fit no cluster size; the released code fails here."""
    counts = (1000 * 0.998 ** torch.arange(8142).float()).long() + 2
    many = design(counts, cluster_size=size, tau=1.0)
    assert many.clusters.shape == (8142, columns)
    assert many.start["offset"].shape == (columns, 1)
    prior = (counts / counts.sum()).log()
    tables = many.tables(many.start)
    assert torch.allclose(tables.offset[:size, 0], prior[:size].mean())
    assert torch.allclose(tables.offset[-2:, 0], prior[-(8142 % size or size) :].mean())


def test_goals_by_hand():
    # classes and groups of the specification's example: errors [[.10, .30], [.05, .20]]
    sums, counts = torch.tensor([1.0, 6, 2, 1]), torch.tensor([10, 20, 40, 5])
    assert float(Goals(4, 2).of(sums, counts)) == pytest.approx(0.1625)
    assert float(Goals(4, 2, "deo").of(sums, counts)) == pytest.approx(0.35)
    assert float(Goals(4, 2, "accuracy").of(sums, counts)) == pytest.approx(10 / 75)
    blended = Goals(4, 2, "balanced", "deo", 0.2)
    assert float(blended.of(sums, counts)) == pytest.approx(0.8 * 0.1625 + 0.2 * 0.35)
    assert [goals.linear for goals in (blended, Goals(4, 2))] == [False, True]
    # a cell without samples is left out, of the odds as well
    counts = torch.tensor([10, 20, 40, 0])
    assert float(Goals(4, 2).of(sums, counts)) == pytest.approx((0.1 + 0.3 + 0.05) / 3)
    assert float(Goals(4, 2, "deo").of(sums, counts)) == pytest.approx(0.2)
    assert float(
        Goals(6, 2, "deo").of(torch.cat([sums, sums[:2]]), torch.tensor([10, 20, 40, 5, 0, 0]))
    ) == pytest.approx(0.35)
