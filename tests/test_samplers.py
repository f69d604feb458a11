"""Samplers: their laws, and the order of the class-aware one."""

import pytest
import torch
from scipy import stats

from selmix.data.samplers import epoch_order

COUNTS = [640, 160, 40, 10]
LABELS = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))[
    torch.randperm(850, generator=torch.Generator().manual_seed(9))
]


def order(sampler: str, *, labels: torch.Tensor = LABELS, progress: float = 0.0, seed: int = 0) -> torch.Tensor:
    return epoch_order(labels, sampler, progress=progress, generator=torch.Generator().manual_seed(seed))


def drawn(sampler: str, *, progress: float = 0.0, epochs: int = 20) -> torch.Tensor:
    return torch.cat([order(sampler, progress=progress, seed=seed) for seed in range(epochs)])


def test_instance_is_a_permutation():
    assert order("instance").sort().values.tolist() == list(range(850))
    assert not torch.equal(order("instance"), order("instance", seed=1))


@pytest.mark.parametrize(
    ("sampler", "progress", "law"),
    [
        # roots of the counts: 25.298, 12.649, 6.325, 3.162, so 8 : 4 : 2 : 1
        ("square_root", 0.3, [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
        ("class_balanced", 0.3, [1 / 4] * 4),
        ("progressive", 0.0, [count / 850 for count in COUNTS]),
        ("progressive", 0.25, [0.75 * count / 850 + 0.0625 for count in COUNTS]),
        ("progressive", 1.0, [1 / 4] * 4),
    ],
)
def test_law_over_classes(sampler, progress, law):
    positions = drawn(sampler, progress=progress)
    observed = torch.bincount(LABELS[positions], minlength=4)
    assert stats.chisquare(observed, [len(positions) * p for p in law]).pvalue > 1e-3


def test_members_of_a_class_are_drawn_alike():
    positions = drawn("class_balanced")
    for label in (2, 3):
        own = positions[LABELS[positions] == label]
        observed = torch.bincount(own, minlength=850)[label == LABELS]
        assert stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize("sampler", ["instance", "square_root", "class_balanced", "progressive", "class_aware"])
def test_an_epoch_has_as_many_images_as_there_are_and_is_a_function_of_the_generator(sampler):
    for labels in (LABELS, LABELS[:1], torch.tensor([5, 5, 0, 5])):  # classes 1 to 4 have no sample
        first = order(sampler, labels=labels, progress=0.5)
        assert first.dtype == torch.int64
        assert first.shape == labels.shape
        assert first.min() >= 0
        assert first.max() < len(labels)
        assert torch.equal(first, order(sampler, labels=labels, progress=0.5))


def test_class_aware_takes_four_of_each_class_in_turn():
    classes = LABELS[order("class_aware")]
    runs = classes[:848].view(-1, 4)
    assert (runs == runs[:, :1]).all()
    rounds = runs[:, 0].view(-1, 4)  # 53 rounds through the 4 classes
    assert (rounds.sort(1).values == torch.arange(4)).all()
    assert len(rounds.unique(dim=0)) > 10  # of 24 orders
    counts = torch.bincount(classes)
    assert counts.max() - counts.min() <= 4


def test_class_aware_repeats_no_sample_before_all_of_its_class_have_come():
    positions = order("class_aware")
    orders = []
    for label, count in enumerate(COUNTS):
        own = positions[LABELS[positions] == label]
        for cycle in own.split(count):
            assert len(cycle.unique()) == len(cycle)
        if count == 10:
            orders = [cycle.tolist() for cycle in own.split(count) if len(cycle) == count]
    assert len(orders) == 21  # of 212 draws or so
    assert len(set(map(tuple, orders))) == 21


def test_class_aware_does_not_favour_samples_of_a_class_that_is_not_gone_through():
    positions = drawn("class_aware", epochs=60)
    own = positions[LABELS[positions] == 0]  # 213 of 640 an epoch
    observed = torch.bincount(own, minlength=850)[LABELS == 0]
    # without replacement within an epoch: the variance is smaller than a multinomial's by 1 - 213/640
    share = len(own) / 60 / 640
    statistic = ((observed - 60 * share) ** 2).sum() / (60 * share * (1 - share))
    assert stats.chi2(639).sf(float(statistic)) > 1e-3
    assert stats.chi2(639).cdf(float(statistic)) > 1e-3
