"""What a training sample is worth as evidence: against scipy, and in cases whose answer is known beforehand."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from selmix.worth import training_worth

# the candidates for tau that the module states: 41 from 1 to 10^5, evenly spaced in the logarithm
SHIFTS = [10 ** (step / 8) for step in range(41)]


def worth(train: list[tuple[int, int]], val: list[tuple[int, int]]) -> list[float]:
    """Return the worth from (right, count) of every class in train and in val."""
    columns = (torch.tensor(column).double() for part in (train, val) for column in zip(*part, strict=True))
    return training_worth(*columns).tolist()


def naive_likelihood(train: list[tuple[int, int]], val: list[tuple[int, int]], tau: float) -> float:
    """Return the log-likelihood of the validation counts, by scipy's beta-binomial law."""
    total = 0.0
    for (train_right, count), (right, val_count) in zip(train, val, strict=True):
        value = 1 / (1 + count / tau)
        total += stats.betabinom(val_count, 1 + value * train_right, 1 + value * (count - train_right)).logpmf(right)
    return total


def random_counts(rng: np.random.Generator, shift: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return counts of 6 classes whose training recall is off by about `shift`; some classes lack samples."""
    recall = rng.uniform(0.2, 0.8, 6)
    moved = (recall + shift * rng.uniform(0.5, 1, 6)).clip(0, 1)
    train_count, val_count = rng.integers(1, 300, 6), rng.integers(0, 30, 6)
    train_count[0] = val_count[1] = 0
    train = [(int(rng.binomial(n, p)), int(n)) for n, p in zip(train_count, moved, strict=True)]
    return train, [(int(rng.binomial(n, p)), int(n)) for n, p in zip(val_count, recall, strict=True)]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_the_likeliest_shift_is_that_of_scipys_beta_binomial(seed, shift):
    train, val = random_counts(np.random.default_rng(seed), shift)
    tau = max(SHIFTS, key=lambda candidate: naive_likelihood(train, val, candidate))
    assert worth(train, val) == pytest.approx([1 / (1 + count / tau) for _, count in train], rel=1e-9)


def test_one_validation_sample_by_hand():
    # the law of a single sample: right with probability (1 + w c) / (2 + w n), which for c = n rises with w and for
    # c = 0 falls with it. So of 8 training samples the largest tau, 10^5, and the smallest, 1, are the likeliest
    assert worth([(8, 8)], [(1, 1)]) == pytest.approx([1 / (1 + 8e-5)])
    assert worth([(0, 8)], [(0, 1)]) == pytest.approx([1 / (1 + 8e-5)])
    assert worth([(0, 8)], [(1, 1)]) == pytest.approx([1 / 9])
    assert worth([(8, 8)], [(0, 1)]) == pytest.approx([1 / 9])


@pytest.mark.parametrize("recall", [0.0, 1.0])
def test_recalls_of_0_or_1_on_both_sides_are_no_sign_of_a_shift(recall):
    counts = [(int(200 * recall), 200), (int(10 * recall), 10)]
    assert min(worth(counts, [(int(20 * recall), 20)] * 2)) > 0.99


def test_equal_recalls_make_all_samples_count_the_same_and_contradicting_ones_almost_nothing():
    same = worth([(80, 100), (300, 500), (9, 10)], [(16, 20), (12, 20), (18, 20)])
    assert min(same) > 0.98
    apart = worth([(100, 100), (500, 500), (10, 10)], [(6, 20), (4, 20), (5, 20)])
    assert apart[0] < 0.05
    assert apart[1] < 0.01


def test_the_worth_falls_with_the_gap_between_the_recalls():
    # 200 of 200 in training against ever fewer of 20 in validation, in 5 classes
    falling = [worth([(200, 200)] * 5, [(right, 20)] * 5)[0] for right in (20, 18, 16, 12, 8)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 0.95
    assert falling[-1] < 0.05


def test_one_shift_for_all_classes_so_large_classes_are_worth_less_a_sample_but_not_in_all():
    value = torch.tensor(worth([(90, 100), (900, 1000), (9, 10)], [(12, 20), (13, 20), (11, 20)])).double()
    count = torch.tensor([100.0, 1000, 10]).double()
    # 1 / worth - 1 = n / tau
    torch.testing.assert_close((1 / value - 1) / count, ((1 / value - 1) / count)[:1].expand(3))
    assert (value * count).argsort().tolist() == [2, 0, 1]


def test_without_validation_every_sample_counts():
    assert worth([(3, 10), (0, 0)], [(0, 0), (0, 0)]) == [1, 1]


def test_a_class_that_nobody_judged_in_training_says_nothing_and_is_worth_one():
    # the second class alone would be the strongest contradiction
    with_it = worth([(80, 100), (0, 0)], [(16, 20), (0, 2000)])
    assert with_it == pytest.approx([worth([(80, 100)], [(16, 20)])[0], 1])


@pytest.mark.parametrize("right", [0, 10_000_000])
def test_extreme_counts_are_finite(right):
    (value,) = worth([(right, 10_000_000)], [(right, 1_000_000)])
    assert math.isfinite(value)
    assert 0 < value <= 1
    # a class of ten million is worth tau validation samples at most
    assert value * 1e7 <= 1e5 * (1 + 1e-9)


def errors_of_estimates(inflation: float, seed: int) -> tuple[float, float, float]:
    """Return the mean squared error of recalls from weighed evidence and from validation alone, and the mean worth."""
    rng = np.random.default_rng(seed)
    recall = rng.uniform(0.3, 0.8, 10)
    train_count, val_count = np.geomspace(500, 20, 10).astype(int), np.full(10, 20)
    train_right = rng.binomial(train_count, recall + inflation * (1 - recall))
    val_right = rng.binomial(val_count, recall)
    omega = training_worth(
        *(torch.from_numpy(part).double() for part in (train_right, train_count, val_right, val_count))
    )
    omega = omega.numpy()
    weighed = (val_right + omega * train_right) / (val_count + omega * train_count)
    errors = [float(((estimate - recall) ** 2).mean()) for estimate in (weighed, val_right / val_count)]
    return errors[0], errors[1], float(omega.mean())


def test_exchangeable_training_samples_halve_the_error_and_inflated_ones_do_no_harm():
    weighed, alone, value = np.mean([errors_of_estimates(0.0, seed) for seed in range(60)], axis=0)
    assert weighed < 0.5 * alone
    assert value > 0.6
    weighed, alone, value = np.mean([errors_of_estimates(0.8, seed) for seed in range(60)], axis=0)
    assert weighed < 1.3 * alone
    assert value < 0.1
