"""Bootstrap: stratified by class, paired between heads, as wide as the binomial law says."""

import numpy as np
import pytest
import torch
from scipy import stats

from selmix.bootstrap import bootstrap_statistics, percentile_interval, resampled_counts, resampled_rows

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2, 1, 0, 2, 2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recalls(counts: torch.Tensor) -> dict[str, float]:
    values = counts.diagonal() / counts.sum(1)
    return {f"recall{label}": float(value) for label, value in enumerate(values)}


def accuracy(counts: torch.Tensor) -> dict[str, float]:
    return {"accuracy": float(counts.diagonal().sum() / counts.sum())}


def test_class_counts_stay_as_they_are_in_every_replicate():
    predictions = torch.arange(12) % 3
    replicates = [c for (c,) in resampled_counts(LABELS, [predictions], 3, replicates=50, generator=generator())]
    assert len(replicates) == 50
    assert all(counts.sum(1).tolist() == [3, 3, 6] for counts in replicates)
    assert len({tuple(counts.flatten().tolist()) for counts in replicates}) > 10


def test_a_class_without_samples_stays_empty():
    labels, predictions = torch.tensor([0, 2, 2]), torch.tensor([1, 2, 2])
    for (counts,) in resampled_counts(labels, [predictions], 3, replicates=5, generator=generator()):
        assert counts.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 2]]


def test_samples_are_drawn_with_replacement_within_the_class():
    # 4 samples of class 1 with predictions 0, 1, 2, 3: a replicate's row is multinomial(4; 1/4, 1/4, 1/4, 1/4)
    labels, predictions = torch.tensor([1, 0, 1, 1, 1]), torch.tensor([0, 2, 1, 2, 3])
    drawn = resampled_counts(labels, [predictions], 4, replicates=4000, generator=generator())
    rows = np.array([counts[1].tolist() for (counts,) in drawn])
    first = np.bincount(rows[:, 0].astype(int), minlength=5)
    expected = 4000 * stats.binom.pmf(np.arange(5), 4, 0.25)
    assert stats.chisquare(first, expected).pvalue > 1e-3
    assert stats.chisquare(rows.sum(0)).pvalue > 1e-3


def test_identical_heads_never_differ():
    predictions = torch.arange(12) % 2
    first, second = bootstrap_statistics(
        LABELS, [predictions, predictions.clone()], recalls, 3, replicates=100, generator=generator()
    )
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert first["recall0"].std() > 0


def test_heads_are_paired_by_replicate():
    # the second head is right exactly where the first is wrong: their accuracies sum to 1 in every replicate
    labels = torch.arange(40) % 2
    right = torch.rand(40, generator=generator(3)) < 0.7
    predictions = torch.where(right, labels, 1 - labels)
    first, second = bootstrap_statistics(
        labels, [predictions, 1 - predictions], accuracy, 2, replicates=200, generator=generator()
    )
    np.testing.assert_allclose(first["accuracy"] + second["accuracy"], 1, atol=1e-15)
    assert first["accuracy"].std() > 0.03


@pytest.mark.parametrize(("count", "correct"), [(400, 320), (900, 450)])
def test_interval_of_a_recall_is_the_binomial_one(count, correct):
    labels = torch.cat([torch.zeros(count, dtype=torch.int64), torch.ones(50, dtype=torch.int64)])
    predictions = labels.clone()
    predictions[:count] = (torch.arange(count) >= correct).long()
    (values,) = bootstrap_statistics(labels, [predictions], recalls, 2, replicates=2000, generator=generator())
    share = correct / count
    deviation = (share * (1 - share) / count) ** 0.5
    # 2000 replicates know the 2.5 % quantile of a normal law to about 0.06 deviations; the recall moves in steps of 1/n
    tolerance = 0.2 * deviation + 1 / count
    low, high = percentile_interval(values["recall0"])
    assert low == pytest.approx(share - 1.96 * deviation, abs=tolerance)
    assert high == pytest.approx(share + 1.96 * deviation, abs=tolerance)
    assert values["recall0"].std() == pytest.approx(deviation, rel=0.08)
    assert (values["recall1"] == 1).all()


def test_values_follow_the_generator():
    predictions = torch.arange(12) % 3

    def draw(seed: int) -> np.ndarray:
        (values,) = bootstrap_statistics(LABELS, [predictions], accuracy, 3, replicates=50, generator=generator(seed))
        return values["accuracy"]

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


@pytest.mark.parametrize(("level", "expected"), [(0.95, [25, 975]), (0.5, [250, 750]), (0.9, [50, 950])])
def test_interval_leaves_equal_tails(level, expected):
    values = np.random.default_rng(0).permutation(1001)
    assert percentile_interval(values, level=level) == pytest.approx(expected)


def test_groups_of_samples_keep_their_counts_too():
    # rows are class * 2 + group: 3, 1, 0, 2 samples; predictions of the only sample of a row never change
    rows, predictions = torch.tensor([0, 3, 0, 1, 3, 0]), torch.tensor([0, 1, 1, 0, 0, 1])
    replicates = [
        c for (c,) in resampled_counts(rows, [predictions], 2, replicates=400, generator=generator(), groups=2)
    ]
    assert all(counts.sum(1).tolist() == [3, 1, 0, 2] and counts[1].tolist() == [1, 0] for counts in replicates)
    assert {float(counts[0, 0]) for counts in replicates} == {0, 1, 2, 3}
    (values,) = bootstrap_statistics(
        rows,
        [predictions],
        lambda counts: {"first": float(counts[0, 0]), "rows": len(counts)},
        2,
        replicates=400,
        generator=generator(),
        groups=2,
    )
    assert values["first"].tolist() == [float(counts[0, 0]) for counts in replicates]
    assert (values["rows"] == 4).all()


def test_redrawn_rows_are_multinomial_at_their_support_and_keep_the_prior():
    confusion = torch.tensor([[0.3, 0.1, 0], [0, 0, 0], [0.15, 0.15, 0.3]], dtype=torch.float64)
    support = torch.tensor([8.3, 0, 0.2])
    drawn = np.stack(
        [
            matrix.numpy()
            for matrix in resampled_rows(confusion, support, replicates=4000, generator=np.random.default_rng(0))
        ]
    )
    np.testing.assert_allclose(drawn.sum(2), np.broadcast_to([0.4, 0, 0.6], (4000, 3)), atol=1e-12)
    counts = np.rint(drawn[:, 0, 0] / 0.4 * 8).astype(int)
    np.testing.assert_allclose(counts / 8 * 0.4, drawn[:, 0, 0], atol=1e-12)
    expected = 4000 * stats.binom.pmf(np.arange(9), 8, 0.75)
    merged = lambda values: np.append(values[3:], values[:3].sum())  # noqa: E731  few of the lowest
    assert stats.chisquare(merged(np.bincount(counts, minlength=9)), merged(expected)).pvalue > 1e-3
    # a row worth less than a sample has one
    assert set(np.unique(np.rint(drawn[:, 2] / 0.6))) == {0, 1}
