"""Balanced logistic regression, its strength of regularisation chosen on validation samples that it has not learnt."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead

STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # C of scikit-learn, for features of unit mean square
ITERATIONS = 1000


@dataclass(frozen=True)
class CrossFitted:
    """A head that learnt from train and val, and what heads that lacked a fold of val say about that fold.

    Attributes:
        head: the result.
        val_logits: [n, k], out-of-fold.
    """

    head: LinearHead
    val_logits: torch.Tensor


def logistic_head(data: LabeledFeatures, num_classes: int, *, strength: float) -> LinearHead:
    """Fit softmax regression in which every class weighs the same (L-BFGS, L2).

    Args:
        data: every class must have a sample.
        num_classes: k.
        strength: C, the inverse of the regularisation, in centred features of unit mean square.

    Source: scikit-learn's LogisticRegression(class_weight="balanced").
    """
    space = FeatureSpace.fit(data.tensor)
    inputs = space.encode(data.tensor)[:, :-1].numpy()
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=ITERATIONS)
    model.fit(inputs, data.labels.numpy())
    weight = torch.from_numpy(np.column_stack([model.coef_, model.intercept_])).to(data.tensor)
    if num_classes == 2:  # scikit-learn keeps the difference of the two rows
        weight = torch.cat([torch.zeros_like(weight), weight])
    return space.decode_head(weight)


def train_logistic(train: LabeledFeatures, val: LabeledFeatures, num_classes: int) -> LinearHead:
    """Fit on train alone, with the strength that has the smallest balanced log loss on val."""
    heads = [logistic_head(train, num_classes, strength=strength) for strength in STRENGTHS]
    return min(heads, key=lambda head: balanced_log_loss(head.logits(val.tensor), val.labels))


def cross_fitted_logistic(
    train: LabeledFeatures, val: LabeledFeatures, fold: torch.Tensor, num_classes: int
) -> CrossFitted:
    """Fit on train and val, with the strength that has the smallest balanced log loss out of fold.

    Args:
        train: every class must have a sample.
        val: not empty.
        fold: int64 [n], of each validation sample.
        num_classes: k.
    """

    def fit(strength: float, rows: torch.Tensor) -> LinearHead:
        features = torch.cat([train.tensor, val.tensor[rows]])
        labels = torch.cat([train.labels, val.labels[rows]])
        return logistic_head(LabeledFeatures(features, labels), num_classes, strength=strength)

    def out_of_fold(strength: float) -> torch.Tensor:
        logits = val.tensor.new_empty(len(val.labels), num_classes)
        for part in fold.unique():
            logits[fold == part] = fit(strength, fold != part).logits(val.tensor[fold == part])
        return logits

    logits = {strength: out_of_fold(strength) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: balanced_log_loss(logits[strength], val.labels))
    return CrossFitted(fit(best, torch.ones_like(fold, dtype=torch.bool)), logits[best])


def balanced_log_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean over the classes that occur of the mean cross-entropy within the class."""
    losses = -logits.double().log_softmax(1).gather(1, labels.unsqueeze(1))[:, 0]
    counts = torch.bincount(labels, minlength=logits.shape[1])
    sums = torch.zeros(logits.shape[1], dtype=torch.float64).index_add_(0, labels, losses)
    return float((sums / counts)[counts > 0].mean())
