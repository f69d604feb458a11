"""The scikit-learn estimator: scikit-learn's own checks, and what people do with an estimator."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import selmix.beginning
import selmix.estimator
import selmix.pipeline
import selmix.stage2.starts
from selmix import SelMixClassifier

ROOT = Path(__file__).parent.parent
HERE = os.environ | {"PYTHONPATH": str(ROOT)}  # this selmix, wherever another is installed
NAMES = np.array(["owl", "cat", "dog"])  # not in order


def blobs(counts, *, seed=0, width=5, spread=1.5):
    """Return unit-variance Gaussian classes, float32, shuffled, and their labels as integers."""
    rng = np.random.default_rng(seed)
    centres = spread * np.random.default_rng(99).normal(size=(len(counts), width))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return (centres[labels] + rng.normal(size=(len(labels), width))).astype(np.float32), labels


def quick(**changes):
    return SelMixClassifier(**{"steps": 100, "random_state": 0} | changes)


def psi(confusion):
    """Return the balanced accuracy, as a user would write it."""
    return (confusion.diagonal() / confusion.sum(1)).mean()


@parametrize_with_checks([SelMixClassifier(steps=100)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_string_labels_give_what_integer_labels_give():
    X, y = blobs([80, 20, 40])
    ranks = np.searchsorted(np.sort(NAMES), NAMES)  # the same classes in the order that strings have
    named, plain = quick().fit(X, NAMES[y]), quick().fit(X, ranks[y])
    assert named.classes_.tolist() == ["cat", "dog", "owl"]
    np.testing.assert_array_equal(named.predict(X), np.sort(NAMES)[plain.predict(X)])
    np.testing.assert_array_equal(named.coef_, plain.coef_)
    assert named.class_count_.tolist() == [20, 40, 80]


@pytest.mark.parametrize("counts", [[60, 20], [60, 20, 30]])
def test_coef_and_intercept_say_what_predict_and_predict_proba_say(counts):
    X, y = blobs(counts)
    model = quick().fit(X, y)
    rows = 1 if len(counts) == 2 else 3
    assert model.coef_.shape == (rows, 5)
    assert model.intercept_.shape == (rows,)
    logits = X.astype(np.float64) @ model.coef_.T + model.intercept_
    if rows == 1:
        logits = np.hstack([0 * logits, logits])
    odds = np.exp(logits)
    np.testing.assert_allclose(model.predict_proba(X), odds / odds.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(model.predict(X), logits.argmax(1))


def test_a_seed_decides_everything_and_none_decides_nothing():
    X, y = blobs([60, 20, 30])
    first, again, other = (quick(random_state=seed).fit(X, y).coef_ for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    state = np.random.RandomState(3)
    from_state = [quick(random_state=state).fit(X, y).coef_ for _ in range(2)]
    np.testing.assert_array_equal(from_state[0], first)
    assert not np.array_equal(*from_state)
    assert not np.array_equal(*(quick(random_state=None).fit(X, y).coef_ for _ in range(2)))


def test_a_pickle_predicts_and_scores_the_same():
    X, y = blobs([60, 20, 30])
    model = quick(metric=psi).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.decision_function(X), model.decision_function(X))
    assert copy.score(X, y) == model.score(X, y)
    assert not hasattr(clone(model), "coef_")


def test_memory_maps_tensors_and_doubles_are_what_arrays_are(tmp_path, monkeypatch):
    (X, y), (X_val, y_val) = blobs([60, 20, 30]), blobs([10, 10, 10], seed=1)
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", np.float32, "r", shape=X.shape)
    seen = []
    real = selmix.estimator.tune
    monkeypatch.setattr(
        selmix.estimator, "tune", lambda data, *rest, **more: seen.append(data) or real(data, *rest, **more)
    )
    plain = quick().fit(X, y, X_val, y_val)
    others = {
        "memory map": quick().fit(mapped, y, X_val, y_val),
        "tensors": quick().fit(*map(torch.from_numpy, (X, y, X_val, y_val))),
        "doubles": quick().fit(X.astype(np.float64), y, X_val.astype(np.float64), y_val),
        "columns": quick().fit(np.asfortranarray(X), y, X_val, y_val),
    }
    for name, other in others.items():
        np.testing.assert_array_equal(other.coef_, plain.coef_, err_msg=name)
    np.testing.assert_array_equal(plain.predict(mapped), plain.predict(torch.from_numpy(X)))
    assert np.shares_memory(seen[1].splits["train"].features.numpy(), mapped)  # no copy
    assert np.shares_memory(seen[2].splits["train"].features.numpy(), X)
    doubtful = torch.from_numpy(X).bfloat16()
    np.testing.assert_array_equal(plain.predict(doubtful), plain.predict(doubtful.float().numpy()))


def test_prediction_in_blocks_is_prediction_at_once(monkeypatch):
    X, y = blobs([60, 20, 30])
    model = quick().fit(X, y)
    whole = model.decision_function(X)
    monkeypatch.setattr(selmix.estimator, "_BLOCK", 7)
    np.testing.assert_allclose(model.decision_function(X), whole, rtol=1e-12)


def test_pipeline_cross_validation_and_grid_search():
    X, y = blobs([90, 30, 45])
    pipeline = make_pipeline(StandardScaler(), quick())
    scores = cross_val_score(pipeline, 1000 * X + 5, y, cv=3, error_score="raise")
    assert (scores > 0.6).all()
    search = GridSearchCV(pipeline, {"selmixclassifier__steps": [50, np.int64(100)]}, cv=2, error_score="raise")
    assert search.fit(X, y).best_estimator_["selmixclassifier"].n_iter_ in (50, 100)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "mean_recall", "0.5*recall[0] + recall[1]/2", psi])
def test_score_is_the_metric(metric):
    X, y = blobs([60, 20], spread=0.5)
    model = quick(metric=metric).fit(X, y)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y))
    assert model.score(X, y) == pytest.approx(balanced_accuracy_score(y, model.predict(X)), rel=1e-12)
    weighted = balanced_accuracy_score(y, model.predict(X), sample_weight=weights)
    assert model.score(X, y, sample_weight=weights) == pytest.approx(weighted, rel=1e-12)


def test_score_leaves_out_classes_without_samples_and_refuses_what_it_cannot_judge():
    X, y = blobs([60, 20, 30], spread=0.7)
    model = quick(metric="mean_recall").fit(X, y)
    some = y != 1
    expected = recall_score(y[some], model.predict(X[some]), average="macro", labels=[0, 2])
    assert model.score(X[some], y[some]) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="y has a class that fit has not seen.*7"):
        model.score(X, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="fit has not seen a group"):
        model.score(X, y, groups=y)
    with pytest.raises(ValueError, match="test_estimator:psi has no value"):  # 0 / 0
        quick(metric=psi).fit(X, y).score(X[some], y[some])
    with pytest.raises(ValueError, match="class number 1 has no samples here"):
        quick(metric="recall[1]").fit(X, y).score(X[some], y[some])


def test_what_is_tuned_for_rises_where_classes_are_rare():
    gains = []
    for seed in range(3):
        X, y = blobs([900, 90, 30], seed=seed, spread=0.5)
        X_val, y_val = blobs([300, 60, 30], seed=seed + 50, spread=0.5)
        X_test, y_test = blobs([2000] * 3, seed=seed + 100, spread=0.5)
        tuned, other = (
            quick(metric=metric, steps=1000).fit(X, y, X_val, y_val) for metric in ("min_recall", "accuracy")
        )
        worst = [recall_score(y_test, model.predict(X_test), average=None).min() for model in (tuned, other)]
        assert tuned.score(X_test, y_test) == pytest.approx(worst[0], rel=1e-12)
        gains.append(worst[0] - worst[1])
    assert min(gains) > 0.1


def waterbirds(counts, rng):
    """Return features, label and background: a weak core feature, a strong background, four irrelevant features.

    `counts` are those of (label, background) = 00, 01, 10, 11.
    """
    label, background = np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)
    X = rng.normal(size=(len(label), 6))
    X[:, 0] += 1.2 * (2 * label - 1)
    X[:, 1] += 2 * (2 * background - 1)
    return X, label, background


@pytest.mark.parametrize("seed", range(3))
def test_groups_raise_the_worst_group(seed):
    rng = np.random.default_rng(seed)
    parts = [waterbirds(counts, rng) for counts in ([950, 50, 50, 350], [60] * 4, [2500] * 4)]
    (X, y, _), (X_val, y_val, _), (X_test, y_test, _) = parts
    groups, groups_val, groups_test = (
        np.char.add(np.where(y, "bird ", "fish "), np.where(b, "sea", "land")) for _, y, b in parts
    )
    plain = quick(metric="mean_recall", steps=1500).fit(X, y, X_val, y_val)
    grouped = quick(metric="worst_group_recall", steps=1500)
    grouped.fit(X, y, X_val, y_val, groups=groups, groups_val=groups_val)

    def worst(model):
        right = model.predict(X_test) == y_test
        return min(right[groups_test == group].mean() for group in np.unique(groups))

    # the core feature alone is right on Phi(1.2) = 88.5 % of every group
    assert worst(grouped) > max(0.8, worst(plain) + 0.05)
    assert grouped.groups_.tolist() == ["bird land", "bird sea", "fish land", "fish sea"]
    assert grouped.score(X_test, y_test, groups=groups_test) == pytest.approx(worst(grouped), rel=1e-12)
    assert 0.5 < grouped.val_metrics_["after"]["worst_group_recall"] <= 1


def test_groups_without_validation_are_split_with_the_classes(monkeypatch):
    seen = []
    real = selmix.estimator.tune
    monkeypatch.setattr(selmix.estimator, "tune", lambda *given, **more: seen.append(real(*given, **more)) or seen[0])
    X, y, background = waterbirds([60, 10, 1, 30], np.random.default_rng(0))
    model = quick(metric="worst_group_recall").fit(X, y, groups=background)
    assert model.groups_.tolist() == [0, 1]
    val = seen[0].data.splits["val"]
    assert torch.bincount(2 * val.labels + val.groups).tolist() == [12, 2, 0, 6]  # a fifth of each; the lone one stays
    with pytest.raises(ValueError, match="worst_group_recall needs groups"):
        model.score(X, y)


@pytest.mark.parametrize("counts", [[40, 1], [1, 40, 9], [3, 2, 1], [2, 2], [1, 1, 1, 2]])
def test_classes_of_a_few_samples(counts):
    X, y = blobs(counts, spread=5)
    model = quick().fit(X, y)
    np.testing.assert_array_equal(model.predict(X[y == np.argmax(counts)]), np.argmax(counts))
    for metrics in model.val_metrics_.values():
        assert all(value is None or np.isfinite(value) for value in metrics.values())
        assert metrics["min_recall"] is not None


def test_lone_samples_are_refused_where_nothing_could_be_judged():
    X, y = blobs([1, 1, 1])
    with pytest.raises(ValueError, match="no class has two samples"):
        quick().fit(X, y)
    X, y = blobs([9, 9, 1])
    with pytest.raises(ValueError, match="test_estimator:psi has no value without class 2"):
        quick(metric=psi).fit(X, y)
    with pytest.raises(ValueError, match="class number 2 has no samples here"):
        quick(metric="recall[2]").fit(X, y)


def test_the_starting_heads_take_as_many_steps_but_no_more_than_usual(monkeypatch):
    X, y = blobs([60, 20, 30])
    taken = []
    for module in (selmix.beginning, selmix.stage2.starts):
        real = module.retrain_heads
        monkeypatch.setattr(
            module,
            "retrain_heads",
            lambda *given, real=real, **more: taken.append(more["settings"].steps) or real(*given, **more),
        )
    cases = [({"steps": 30}, 30), ({"steps": 5010}, 5000), ({"steps": 10, "settings": {"start_steps": 40}}, 40)]
    for changes, expected in cases:
        taken.clear()
        quick(**changes).fit(X, y)
        assert set(taken) == {expected}


def test_validation_may_lack_classes_but_not_have_others():
    (X, y), (X_val, y_val) = blobs([60, 20, 30]), blobs([10, 10, 0], seed=1)
    model = quick().fit(X, y, X_val, y_val)
    assert model.val_metrics_["after"]["tail_recall"] is None
    with pytest.raises(ValueError, match="y_val has a class that y lacks.*3"):
        quick().fit(X, y, X_val, y_val + 3 * (y_val == 1) - (y_val == 1))


def test_a_given_head_is_where_it_starts():
    (X, y), (X_val, y_val) = blobs([60, 30], spread=0.4), blobs([40, 40], seed=1, spread=0.4)
    teacher = quick(steps=3000).fit(X, y)
    settings = {"start": "given", "learning_rate": 1e-12}
    row = (teacher.coef_, teacher.intercept_)
    model = quick(settings=settings).fit(X, y, X_val, y_val, head=row)
    np.testing.assert_allclose(model.coef_, teacher.coef_, rtol=1e-4)
    np.testing.assert_allclose(model.intercept_, teacher.intercept_, rtol=1e-4, atol=1e-5)
    assert model.start_ == "given"
    expected = recall_score(y_val, teacher.predict(X_val), average=None).min()
    assert model.val_metrics_["before"]["min_recall"] == pytest.approx(expected, rel=1e-12)
    groups = np.arange(80) % 3
    grouped = quick().fit(X, y, X_val, y_val, head=row, groups=np.arange(90) % 3, groups_val=groups)
    right = teacher.predict(X_val) == y_val
    each = [[right[(groups == group) & (y_val == label)].mean() for label in (0, 1)] for group in range(3)]
    worst = grouped.val_metrics_["before"]["worst_group_recall"]
    assert worst == pytest.approx(min(map(np.mean, each)), rel=1e-12)
    assert worst < np.mean(each)
    two = (np.vstack([teacher.coef_ * 0, teacher.coef_]), np.array([0, teacher.intercept_[0]]))
    again = quick(settings=settings).fit(X, y, X_val, y_val, head=two)
    np.testing.assert_array_equal(again.predict(X), teacher.predict(X))


@pytest.mark.parametrize(
    ("changes", "fit", "message"),
    [
        ({"metric": "min_recal"}, {}, "min_recall"),
        ({"metric": 3}, {}, "got 3"),
        ({"metric": lambda: 1}, {}, "must take one argument"),
        ({"metric": lambda confusion: confusion.sum().item()}, {}, "0-d tensor"),
        ({"subject_to": "coverage"}, {}, "no constraint"),
        ({"settings": {"stepz": 3}}, {}, "unknown key stepz"),
        ({"settings": {"steps": 3}}, {}, r"pass it as SelMixClassifier\(steps="),
        ({"steps": 0}, {}, "steps must be >= 1, got 0"),
        ({}, {"X_val": np.ones((2, 5))}, "X_val and y_val"),
        ({}, {"X_val": np.ones((2, 4)), "y_val": [0, 1]}, "4 features"),
        ({}, {"X_unlabeled": np.ones((2, 4))}, "4 features"),
        ({}, {"X_unlabeled": np.ones((0, 4))}, "4 features"),
        ({}, {"X_unlabeled": np.full((2, 5), np.nan)}, "NaN"),
        ({}, {"X_unlabeled": np.ones((2, 5)), "y_unlabeled": [0]}, "inconsistent"),
        ({}, {"y_unlabeled": [0]}, "y_unlabeled goes with X_unlabeled"),
        ({}, {"X_val": np.ones((2, 5)), "y_val": [0, 1], "groups": np.zeros(110)}, "groups_val must come"),
        ({}, {"groups": np.zeros(109)}, "inconsistent"),
        ({}, {"head": (np.ones((1, 5)), np.ones(1))}, r"head must be a coef of shape \(3, 5\)"),
        ({}, {"head": (np.full((3, 5), np.nan), np.ones(3))}, "NaN"),
        ({"metric": "worst_group_recall"}, {}, "needs groups"),
    ],
)
def test_what_is_refused(changes, fit, message):
    X, y = blobs([60, 20, 30])
    with pytest.raises(ValueError, match=message):
        quick(**changes).fit(X, y, **fit)


def test_constraints_are_kept_or_a_warning_says_so(caplog):
    caplog.set_level(logging.WARNING, "selmix")
    X, y = blobs([300, 30, 30], spread=0.4)
    model = quick(metric="accuracy", subject_to="coverage <= 1.2/k", steps=1000).fit(X, y)
    share = np.bincount(model.predict(X), minlength=3) / len(y)
    free = quick(metric="accuracy", steps=1000).fit(X, y)
    assert share.max() < (free.predict(X) == 0).mean()
    caplog.clear()
    quick(metric="accuracy", subject_to=["min_recall >= 0.999"]).fit(X, y)
    assert "subject_to is missed" in caplog.text


def pool_given(monkeypatch, y, **fit):
    """Return the pool that stage two gets, and the names of its samples."""
    seen = []

    def noted(data, *_, **__):
        seen.append(data)
        return selmix.pipeline.tune(data, *_, **__)

    monkeypatch.setattr(selmix.estimator, "tune", noted)
    quick().fit(blobs([60, 20, 30])[0], y, **fit)
    return seen[0].unlabeled, seen[0].ids.get("unlabeled")


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["ant", "bee", "cat"], ["cat", "moth", "ant"], [2, -1, 0]),
        ([10, 20, 30], [20.0, -1, np.nan], [1, -1, -1]),
        ([10, 20, 30], ["10", "20", "30"], [-1, -1, -1]),
        ([0, 1, 2], torch.tensor([2, 5, 1]), [2, -1, 1]),
    ],
)
def test_the_pool_reaches_stage_two_with_labels_for_the_audit(monkeypatch, names, given, expected):
    X, y = blobs([60, 20, 30])
    pool, ids = pool_given(monkeypatch, np.array(names)[y], X_unlabeled=X[:3].astype(np.float64), y_unlabeled=given)
    np.testing.assert_array_equal(pool.features.numpy(), X[:3].astype(np.float32))
    assert pool.audit.tolist() == expected
    assert (pool.views, ids) == (None, ["0", "1", "2"])


def test_a_pool_may_be_empty_or_without_labels_or_not_there(monkeypatch):
    X, y = blobs([60, 20, 30])
    pool, ids = pool_given(monkeypatch, y, X_unlabeled=X[:0], y_unlabeled=[])
    assert (pool.features.shape, pool.audit.tolist(), ids) == ((0, 5), [], [])
    pool, ids = pool_given(monkeypatch, y, X_unlabeled=torch.from_numpy(X[:2]))
    assert (pool.audit, ids) == (None, ["0", "1"])
    assert pool_given(monkeypatch, y) == (None, None)


def test_verbose_shows_the_steps_on_stderr(capsys):
    X, y = blobs([60, 20, 30])
    level = logging.getLogger("selmix").level
    quick().fit(X, y)
    assert "step" not in capsys.readouterr().err
    model = quick(verbose=True).fit(X, y)
    shown = capsys.readouterr()
    assert "step 50 of 100: min_recall" in shown.err
    assert shown.out == ""
    assert logging.getLogger("selmix").level == level
    assert not logging.getLogger("selmix").handlers
    assert [record["step"] for record in model.history_] == [0, 50, 100]


def test_importing_selmix_waits_for_nothing_and_the_estimator_for_no_images():
    code = (
        "import sys, selmix\n"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "from selmix import SelMixClassifier\n"
        "assert not {'timm', 'torchvision', 'PIL', 'faiss'} & set(sys.modules)\n"
        "assert not hasattr(selmix, 'SelMixRegressor')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=HERE)


def test_the_example_runs():
    example = ROOT / "examples" / "tabular.py"
    done = subprocess.run([sys.executable, example, "1"], check=True, capture_output=True, text=True, env=HERE)
    assert done.stdout.count("worst recall: ") == 2
