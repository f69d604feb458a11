import pytest
import torch
from oracles import count_confusions, random_labels
from sklearn import metrics as sk

from selmix.confusion import (
    class_confusion,
    class_prior,
    confusion_counts,
    coverage,
    joint_confusion,
    recall,
    row_normalised,
)

# truths 0 0 0 1 1 2 met by predictions 0 0 1 1 2 2
HAND_COUNTS = torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.float64)


def test_counts_by_hand():
    labels, predictions = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    counts = confusion_counts(labels, predictions, 3)
    assert counts.dtype == torch.float64
    assert torch.equal(counts, HAND_COUNTS)


def test_statistics_by_hand():
    confusion = joint_confusion(HAND_COUNTS)
    assert torch.equal(confusion, HAND_COUNTS / 6)
    torch.testing.assert_close(class_prior(confusion), torch.tensor([3, 2, 1], dtype=torch.float64) / 6)
    torch.testing.assert_close(coverage(confusion), torch.tensor([2, 2, 2], dtype=torch.float64) / 6)
    torch.testing.assert_close(recall(confusion), torch.tensor([2 / 3, 1 / 2, 1], dtype=torch.float64))
    by_row = torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 2, 1 / 2], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(row_normalised(confusion), by_row)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 37])
def test_counts_agree_with_the_loop_and_with_scikit_learn(num_classes):
    labels, predictions = random_labels(num_classes, seed=num_classes)
    counts = confusion_counts(labels, predictions, num_classes)
    assert torch.equal(counts, count_confusions(labels, predictions, num_classes))
    assert torch.equal(counts, torch.from_numpy(sk.confusion_matrix(labels, predictions)).double())


@pytest.mark.parametrize("num_classes", [2, 3, 10, 37])
def test_statistics_agree_with_scikit_learn(num_classes):
    labels, predictions = random_labels(num_classes, seed=100 + num_classes)
    confusion = joint_confusion(confusion_counts(labels, predictions, num_classes))
    joint = torch.from_numpy(sk.confusion_matrix(labels, predictions, normalize="all"))
    by_row = torch.from_numpy(sk.confusion_matrix(labels, predictions, normalize="true"))
    recalls = torch.from_numpy(sk.recall_score(labels, predictions, average=None))
    torch.testing.assert_close(confusion, joint)
    torch.testing.assert_close(row_normalised(confusion), by_row)
    torch.testing.assert_close(recall(confusion), recalls)
    shares = torch.tensor([(predictions == label).double().mean() for label in range(num_classes)])
    torch.testing.assert_close(coverage(confusion), shares.double(), rtol=1e-6, atol=0)


def test_classes_that_never_occur_keep_their_rows_and_columns():
    counts = confusion_counts(torch.tensor([0, 2]), torch.tensor([2, 2]), 4)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 2] = expected[2, 2] = 1
    assert torch.equal(counts, expected)


def test_empty_class_has_a_zero_row_and_no_recall():
    # class 1 is predicted but never true
    counts = torch.tensor([[3.0, 1, 0], [0, 0, 0], [0, 2, 2]], dtype=torch.float64)
    confusion = joint_confusion(counts)
    assert torch.equal(row_normalised(confusion)[1], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(recall(confusion), torch.tensor([3 / 4, 2 / 4], dtype=torch.float64))


def test_no_sample_gives_zeros():
    assert torch.equal(
        confusion_counts(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), 2),
        torch.zeros(2, 2, dtype=torch.float64),
    )
    for pseudo_count in (0.0, 1.0):
        confusion = joint_confusion(torch.zeros(3, 3, dtype=torch.float64), pseudo_count=pseudo_count)
        assert torch.equal(confusion, torch.zeros(3, 3, dtype=torch.float64))
        assert recall(confusion).numel() == 0


def test_smoothing_by_hand():
    # row (4, 0) with 2 imaginary samples: (5, 1) out of 6, back to the row's own 4 samples of 6
    # row (1, 1) stays even: (2, 2) out of 4, back to 2 samples of 6
    confusion = joint_confusion(torch.tensor([[4.0, 0], [1, 1]], dtype=torch.float64), pseudo_count=2)
    expected = torch.tensor([[5 / 6 * 4 / 6, 1 / 6 * 4 / 6], [1 / 6, 1 / 6]], dtype=torch.float64)
    torch.testing.assert_close(confusion, expected)


@pytest.mark.parametrize("pseudo_count", [0.1, 1.0, 25.0])
def test_smoothing_keeps_the_prior_and_lifts_zero_recalls(pseudo_count):
    counts = torch.tensor([[0.0, 7, 3], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    plain, smooth = joint_confusion(counts), joint_confusion(counts, pseudo_count=pseudo_count)
    torch.testing.assert_close(class_prior(smooth), class_prior(plain))
    assert torch.equal(smooth[1], torch.zeros(3, dtype=torch.float64))
    assert (smooth[[0, 2]] > 0).all()
    # r -> (n r + a / k) / (n + a)
    expected = torch.tensor([(pseudo_count / 3) / (n + pseudo_count) for n in (10, 1)], dtype=torch.float64)
    torch.testing.assert_close(recall(smooth), expected)


def test_weighted_counts_agree_with_scikit_learn():
    labels, predictions = random_labels(6, seed=3)
    weights = torch.rand(len(labels), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts = confusion_counts(labels, predictions, 6, weights=weights)
    expected = sk.confusion_matrix(labels, predictions, sample_weight=weights.numpy())
    torch.testing.assert_close(counts, torch.from_numpy(expected))


def test_a_given_prior_takes_the_place_of_the_shares_of_the_counts():
    # row (2, 1) of prior 0.1, row (0, 1) of 0.6; the prior of a row without samples is left out
    counts = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
    prior = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    confusion = joint_confusion(counts, prior=prior)
    expected = torch.tensor([[0.2 / 3, 0.1 / 3, 0], [0, 0.6, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(confusion, expected)


def test_classes_of_groups_by_hand_and_the_matrix_itself_without_groups():
    # two classes, rows of groups: class 0 in rows 0 and 1, class 1 in rows 2 and 3
    confusion = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]], dtype=torch.float64)
    assert class_confusion(confusion).tolist() == [[4, 6], [12, 14]]
    assert class_confusion(HAND_COUNTS) is HAND_COUNTS


def test_scaling_the_counts_changes_nothing():
    labels, predictions = random_labels(6, seed=1)
    counts = confusion_counts(labels, predictions, 6)
    torch.testing.assert_close(joint_confusion(7 * counts), joint_confusion(counts))


def test_renaming_the_classes_permutes_rows_and_columns():
    labels, predictions = random_labels(6, seed=2)
    new_name = torch.tensor([3, 0, 5, 1, 4, 2])
    renamed = confusion_counts(new_name[labels], new_name[predictions], 6)
    assert torch.equal(renamed[new_name][:, new_name], confusion_counts(labels, predictions, 6))
