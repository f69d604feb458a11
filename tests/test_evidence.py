"""The weighted out-of-fold evidence, against loops over samples."""

from collections import Counter

import pytest
import torch
from builders import cross_fit, gaussian_splits
from test_worth import worth

from selmix.features.labeled import LabeledFeatures
from selmix.features.rows import gather
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.stage2 import evidence as evidence_module
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence

FOLDS = 3


def plan_of(val_counts: list[int], *, train_counts: tuple[int, ...] = (40, 15, 6), groups: int = 1) -> CrossFit:
    generator, splits = torch.Generator().manual_seed(0), {}
    for name, counts in (("train", train_counts), ("val", val_counts)):
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        features = torch.randn(len(labels), 4, generator=generator) + labels[:, None]
        group = torch.randint(groups, labels.shape, generator=generator) if groups > 1 else None
        splits[name] = LabeledFeatures(features, labels, group)
    return cross_fit(splits, FOLDS)


def heads_of(num_classes: int = 3) -> list[LinearHead]:
    generator = torch.Generator().manual_seed(1)
    return [
        LinearHead(torch.randn(num_classes, 4, generator=generator), torch.randn(num_classes, generator=generator))
        for _ in range(FOLDS + 1)
    ]


def gathered(plan: CrossFit, heads: list[LinearHead], seed: int = 0) -> tuple[Evidence, torch.Tensor]:
    """Return the evidence and the encoded heads."""
    space = FeatureSpace.fit(plan.features)
    weights = torch.stack([space.encode_head(head) for head in heads])
    return Evidence.gather(plan, space, weights, generator=torch.Generator().manual_seed(seed)), weights


def naive(plan: CrossFit, heads: list[LinearHead]) -> list[tuple[int, int, bool, torch.Tensor]]:
    """Return (row, prediction, whether it is of val, feature) of the judged samples, head by head in order."""
    records = []
    for head, judged in zip(heads, plan.judged, strict=False):
        for position in sorted(judged.tolist()):
            feature = gather(plan.features, torch.tensor([position]))[0]
            prediction = int((head.weight @ feature + head.bias).argmax())
            records.append((int(plan.rows[position]), prediction, position >= plan.num_train, feature))
    return records


def naive_weights(records: list[tuple[int, int, bool, torch.Tensor]], num_rows: int, groups: int) -> list[float]:
    counts = {side: [[0, 0] for _ in range(num_rows)] for side in (False, True)}
    for row, prediction, is_val, _ in records:
        counts[is_val][row][0] += prediction == row // groups
        counts[is_val][row][1] += 1
    values = worth(counts[False], counts[True])
    return [1.0 if is_val else values[row] for row, _, is_val, _ in records]


CASES = {
    "balanced": {"val_counts": [12, 12, 12]},
    "imbalanced": {"val_counts": [50, 9, 2]},
    "a class is missing": {"val_counts": [9, 0, 4]},
    "groups": {"val_counts": [12, 9, 4], "groups": 2},
}
PRIORS = {
    "balanced": [1 / 3, 1 / 3, 1 / 3],
    "imbalanced": [50 / 61, 9 / 61, 2 / 61],
    # it has train samples, and counts like one with a single validation sample
    "a class is missing": [9 / 14, 1 / 14, 4 / 14],
}


@pytest.mark.parametrize("case", CASES)
def test_judging_weighing_counting_and_means_agree_with_loops(case):
    plan, heads = plan_of(**CASES[case]), heads_of()
    evidence, weights = gathered(plan, heads)
    records, num_rows, groups = naive(plan, heads), 3 * plan.groups, plan.groups
    expected = naive_weights(records, num_rows, groups)
    assert 0 < min(expected) < 1
    assert evidence.rows.tolist() == [row for row, *_ in records]
    assert evidence.is_val.tolist() == [is_val for _, _, is_val, _ in records]
    assert evidence.judge(weights).tolist() == [prediction for _, prediction, _, _ in records]
    assert evidence.weights.tolist() == pytest.approx(expected)

    counts = torch.zeros(num_rows, 3, dtype=torch.float64)
    means = torch.zeros(num_rows, 4, dtype=torch.float64)
    for (row, prediction, _, feature), weight in zip(records, expected, strict=True):
        counts[row, prediction] += weight
        means[row] += weight * feature.double()
    support = counts.sum(1)
    torch.testing.assert_close(evidence.support, support)
    space = FeatureSpace.fit(plan.features)
    plain = evidence.row_means()[:, :-1] * space.scale + space.centre.double()
    torch.testing.assert_close(plain, means / support[:, None], rtol=1e-5, atol=1e-6)
    assert evidence.row_means()[:, -1].tolist() == pytest.approx([1] * num_rows)
    for pseudo_count in (0.0, 1.5):
        smooth = (counts + pseudo_count / 3) / (support + pseudo_count)[:, None] * evidence.prior[:, None]
        predictions = evidence.judge(weights)
        torch.testing.assert_close(evidence.confusion(predictions, pseudo_count=pseudo_count), smooth)


