"""SelMix as a scikit-learn classifier on feature arrays, of anything, not only images."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from selmix.audit.document import audit_pool
from selmix.confusion import joint_confusion
from selmix.constraints import bind_constraints, parse_constraint
from selmix.errors import DataError, UsageError
from selmix.features.arrays import as_array, as_tensor, encoded, given_head
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.features.names import RowNames
from selmix.metrics import MetricContext, request_of
from selmix.pipeline import Tuning, tune
from selmix.pseudo.settings import PseudoSettings
from selmix.recipe import pseudo_settings, refine_settings, stage_two_tables
from selmix.stage2.settings import RefineSettings

logger = logging.getLogger("selmix")

_BLOCK = 1 << 14  # rows in float64 at a time


class SelMixClassifier(ClassifierMixin, BaseEstimator):
    """Fit a linear classifier for the metric that matters when classes are imbalanced.

    One scale serves all features, so put a StandardScaler before it where columns differ in unit. A softmax regression
    with class-balanced sampling comes first; then SelMix moves it along the class-pair mixups that raise the metric.

    Args:
        metric: a name (see `selmix metrics`), an alias of scikit-learn's, an expression such as
            `0.5*mean_recall + 0.5*recall[owl]`, `path.py:function`, or a differentiable function of the joint confusion
            matrix (float64 torch tensor [k, k], rows true) -> 0-d tensor. `score` returns it.
        subject_to: constraints such as `coverage >= 0.9/k`.
        steps: SGD steps of the loop; the heads that it starts from take as many, but no more than 5000.
        settings: other settings of stage two by name (docs/settings.md), such as {"folds": 10}, and of pseudo-labels,
            such as {"pseudo.source": "head"}.
        random_state: seed, RandomState, or None for a new seed each time.
        verbose: show the progress of `fit` on stderr.

    Attributes:
        classes_: labels, sorted.
        class_count_: samples of each in `y`.
        coef_: float64 [k, d]; [1, d] with two classes.
        intercept_: float64 [k]; [1] with two classes.
        n_features_in_: columns of `X`.
        feature_names_in_: their names, where it has some.
        n_iter_: steps taken.
        best_step_: the step whose head was kept, 0 for the start.
        start_: head that the loop started from: `balanced`, `given` or `logit_adjusted`.
        history_: a dict for each refresh: step, metric out of fold, largest gain.
        val_metrics_: every metric on the validation samples for `before` (the given head, or a plain softmax
            regression), `balanced` and `after`; no sample is judged by a head that has learnt it, but validation chose
            the step, so that `after` is a little optimistic. None where undefined.
        pseudo_labels_: what became of `X_unlabeled`, and what its pseudo-labels are worth: `pseudo_labels` of a result
            (docs/estimator.md); None without such samples.
        groups_: the sample groups, sorted; empty without groups.

    Source: SelMix, ICLR 2024; see `selmix.stage2`.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = SelMixClassifier(metric="min_recall", steps=300, random_state=0).fit(X[:110], y[:110])
    >>> classifier.predict(X[:1]).tolist()
    [0]
    """

    def __init__(
        self,
        metric: str | Callable[[torch.Tensor], torch.Tensor] = "min_recall",
        *,
        subject_to: Sequence[str] = (),
        steps: int = 5000,
        settings: dict[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.metric = metric
        self.subject_to = subject_to
        self.steps = steps
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        *,
        X_unlabeled: Any = None,
        y_unlabeled: Any = None,
        groups: Any = None,
        groups_val: Any = None,
        head: tuple[Any, Any] | None = None,
    ) -> Self:
        """Fit the classifier.

        Without validation samples a fifth of each class is set aside for their part; all samples train the classifier
        all the same, by cross-fitting. The only sample of a class (and group) trains, and nothing judges it.

        Args:
            X: [n, d], an array, a torch tensor or a memory map; dense and finite. It is worked on in float32. What is
                C-contiguous float32 is not copied if there is `X_val`; without, the set-aside part makes it a copy.
            y: labels [n] of any type.
            X_val: [m, d], samples that nothing has been fitted to, from the distribution that matters.
            y_val: [m], of the classes of `y`; some may be missing.
            X_unlabeled: [u, d], samples of which nobody needs to know the class; may be empty.
            y_unlabeled: [u], labels that pseudo-labels may be judged by, and nothing is fitted to; what is no class of
                `y` stands for a sample of no known class.
            groups: [n] group of each sample (background, hospital), for metrics such as worst_group_recall.
            groups_val: [m], of the validation samples.
            head: (coef [k, d], intercept [k]) of a classifier fitted to X alone ([1, d] and [1] with two classes), in
                the order of the sorted labels: one more head to start from.

        Raises:
            ValueError: for a faulty request, or faulty data.
        """
        request = request_of(self.metric)
        texts = [self.subject_to] if isinstance(self.subject_to, str) else self.subject_to
        wanted = [parse_constraint(text) for text in texts]
        settings, pseudo = self._settings()
        splits = self._splits(X, y, X_val, y_val, groups, groups_val)
        pool = self._pool(X_unlabeled, y_unlabeled)
        sizes = {name: len(split.labels) for name, split in splits.items()}
        sizes |= {} if pool is None else {"unlabeled": len(pool.features)}
        data = FeatureData(
            class_names=[str(name) for name in self.classes_],
            splits=splits,
            ids={name: RowNames(range(size)) for name, size in sizes.items()},
            unlabeled=pool,
            group_names=[str(name) for name in self.groups_],
            head=None if head is None else given_head(*head, num_classes=len(self.classes_), width=self.n_features_in_),
        )
        context = self._context(grouped=groups is not None)
        constraints = bind_constraints(wanted, context)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with _shown(self.verbose):
            tuning = tune(data, request.bind(context), settings, seed=seed, pseudo=pseudo, constraints=constraints)
            self._keep(tuning)
            audit = audit_pool(tuning, seed=seed)
        self.pseudo_labels_ = None if audit is None else audit.document
        return self

    def _settings(self) -> tuple[RefineSettings, PseudoSettings]:
        others = dict(self.settings or {})
        if "steps" in others:
            raise UsageError("settings must not have steps; pass it as SelMixClassifier(steps=...)")
        own = {"steps": self.steps, "start_steps": min(self.steps, RefineSettings.start_steps)}
        plain = {
            name: value.item() if isinstance(value, np.generic) else value for name, value in (own | others).items()
        }
        tables = stage_two_tables(plain)
        return refine_settings(tables["stage2"]), pseudo_settings(tables["pseudo"])

    def _features(self, X: Any, *, at_least: int = 1) -> torch.Tensor:
        rules: dict[str, Any] = {"dtype": np.float32, "order": "C", "ensure_min_samples": at_least}
        return as_tensor(validate_data(self, as_array(X), reset=False, **rules))

    def _pool(self, X: Any, y: Any) -> UnlabeledFeatures | None:
        if X is None and y is not None:
            raise UsageError("y_unlabeled goes with X_unlabeled; give both, or X_unlabeled alone")
        if X is None:
            return None
        features = self._features(X, at_least=0)
        if y is None:
            return UnlabeledFeatures(features)
        y = column_or_1d(as_array(y))
        check_consistent_length(features, y)
        number_of = {name: number for number, name in enumerate(self.classes_.tolist())}
        audit = torch.tensor([number_of.get(name, -1) for name in y.tolist()], dtype=torch.int64)
        return UnlabeledFeatures(features, audit=audit)

    def _splits(
        self, X: Any, y: Any, X_val: Any, y_val: Any, groups: Any, groups_val: Any
    ) -> dict[str, LabeledFeatures]:
        """Return the splits, and learn what classes and groups there are."""
        if (X_val is None) != (y_val is None):
            raise UsageError("give X_val and y_val, or neither of them")
        if (groups_val is None) != (groups is None or X_val is None):
            raise UsageError(
                "groups_val must come with groups and X_val, and groups with groups_val where there is X_val"
            )
        X, y = validate_data(self, as_array(X), as_array(y), dtype=np.float32, order="C")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.class_count_ = np.bincount(labels)
        self.groups_ = np.empty(0)
        parts = {"train": (as_tensor(X), labels, groups)}
        if X_val is not None:
            own_labels = encoded(y_val, self.classes_, "y_val has a class that y lacks")
            parts["val"] = (self._features(X_val), own_labels, groups_val)
        if groups is not None:
            self.groups_ = np.unique(np.concatenate([column_or_1d(as_array(own)) for _, _, own in parts.values()]))
        splits = {}
        for name, (features, own_labels, own_groups) in parts.items():
            check_consistent_length(features, own_labels, own_groups)
            rows = (
                None
                if own_groups is None
                else torch.from_numpy(encoded(own_groups, self.groups_, "groups and groups_val differ in type"))
            )
            splits[name] = LabeledFeatures(features, torch.from_numpy(own_labels), rows)
        return splits

    def _context(self, *, grouped: bool) -> MetricContext:
        names = [str(name) for name in self.classes_]
        return MetricContext(names, torch.from_numpy(self.class_count_), len(self.groups_) if grouped else 1)

    def _keep(self, tuning: Tuning) -> None:
        refined = tuning.refined
        weight, bias = tuning.head.weight.double().numpy(), tuning.head.bias.double().numpy()
        binary = len(self.classes_) == 2
        self.coef_: np.ndarray = weight[1:] - weight[:1] if binary else weight
        self.intercept_: np.ndarray = bias[1:] - bias[:1] if binary else bias
        self.n_iter_, self.best_step_ = refined.steps, refined.best_step
        self.start_, self.history_ = tuning.start, refined.history
        self.val_metrics_ = {name: evaluation.metrics for name, evaluation in tuning.evaluations["val"].items()}
        best = next(record for record in refined.history if record["step"] == refined.best_step)
        if best.get("violation", 0) > 0:
            logger.warning("subject_to is missed by %.3g in sum, out of fold; ask for less", best["violation"])

    def decision_function(self, X: Any) -> np.ndarray:
        """Return logits [n, k]; with two classes [n], positive for `classes_[1]`."""
        check_is_fitted(self)
        X = validate_data(self, as_array(X), reset=False, dtype=[np.float64, np.float32])
        blocks = [X[rows].astype(np.float64) @ self.coef_.T for rows in gen_batches(len(X), _BLOCK)]
        scores = np.concatenate(blocks) + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the softmax of the logits, [n, k]; it is tuned for the metric and not for calibration."""
        scores = torch.from_numpy(self.decision_function(X))
        binary = scores.ndim == 1
        return (torch.stack([-scores, scores], 1).sigmoid() if binary else scores.softmax(1)).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return labels [n]."""
        predictions = self._predictions(X)
        return self.classes_[predictions]

    def _predictions(self, X: Any) -> np.ndarray:
        scores = self.decision_function(X)
        return scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(np.int64)

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None) -> float:
        """Return the metric that the classifier was tuned for (not the accuracy).

        Args:
            X: [n, d].
            y: [n], of the classes seen by `fit`; those without samples here are left out of the metric.
            sample_weight: [n], how often each sample counts.
            groups: [n], needed by metrics of groups.

        Raises:
            ValueError: for a class or group that `fit` has not seen, or a metric that has no value here.
        """
        predictions = self._predictions(X)
        labels = encoded(y, self.classes_, "y has a class that fit has not seen")
        context = self._context(grouped=groups is not None)
        rows = labels
        if groups is not None:
            rows = labels * context.num_groups + encoded(groups, self.groups_, "fit has not seen a group in groups")
        check_consistent_length(predictions, rows, sample_weight)
        weights = _check_sample_weight(sample_weight, predictions, dtype=np.float64, ensure_non_negative=True)
        metric = request_of(self.metric).untried(context)
        shape = (context.num_classes * context.num_groups, context.num_classes)
        counts = np.bincount(rows * shape[1] + predictions, weights, minlength=shape[0] * shape[1]).reshape(shape)
        value = float(metric(joint_confusion(torch.from_numpy(counts))))
        if np.isnan(value):
            raise DataError(f"{metric.name} has no value: a class that it needs has no samples in y")
        return value


@contextmanager
def _shown(verbose: bool) -> Iterator[None]:
    """Show all log lines of selmix on stderr."""
    if not verbose:
        yield
        return
    level, handler = logger.level, logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
