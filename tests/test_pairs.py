import pytest
import torch
from scipy.stats import chisquare

from selmix import pairs as pairs_module
from selmix.pairs import ClassMembers, draw_pairs, pair_distribution, sorting

GAINS = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
LAW = torch.tensor([[0.0, 0.10, 0.25], [0.30, 0.05, 0.0], [0.05, 0.25, 0.0]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts_of(pairs: tuple[torch.Tensor, torch.Tensor], num_classes: int) -> torch.Tensor:
    counts = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    for i, j in zip(*(labels.tolist() for labels in pairs), strict=True):
        counts[i, j] += 1
    return counts


@pytest.fixture
def draw_uniform(monkeypatch):
    """Make torch.rand return one fixed number of [0, 1), of the type and on the device that it is asked for."""

    def fix(value: float) -> None:
        def rand(shape, *, generator, dtype=torch.float32, device="default"):
            assert device == torch.device("cpu")
            return torch.full(shape, value, dtype=dtype, device=device)

        monkeypatch.setattr(torch, "rand", rand)

    return fix


@pytest.mark.parametrize(
    ("inverse_temperature", "exploration", "expected"),
    [
        # s = ln 4, gains over the largest (1, 1/2, -, -): weights 4 and 2, the others are not positive
        (torch.tensor(4.0).log().item(), 0.0, [[2 / 3, 1 / 3], [0, 0]]),
        # the same at 4/5, and 1/5 spread over four pairs
        (torch.tensor(4.0).log().item(), 0.2, [[0.8 * 2 / 3 + 0.05, 0.8 / 3 + 0.05], [0.05, 0.05]]),
        (0.0, 0.0, [[1 / 2, 1 / 2], [0, 0]]),
        (0.0, 0.4, [[0.4, 0.4], [0.1, 0.1]]),
        (1e4, 0.0, [[1, 0], [0, 0]]),
    ],
)
def test_law_by_hand(inverse_temperature, exploration, expected):
    law = pair_distribution(GAINS, inverse_temperature=inverse_temperature, exploration=exploration)
    assert law.dtype == torch.float64
    torch.testing.assert_close(law, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("inverse_temperature", [0.0, 1.0, 30.0, 1e3])
def test_pairs_without_positive_gain_have_exactly_no_mass(inverse_temperature):
    gains = torch.randn(9, 9, generator=generator(1))
    gains[3, 3] = 0
    law = pair_distribution(gains, inverse_temperature=inverse_temperature)
    assert (law[gains <= 0] == 0).all()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    if inverse_temperature <= 30:
        assert (law[gains > 0] > 0).all()


def test_exploration_reaches_every_pair_with_the_stated_mass():
    gains = torch.randn(9, 9, generator=generator(2))
    law = pair_distribution(gains, inverse_temperature=5, exploration=0.3)
    assert float(law[gains <= 0].sum()) == pytest.approx(0.3 * float((gains <= 0).sum()) / 81, rel=1e-12)
    assert float(law.min()) == pytest.approx(0.3 / 81, rel=1e-12)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
def test_law_ignores_the_scale_of_the_gains(scale):
    gains = torch.randn(6, 6, generator=generator(3), dtype=torch.float64)
    law = pair_distribution(gains, inverse_temperature=8, exploration=0.1)
    torch.testing.assert_close(pair_distribution(scale * gains, inverse_temperature=8, exploration=0.1), law)


def test_best_pair_is_exp_s_times_likelier_than_a_vanishing_gain():
    law = pair_distribution(torch.tensor([[5.0, 1e-12]], dtype=torch.float64), inverse_temperature=3)
    assert float(law[0, 0] / law[0, 1]) == pytest.approx(20.085536923187668, rel=1e-9)  # e^3


def test_drawn_pairs_follow_the_law_and_the_test_would_notice_another():
    counts = counts_of(draw_pairs(LAW, 20_000, generator=generator()), 3)
    support = LAW > 0
    assert counts.sum() == 20_000
    assert (counts[~support] == 0).all()
    assert chisquare(counts[support], 20_000 * LAW[support]).pvalue > 1e-3
    # negative controls: kept and partner exchanged; a tenth of one cell moved to another
    exchanged = (LAW.T + 1e-4) / (1 + 9e-4)
    assert chisquare(counts.flatten(), 20_000 * exchanged.flatten()).pvalue < 1e-6
    shifted = LAW.clone()
    shifted[0, 2] *= 0.9
    shifted[1, 0] += 0.1 * LAW[0, 2]
    assert chisquare(counts[support], 20_000 * shifted[support]).pvalue < 1e-3


def test_draws_are_independent_of_each_other():
    # consecutive pairs of draws follow the product law
    kept, partner = draw_pairs(LAW, 40_000, generator=generator(5))
    cell = 3 * kept + partner
    joint = counts_of((cell[::2], cell[1::2]), 9)
    flat = LAW.flatten()
    product = torch.outer(flat, flat)
    assert chisquare(joint[product > 0], 20_000 * product[product > 0]).pvalue > 1e-3


def test_draws_repeat_with_the_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    first, again = (torch.stack(draw_pairs(LAW, 50, generator=generator(7))) for _ in range(2))
    other = torch.stack(draw_pairs(LAW, 50, generator=generator(8)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("uniform", "cell"), [(0.0, (0, 1)), (1 - 2**-53, (2, 1))])
@pytest.mark.parametrize("scale", [1.0, 1 + 2**-52, 1 - 2**-53, 0.1, 3.0])
def test_extreme_uniform_numbers_never_reach_a_cell_without_mass(draw_uniform, uniform, cell, scale):
    # the first and the last cell of the law have no mass; a total off 1 stands for rounding of the sum
    draw_uniform(uniform)
    kept, partner = draw_pairs(scale * LAW, 4, generator=generator())
    assert kept.tolist() == [cell[0]] * 4
    assert partner.tolist() == [cell[1]] * 4


# row masses 0.35, 0.35, 0.3; partners end at 2/7, 1 in row 0, at 6/7, 1 in row 1, at 1/6, 1 in row 2
@pytest.mark.parametrize(
    ("uniform", "cell"),
    [((0.3499, 0.2856), (0, 1)), ((0.3499, 0.2858), (0, 2)), ((0.3501, 0.8571), (1, 0)), ((0.3501, 0.8572), (1, 1)),
     ((0.6999, 0.9999), (1, 1)), ((0.7001, 0.1666), (2, 0)), ((0.7001, 0.1667), (2, 1))],
)  # fmt: skip
def test_pairs_are_drawn_by_inverting_the_law_of_the_row_and_that_of_the_partner(monkeypatch, uniform, cell):
    numbers = torch.tensor(uniform, dtype=torch.float64)[:, None]
    monkeypatch.setattr(torch, "rand", lambda shape, **_: numbers.expand(shape))
    kept, partner = draw_pairs(LAW, 1, generator=generator())
    assert (kept.item(), partner.item()) == cell


@pytest.mark.parametrize("cells", [1, 7, 64])
def test_draws_do_not_depend_on_the_block_size(monkeypatch, cells):
    whole = torch.stack(draw_pairs(LAW, 50, generator=generator(9)))
    monkeypatch.setattr(pairs_module, "_CELLS", cells)
    assert torch.equal(torch.stack(draw_pairs(LAW, 50, generator=generator(9))), whole)


def test_a_law_of_more_than_2_to_the_24_cells_is_drawn_without_bias():
    # rows i and i' of the same eighth have the same mass, so the law of the 8 x 8 blocks is known
    size, blocks = 4104, 8
    coarse = torch.rand(blocks, blocks, generator=generator(1), dtype=torch.float64)
    coarse[2, 5] = coarse[7, 7] = 0
    coarse /= coarse.sum()
    law = coarse.repeat_interleave(size // blocks, 0).repeat_interleave(size // blocks, 1) / (size // blocks) ** 2
    assert law.numel() > 2**24
    kept, partner = draw_pairs(law, 20_000, generator=generator(2))
    counts = counts_of((kept * blocks // size, partner * blocks // size), blocks)
    assert (counts[coarse == 0] == 0).all()
    assert chisquare(counts[coarse > 0], 20_000 * coarse[coarse > 0]).pvalue > 1e-3
    # within a block, cells are equally likely: both positions are uniform, parity included
    for position in (kept, partner):
        within = torch.bincount(position % (size // blocks), minlength=size // blocks)
        assert chisquare(within).pvalue > 1e-3


@pytest.mark.parametrize("exploration", [0.0, 0.3])
def test_pairs_that_are_not_allowed_have_exactly_no_mass(exploration):
    gains = torch.randn(6, 6, generator=generator(4), dtype=torch.float64)
    kept, partner = torch.tensor([1, 0, 1, 1, 0, 1]).bool(), torch.tensor([0, 1, 1, 1, 1, 0]).bool()
    gains[1, 0] = 100  # the best pair of all is not allowed
    law = pair_distribution(gains, inverse_temperature=4, exploration=exploration, allowed=(kept, partner))
    allowed = kept[:, None] & partner
    assert (law[~allowed] == 0).all()
    # the law of a problem that has the allowed rows and columns only
    smaller = pair_distribution(gains[kept][:, partner], inverse_temperature=4, exploration=exploration)
    torch.testing.assert_close(law[kept][:, partner], smaller)
    drawn = draw_pairs(law, 500, generator=generator())
    assert allowed[drawn].all()


def test_the_law_leaves_the_gains_alone():
    gains = torch.randn(5, 5, generator=generator(5), dtype=torch.float64)
    before = gains.clone()
    everything = torch.ones(5, dtype=torch.bool)
    law = pair_distribution(gains, inverse_temperature=4, exploration=0.1, allowed=(everything, everything))
    assert torch.equal(gains, before)
    assert torch.equal(law, pair_distribution(gains, inverse_temperature=4, exploration=0.1))


@pytest.mark.parametrize(
    ("labels", "num_classes"),
    [
        ([40_000, 3, 32_768, 32_767, 3, 0], 40_001),  # beyond what 16 bits hold
        ([2**31 + 5, 3, 2**31, 2**31 - 1, 3, 0], 2**31 + 6),  # and 32
        ([2, 0, 1] * 500, 3),  # many equal ones
    ],
)
def test_labels_are_sorted_as_python_sorts_them_equal_ones_as_they_stand(labels, num_classes):
    order = sorting(torch.tensor(labels), num_classes)
    assert order.tolist() == sorted(range(len(labels)), key=labels.__getitem__)


def test_grouping_by_hand():
    members = ClassMembers.from_labels(torch.tensor([2, 0, 2, 3, 0, 2]), 5)
    assert members.order.tolist() == [1, 4, 0, 2, 5, 3]
    assert members.counts.tolist() == [2, 0, 3, 1, 0]
    assert [members.starts[label].item() for label in (0, 2, 3)] == [0, 2, 5]


@pytest.mark.parametrize("among", [[0, 1, 2, 5], [5, 2, 1, 0], [2], list(range(6))])
def test_grouping_among_some_positions_keeps_their_places_in_the_whole(among):
    labels = torch.tensor([2, 0, 2, 3, 0, 2])
    members = ClassMembers.from_labels(labels, 5, among=torch.tensor(among))
    for label in range(5):
        start, count = int(members.starts[label]), int(members.counts[label])
        own = [position for position in among if labels[position] == label]
        assert members.order[start : start + count].tolist() == own
    assert len(members.order) == int(members.counts.sum()) == len(among)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 5)])
def test_members_belong_to_the_asked_classes_in_the_asked_shape(shape):
    labels = torch.tensor([4, 0, 2, 2, 0, 4, 4, 2, 0, 0, 5])  # classes 1 and 3 are empty
    present = torch.tensor([0, 2, 4, 5])
    classes = present[torch.randint(4, shape, generator=generator(1))]
    drawn = ClassMembers.from_labels(labels, 7).draw(classes, generator=generator(2))
    assert drawn.shape == torch.Size(shape)
    assert torch.equal(labels[drawn], classes)


def test_members_are_uniform_within_their_class_and_all_are_reached():
    labels = torch.randint(4, (60,), generator=generator(3))
    members = ClassMembers.from_labels(labels, 4)
    # asking for class 1 twice as often as class 0 must not change the law within either
    classes = torch.tensor([0, 1, 1, 3]).repeat(6000)
    counts = torch.bincount(members.draw(classes, generator=generator(4)), minlength=60)
    assert (counts[labels == 2] == 0).all()
    for label in (0, 1, 3):
        of_class = counts[labels == label]
        assert len(of_class) > 5
        assert (of_class > 0).all()
        assert of_class.sum() == (classes == label).sum()
        assert chisquare(of_class).pvalue > 1e-3
    # negative control: the test notices one member that is drawn half as often
    dull = counts[labels == 0].double()
    dull[0] *= 0.5
    assert chisquare(dull).pvalue < 1e-3


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, [1, 0, 3]), (1 - 2**-53, [4, 5, 3])])
def test_extreme_uniform_numbers_reach_the_first_and_last_member(draw_uniform, uniform, expected):
    draw_uniform(uniform)
    members = ClassMembers.from_labels(torch.tensor([2, 0, 2, 3, 0, 2]), 4)
    assert members.draw(torch.tensor([0, 2, 3]), generator=generator()).tolist() == expected


def test_a_class_without_samples_cannot_be_drawn():
    members = ClassMembers.from_labels(torch.tensor([2, 0]), 3)
    with pytest.raises(ValueError, match="^cannot draw a member of a class without samples$"):
        members.draw(torch.tensor([0, 1, 2]), generator=generator())


def test_of_several_holders_each_draws_its_own_and_together_they_draw_as_one():
    # the samples of three holders, one after another, as if one held them all; nobody has class 3, one has no class 0
    parts = [torch.tensor([2, 0, 2, 1]), torch.tensor([1, 1, 2]), torch.tensor([4, 0, 2, 2, 0])]
    whole = ClassMembers.from_labels(torch.cat(parts), 5)
    counts = torch.stack([torch.bincount(part, minlength=5) for part in parts])
    classes = torch.tensor([0, 1, 2, 4]).repeat(50).view(20, 10)
    drawn = []
    for rank, part in enumerate(parts):
        own = ClassMembers.from_labels(part, 5).among_others(counts[:rank].sum(0), counts.sum(0))
        drawn.append(own.draw(classes, generator=generator(6)))
        offset = sum(map(len, parts[:rank]))
        drawn[-1] = torch.where(drawn[-1] < 0, drawn[-1], drawn[-1] + offset)
    drawn = torch.stack(drawn)
    assert drawn.shape == (3, 20, 10)
    assert ((drawn == -1).sum(0) == 2).all()
    assert torch.equal(drawn.amax(0), whole.draw(classes, generator=generator(6)))
    assert (drawn > -1).any((1, 2)).all()
