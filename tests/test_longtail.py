import re

import numpy as np
import pytest
import scipy.stats

from selmix.data.longtail import disjoint_class_draws, exponential_counts, pareto_counts, step_counts
from selmix.errors import UsageError

# specs/stage1.md E.1: smallest / largest count f = 1 / imbalance_factor, CIFAR-10 counts, their sum, the CIFAR-100 sum
# and its last count
COMMUNITY = [
    (200, [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25], 11203, 9502, 2),
    (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 12406, 10847, 5),
    (50, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100], 13996, 12608, 10),
    (20, [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250], 17023, 15907, 25),
    (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], 20431, 19573, 50),
]


@pytest.mark.parametrize(("factor", "counts", "total", "total_100", "last_100"), COMMUNITY)
def test_counts_are_the_communitys(factor, counts, total, total_100, last_100):
    assert exponential_counts(5000, factor, 10) == counts
    assert sum(counts) == total
    hundred = exponential_counts(500, factor, 100)
    assert len(hundred) == 100
    assert sum(hundred) == total_100
    assert (hundred[0], hundred[-1]) == (500, last_100)
    assert hundred == sorted(hundred, reverse=True)


def test_factor_one_is_balanced():
    assert exponential_counts(37, 1, 4) == [37] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5000, 0.01, 10), r"imbalance_factor must be finite and >= 1.*got 0\.01; did you mean 100\?"),
        ((5000, 0.5, 10), r"got 0\.5; did you mean 2\?"),
        ((5000, 0, 10), r"imbalance_factor must be finite and >= 1 \(head count / tail count\), got 0$"),
        ((5000, -3, 10), r"imbalance_factor must be finite and >= 1 \(head count / tail count\), got -3$"),
        ((5000, 100, 1), r"at least 2 classes, got num_classes=1"),
        # int(50 / 100) = 0 images
        ((50, 100, 10), r"leaves the smallest class empty; raise head_count"),
    ],
)
def test_impossible_profiles_are_refused_with_the_remedy(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        exponential_counts(*arguments)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("per_class", "starts"),
    [
        # specs/stage1.md E.1: successive in-place shuffles of arange by RandomState(0)
        (5000, [[398, 3833, 4836, 4572, 636, 2545], [597, 332, 521, 3935, 4800, 1102]]),
        (500, [[90, 254, 283, 445, 461, 15], [277, 307, 436, 88, 261, 57]]),
    ],
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_first_split_is_the_communitys_choice(per_class, starts, interleaved):
    labels = np.tile([0, 1], per_class) if interleaved else np.repeat([0, 1], per_class)
    chosen = disjoint_class_draws(labels, {"train": [6, 6]}, seed=0)["train"]
    assert labels[chosen].tolist() == [0] * 6 + [1] * 6
    position = chosen // 2 if interleaved else chosen % per_class
    assert position.reshape(2, 6).tolist() == starts


def random_source(seed: int = 0) -> np.ndarray:
    """Return 900 labels of 3 classes in disorder, 200, 300 and 400 of them."""
    labels = np.repeat([0, 1, 2], [200, 300, 400])
    return labels[np.random.RandomState(seed).permutation(900)]


def test_splits_are_disjoint_and_have_the_asked_counts():
    labels = random_source()
    wanted = {"train": [50, 20, 0], "validation": [7, 7, 7], "test": [143, 273, 393]}
    splits = disjoint_class_draws(labels, wanted, seed=3)
    assert list(splits) == list(wanted)
    for name, counts in wanted.items():
        assert np.bincount(labels[splits[name]], minlength=3).tolist() == counts
    together = np.concatenate(list(splits.values()))
    # the asked counts use up the source
    assert sorted(together.tolist()) == list(range(900))


def test_later_split_grows_without_touching_an_earlier_one():
    labels = random_source()
    small = disjoint_class_draws(labels, {"train": [50, 20, 5], "validation": [4, 4, 4]}, seed=0)
    large = disjoint_class_draws(labels, {"train": [50, 20, 5], "validation": [9, 30, 4]}, seed=0)
    alone = disjoint_class_draws(labels, {"train": [50, 20, 5]}, seed=0)
    assert large["train"].tolist() == small["train"].tolist() == alone["train"].tolist()
    assert set(small["validation"]) < set(large["validation"])


def test_smaller_profiles_are_nested_class_by_class():
    labels = random_source()
    large = disjoint_class_draws(labels, {"train": [200, 100, 50]}, seed=0)["train"]
    small = disjoint_class_draws(labels, {"train": [200, 20, 2]}, seed=0)["train"]
    assert set(small) < set(large)


def test_seeds_choose_differently_and_the_global_stream_is_left_alone():
    before = np.random.get_state()[1].tolist()
    first, again, other = (
        disjoint_class_draws(random_source(), {"train": [20, 20, 20]}, seed=seed)["train"].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert np.random.get_state()[1].tolist() == before


def test_asking_for_more_than_there_is_names_the_class_and_both_counts():
    message = "class 1 has 300 images, the splits ask for 301; lower the counts"
    with pytest.raises(UsageError, match=re.escape(message)):
        disjoint_class_draws(random_source(), {"train": [10, 300, 10], "validation": [0, 1, 0]}, seed=0)


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        # specs/stage1.md E.1: the first half n_max, the rest int(n_max * f); floor(k / 2) for an odd k
        ((5000, 100, 10), [5000] * 5 + [50] * 5),
        ((500, 10, 5), [500] * 2 + [50] * 3),
        ((7, 2, 2), [7, 3]),
        ((9, 1, 3), [9, 9, 9]),
    ],
)
def test_a_step_is_two_heights(arguments, counts):
    assert step_counts(*arguments) == counts


