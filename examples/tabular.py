"""Nothing in selmix is about images: long-tailed tables, the worst class's recall, and an honest comparison.

Two problems of scikit-learn's, every seed another draw. Both classifiers get the same standardised features and the
same labels: class-balanced logistic regression learns from train and validation together, with its strength chosen by
cross-validation; SelMixClassifier gets the two apart. Recalls are those of test samples, which neither has seen.

    python examples/tabular.py [number of seeds]
"""

import logging
import sys

import numpy as np
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from selmix import SelMixClassifier

TEST = {"synthetic": 1000, "digits": 80}  # samples a class
VAL = {"synthetic": 40, "digits": 20}
TRAIN = {"synthetic": [1000, 400, 160, 64, 25], "digits": [70, 54, 42, 32, 25, 19, 15, 12, 9, 7]}


def problem(name, seed):
    """Return the features and labels of all samples."""
    if name == "digits":
        return load_digits(return_X_y=True)
    return make_classification(
        14_000, n_features=20, n_informative=8, n_redundant=4, n_classes=5, n_clusters_per_class=1, class_sep=0.8,
        random_state=seed,
    )  # fmt: skip


def split(name, labels, seed):
    """Return the positions of a long-tailed train split, and of validation and test with equally many of each class."""
    rng = np.random.default_rng(seed)
    parts = {"train": [], "val": [], "test": []}
    for label, train in enumerate(TRAIN[name]):
        order = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum([TEST[name], VAL[name], train])
        for part, own in zip(("test", "val", "train"), np.split(order, cuts)[:3], strict=True):
            parts[part].extend(own)
    return parts["train"], parts["val"], parts["test"]


def recalls(name, seed):
    """Return worst and mean recall on test: of logistic regression, then of SelMix."""
    X, y = problem(name, seed)
    train, val, test = split(name, y, seed)
    X = StandardScaler().fit(X[train + val]).transform(X)
    logistic = GridSearchCV(
        LogisticRegression(class_weight="balanced", max_iter=2000),
        {"C": [0.001, 0.01, 0.1, 1, 10]},
        scoring="balanced_accuracy",
    )
    logistic.fit(X[train + val], y[train + val])
    selmix = SelMixClassifier(metric="min_recall", random_state=seed)
    selmix.fit(X[train], y[train], X_val=X[val], y_val=y[val])
    each = [recall_score(y[test], model.predict(X[test]), average=None) for model in (logistic, selmix)]
    return [figure for own in each for figure in (own.min(), own.mean())]


def main(seeds):
    """Print worst and mean recall for every seed, and over the seeds."""
    logging.getLogger("selmix").setLevel(logging.ERROR)  # it warns of few validation samples
    for name in TRAIN:
        print(f"{name}: recall on test, %    logistic regression        selmix")
        print("                              worst    mean      worst    mean")
        rows = 100 * np.array([recalls(name, seed) for seed in range(seeds)])
        for seed, row in enumerate(rows):
            print(f"  seed {seed:<23}" + "{:6.1f}  {:6.1f}     {:6.1f}  {:6.1f}".format(*row))
        print(f"  {'mean':<28}" + "{:6.1f}  {:6.1f}     {:6.1f}  {:6.1f}".format(*rows.mean(0)))
        change = rows[:, 2] - rows[:, 0]
        print(
            f"  worst recall: {change.mean():+.1f} points on average, higher for {(change > 0).sum()} of {seeds} seeds"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
