import re

import numpy as np
import pytest

from selmix.data.longtail import disjoint_class_draws, exponential_counts
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