@pytest.mark.parametrize("arguments", [(5000, 0.01, 10), (5000, 100, 1), (50, 100, 10)])
def test_impossible_steps_are_refused_like_impossible_tails(arguments):
    messages = []
    for profile in (step_counts, exponential_counts):
        with pytest.raises(UsageError) as caught:
            profile(*arguments)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(("head", "tail", "num_classes", "exponent"), [(1280, 5, 1000, 6.0), (300, 1, 7, 1.5)])
def test_pareto_counts_are_quantiles_of_the_lomax_law(head, tail, num_classes, exponent):
    # the i-th largest of k draws lies at the survival probability i / (k + 1) in the mean
    size = scipy.stats.lomax(exponent).isf(np.arange(1, num_classes + 1) / (num_classes + 1))
    expected = np.maximum(tail, np.floor(head * size / size[0]))
    counts = pareto_counts(head, tail, num_classes, exponent=exponent)
    assert np.abs(np.array(counts) - expected).max() <= 1  # a product near an integer may be cut either way
    assert np.mean(counts == expected) > 0.99
    assert (counts[0], min(counts)) == (head, max(tail, int(expected[-1])))
    assert counts == sorted(counts, reverse=True)


def test_pareto_counts_come_near_those_of_imagenet_lt():
    counts = pareto_counts(1280, 5, 1000)
    # specs/stage1.md E.2: 115,846 images, from 1280 to 5 a class
    assert sum(counts) == pytest.approx(115_846, rel=0.03)
    assert (max(counts), min(counts)) == (1280, 5)


@pytest.mark.parametrize(
    ("arguments", "exponent", "message"),
    [
        ((100, 0, 10), 6, "tail_count must lie in 1..head_count=100, got 0"),
        ((100, 101, 10), 6, "tail_count must lie in 1..head_count=100, got 101"),
        ((100, 1, 1), 6, "at least 2 classes"),
        ((100, 1, 10), 0, "exponent must be finite and > 0, got 0"),
        ((100, 1, 10), float("inf"), "exponent must be finite and > 0, got inf"),
    ],
)
def test_impossible_pareto_figures_are_refused(arguments, exponent, message):
    with pytest.raises(UsageError, match=message):
        pareto_counts(*arguments, exponent=exponent)


def test_a_tiny_exponent_or_a_huge_one_is_still_a_profile():
    assert pareto_counts(1000, 1, 4, exponent=0.01) == [1000, 1, 1, 1]
    # for a -> infinity the quantiles become those of the exponential law, log((k+1) / i): 1, 0.569, 0.317, 0.139
    logs = np.log(5 / np.arange(1, 5))
    assert pareto_counts(1000, 1, 4, exponent=1e12) == [int(1000 * share) for share in logs / logs[0]]
