"""The formulas: psi(C) of the joint confusion matrix, C[i, j] = P(y = i, yhat = j), and its minimum where it has one.

Every function takes the matrix [k, k], or [k g, k] with a row for each class and group of samples, and returns a 0-d
tensor; higher is better. A class without samples has no recall and is left out; it still counts as a wrong prediction
for the samples given to it. At least one class must have samples.
"""

import torch

from selmix.confusion import class_confusion, class_prior, coverage, recall
from selmix.metrics.minimum import Minimum, hard_minimum, rate_variance


def class_recall(confusion: torch.Tensor) -> torch.Tensor:
    """Return the recall of the classes that have samples, in class order, [number of such classes]."""
    return recall(class_confusion(confusion))


def accuracy(confusion: torch.Tensor) -> torch.Tensor:
    """Return the share of correct predictions."""
    return class_confusion(confusion).diagonal().sum()


def mean_recall(confusion: torch.Tensor) -> torch.Tensor:
    """Return the mean recall (balanced accuracy)."""
    return class_recall(confusion).mean()


def min_recall(confusion: torch.Tensor, minimum: Minimum = hard_minimum) -> torch.Tensor:
    """Return the worst class's recall."""
    recalls = class_recall(confusion)
    present = class_prior(class_confusion(confusion)) > 0

    def errors(support: torch.Tensor) -> torch.Tensor:
        return rate_variance(recalls, support.view(len(present), -1).sum(1)[present]).sqrt()

    return minimum(recalls, errors)


def geometric_mean(confusion: torch.Tensor) -> torch.Tensor:
    """Return the geometric mean of recalls; 0, with zero gradient, when a recall is 0."""
    recalls = class_recall(confusion)
    if (recalls == 0).any():
        return 0 * recalls.sum()
    return recalls.log().mean().exp()


def harmonic_mean(confusion: torch.Tensor) -> torch.Tensor:
    """Return the harmonic mean of recalls; 0, with zero gradient, when a recall is 0."""
    recalls = class_recall(confusion)
    if (recalls == 0).any():
        return 0 * recalls.sum()
    return 1 / (1 / recalls).mean()


def q_mean(confusion: torch.Tensor) -> torch.Tensor:
    """Return 1 - the quadratic mean of the misses 1 - r_i.

    Where every recall is 1 it has the tip of a cone; the gradient there is taken as 0, a supergradient of the maximum.

    Source: Narasimhan et al., "Consistent multiclass algorithms for complex metrics and constraints", JMLR 25, 2024.
    """
    misses = 1 - class_recall(confusion)
    return 1 - torch.linalg.vector_norm(misses) / len(misses) ** 0.5


def macro_f1(confusion: torch.Tensor) -> torch.Tensor:
    """Return the mean over classes of F1 = 2 C_ii / (pi_i + c_i)."""
    confusion = class_confusion(confusion)
    prior = class_prior(confusion)
    present = prior > 0
    return (2 * confusion.diagonal()[present] / (prior + coverage(confusion))[present]).mean()


def micro_f1(confusion: torch.Tensor) -> torch.Tensor:
    """Return F1 of the pooled decisions, scikit-learn's `average="micro"` over all classes: equal to the accuracy.

    Some papers leave out a class of "others"; here every class counts.
    """
    return accuracy(confusion)


def mcc(confusion: torch.Tensor) -> torch.Tensor:
    """Return the correlation of labels and predictions; 0, with zero gradient, when either are all the same.

    Source: Gorodkin, Computational Biology and Chemistry 28, 2004 (R_K), from Matthews, 1975.
    """
    confusion = class_confusion(confusion)
    prior, covered = class_prior(confusion), coverage(confusion)
    # sum_i x_i (1 - x_i) = 1 - sum_i x_i^2, exactly 0 where one x_i is all there is
    spread = (prior * (prior.sum() - prior)).sum() * (covered * (covered.sum() - covered)).sum()
    if spread == 0:
        return 0 * confusion.sum()
    return (confusion.diagonal().sum() - prior @ covered) / spread.sqrt()


def kappa(confusion: torch.Tensor) -> torch.Tensor:
    """Return (accuracy - that of chance) / (1 - that of chance); 0, with zero gradient, when chance is always right.

    Source: Cohen, Educational and Psychological Measurement 20, 1960.
    """
    confusion = class_confusion(confusion)
    prior, covered = class_prior(confusion), coverage(confusion)
    chance = prior @ covered
    # 1 - chance = sum_i pi_i (1 - c_i), exactly 0 where one class is all there is
    room = (prior * (covered.sum() - covered)).sum()
    if room == 0:
        return 0 * confusion.sum()
    return (confusion.diagonal().sum() - chance) / room