@pytest.mark.parametrize("case", PRIORS)
def test_the_prior_is_that_of_validation(case):
    evidence, weights = gathered(plan_of(**CASES[case]), heads_of())
    assert evidence.prior.tolist() == pytest.approx(PRIORS[case])
    confusion = evidence.confusion(evidence.judge(weights), pseudo_count=1.0)
    assert confusion.sum(1).tolist() == pytest.approx(PRIORS[case])


def test_the_prior_of_groups_leaves_out_rows_that_nobody_judges():
    # class 0 of group 1 has one sample, which nobody judges; class 1 of group 1 none at all
    labels, group = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 0, 0])
    train = LabeledFeatures(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), labels, group)
    val = train.subset(torch.tensor([0, 1, 4]))
    evidence, weights = gathered(cross_fit({"train": train, "val": val}, FOLDS), heads_of(2))
    assert evidence.prior.tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])
    assert torch.equal(evidence.row_means()[[1, 3]], torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(evidence.confusion(evidence.judge(weights), pseudo_count=1)[[1, 3]], torch.zeros(2, 2).double())


@pytest.mark.parametrize(("judged_train", "judged_val", "expected"), [(24, 27, (8, 9)), (3, 3, (6, 6))])
def test_thinning_keeps_so_many_a_row_and_scales_to_the_prior_of_all(monkeypatch, judged_train, judged_val, expected):
    monkeypatch.setattr(evidence_module, "_JUDGED_TRAIN", judged_train)
    monkeypatch.setattr(evidence_module, "_JUDGED_VAL", judged_val)
    monkeypatch.setattr(evidence_module, "_AT_LEAST", 6)
    plan, seen = plan_of([50, 20, 4], train_counts=(100, 30, 2)), set()
    for seed in range(20):
        evidence, weights = gathered(plan, heads_of(), seed)
        for is_val, limit, available in ((False, expected[0], (100, 30, 2)), (True, expected[1], (50, 20, 4))):
            kept = torch.bincount(evidence.rows[evidence.is_val == is_val], minlength=3)
            # so many by fold, rounded up
            most = -(-limit // FOLDS) * FOLDS
            assert kept.tolist() == [min(most, count) for count in available]
        # no sample twice
        encoded = [tuple(row.tolist()) for own in evidence.features for row in own]
        assert max(Counter(encoded).values()) == 1
        seen.update(encoded)
        # validation has 50, 20 and 4 samples, whatever is judged of them
        assert evidence.prior.tolist() == pytest.approx([50 / 74, 20 / 74, 4 / 74])
        assert evidence.confusion(evidence.judge(weights)).sum(1).tolist() == pytest.approx([50 / 74, 20 / 74, 4 / 74])
    # each draw is another: in the end nearly all samples have been judged (206 in all)
    assert len(seen) > 160


def test_what_is_judged_follows_the_generator(monkeypatch):
    monkeypatch.setattr(evidence_module, "_JUDGED_TRAIN", 30)
    plan = plan_of([12, 12, 12], train_counts=(100, 30, 20))
    one, again, other = (gathered(plan, heads_of(), seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.features, again.features, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.features, other.features, strict=True))


def test_a_head_that_knows_train_by_heart_makes_train_samples_worth_little():
    # noise, and a head that has learnt the training labels: right on all of train, at chance on val
    generator, count = torch.Generator().manual_seed(0), 30
    labels = torch.arange(3).repeat(count)
    train, val = (LabeledFeatures(torch.randn(3 * count, 200, generator=generator), labels) for _ in range(2))
    target = torch.nn.functional.one_hot(labels, 3).float()
    by_heart = LinearHead(torch.linalg.lstsq(train.features, target).solution.T.contiguous(), torch.zeros(3))
    assert torch.equal(by_heart.predict(train.features), labels)
    evidence, _ = gathered(cross_fit({"train": train, "val": val}, FOLDS), [by_heart] * (FOLDS + 1))
    assert float(evidence.weights[~evidence.is_val].max()) < 0.1
    assert (evidence.weights[evidence.is_val] == 1).all()


def test_evidence_knows_the_recalls_better_than_validation_alone_where_train_is_exchangeable():
    # a fixed rule on Gaussian classes; its recalls are known from 4000 test samples a class
    squares = {"evidence": 0.0, "validation": 0.0}
    for seed in range(8):
        splits = gaussian_splits([400, 200, 100, 60], seed=seed, spread=0.6, per_class=4000, val=20)
        means = torch.stack([splits["test"].features[splits["test"].labels == label].mean(0) for label in range(4)])
        rule = LinearHead(means, -means.square().sum(1) / 2)
        right = rule.predict(splits["test"].features) == splits["test"].labels
        truth = right.view(4, 4000).double().mean(1)
        evidence, weights = gathered(cross_fit(splits, FOLDS), [rule] * (FOLDS + 1))
        predictions = evidence.judge(weights)
        estimate = evidence.confusion(predictions).diagonal() / evidence.prior
        own = (predictions == evidence.rows)[evidence.is_val].double()
        alone = torch.bincount(evidence.rows[evidence.is_val], own, minlength=4) / 20
        squares["evidence"] += float((estimate - truth).square().mean())
        squares["validation"] += float((alone - truth).square().mean())
    # the sampling variance falls from 1/20 to 1/(20 + n) of r (1 - r)
    assert squares["evidence"] < 0.5 * squares["validation"]
