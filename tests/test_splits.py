"""The stratified holdout: counts by hand, two disjoint parts, one seed."""

import numpy as np
import pytest

from selmix.data.splits import stratified_holdout
from selmix.errors import DataError


def holdout(counts: list[int], fraction: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split shuffled labels of the given class counts; return labels, kept and held-out positions."""
    labels = np.random.default_rng(99).permutation(np.repeat(np.arange(len(counts)), counts))
    names = [f"class{label}" for label in range(len(counts))]
    return labels, *stratified_holdout(labels, names, fraction=fraction, generator=np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("counts", "fraction", "held_out_counts"),
    [
        ([100, 40, 10], 0.2, [20, 8, 2]),
        ([7, 8], 0.3, [2, 2]),  # 2.1 and 2.4
        ([9, 9], 0.5, [4, 4]),  # 4.5 goes to the even neighbour
        ([2, 3], 0.01, [1, 1]),  # at least one
        ([2, 3], 0.99, [1, 2]),  # never all
    ],
)
def test_counts_by_hand(counts, fraction, held_out_counts):
    labels, kept, held_out = holdout(counts, fraction)
    assert np.bincount(labels[held_out]).tolist() == held_out_counts
    assert np.bincount(labels[kept]).tolist() == [n - h for n, h in zip(counts, held_out_counts, strict=True)]


def test_parts_are_ascending_disjoint_and_complete():
    labels, kept, held_out = holdout([50, 20, 5], 0.3)
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert sorted([*kept, *held_out]) == list(range(len(labels)))


def test_the_choice_follows_the_generator():
    first, again, other = (holdout([200, 100], 0.25, seed=seed)[2] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_every_sample_is_held_out_equally_often():
    # each of 10 samples is among the 3 held out with probability 3/10; 6 sigma of a binomial of 2000
    times = np.zeros(10)
    for seed in range(2000):
        chosen = stratified_holdout(
            np.zeros(10, dtype=np.int64), ["only"], fraction=0.3, generator=np.random.default_rng(seed)
        )[1]
        times[chosen] += 1
    assert np.abs(times - 600).max() < 6 * (2000 * 0.3 * 0.7) ** 0.5


def test_a_lone_sample_may_stay():
    labels = np.array([0, 1, 0, 2, 0, 2])
    kept, held_out = stratified_holdout(
        labels, "abcd", fraction=0.4, generator=np.random.default_rng(0), lone_stay=True
    )
    assert np.bincount(labels[held_out], minlength=4).tolist() == [1, 0, 1, 0]
    assert sorted([*kept, *held_out]) == list(range(6))
    with pytest.raises(DataError, match="no class has two samples"):
        stratified_holdout(labels[1:4], "abcd", fraction=0.4, generator=np.random.default_rng(0), lone_stay=True)


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_that_cannot_be_split_is_refused_by_name(count):
    with pytest.raises(DataError, match=f"class1 has {count} ") as caught:
        holdout([5, count, 5], 0.2)
    assert caught.value.exit_code == 3
