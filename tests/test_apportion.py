"""Sharing a number out: exact in sum, fair on average, never more than there is."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from selmix.apportion import own_share, random_shift


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_shares_add_up_and_are_their_mean_rounded_up_or_down(own, data):
    everyone = sum(own)
    wanted = data.draw(st.integers(0, everyone))
    totals = [0] * len(own)
    for shift in range(max(everyone, 1)):
        numbers = [torch.tensor([value]) for value in (wanted, everyone, shift)]
        shares = [
            int(own_share(numbers[0], torch.tensor([sum(own[:rank])]), torch.tensor([own[rank]]), *numbers[1:]))
            for rank in range(len(own))
        ]
        assert sum(shares) == wanted
        assert all(0 <= share <= count for share, count in zip(shares, own, strict=True))
        for rank, share in enumerate(shares):
            mean = Fraction(wanted * own[rank], max(everyone, 1))
            assert mean.__floor__() <= share <= mean.__ceil__()
            totals[rank] += share
    if everyone:  # over all shifts each rank gets its mean
        assert [Fraction(total, everyone) for total in totals] == [Fraction(wanted * count, everyone) for count in own]


def test_shifts_lie_below_the_number_of_all():
    everyone = torch.tensor([0, 1, 5, 5, 5] * 200)
    shifts = random_shift(everyone, generator=torch.Generator().manual_seed(0))
    assert shifts[everyone < 2].tolist() == [0] * 400
    assert set(shifts[everyone == 5].tolist()) == set(range(5))


def test_one_sample_of_one_holder_and_none_of_none():
    one, none = torch.tensor([1]), torch.tensor([0])
    assert own_share(one, none, one, one, none).tolist() == [1]
    shares = own_share(none, none, none, none, none)
    assert shares.tolist() == [0]
    assert shares.dtype == torch.int64


def test_shifts_repeat_with_their_generator_and_reach_odd_numbers_of_large_totals():
    everyone = torch.full((2000,), 2**40)
    first, again, other = (random_shift(everyone, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.45 < float((first % 2).double().mean()) < 0.55  # five standard deviations of 1/2
