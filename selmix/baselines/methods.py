"""The ladder: every alternative to SelMix under one interface, and honest validation figures for each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.baselines.class_bias import tuned_bias
from selmix.baselines.logistic import train_logistic
from selmix.baselines.logit_adjustment import tuned_logit_adjustment
from selmix.baselines.mislas import MislasSettings, mislas_head
from selmix.baselines.nearest_mean import nearest_mean_head
from selmix.baselines.neighbours import NEIGHBOURS, NeighbourVote
from selmix.baselines.plug_in import PlugInMixture, fitted_temperature, frank_wolfe, posterior
from selmix.baselines.problem import Classifier, Problem, retrained
from selmix.baselines.tau_norm import tuned_tau_norm
from selmix.baselines.weight_scaling import scaled_head
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction


@dataclass(frozen=True)
class Method:
    """A rung of the ladder.

    Attributes:
        fit: (problem, metric, generator=) -> classifier.
        about: one line for people.
        source: where it comes from.
        learns_val: whether the validation labels enter the classifier in any way.
        tuned: whether the classifier depends on the metric.
    """

    fit: Callable[..., Classifier]
    about: str
    source: str
    learns_val: bool = True
    tuned: bool = False


def out_of_fold(
    problem: Problem, method: Method, metric: MetricFunction, *, generator: torch.Generator
) -> torch.Tensor:
    """Return predictions of val, int64 [n]: each by a classifier that was fitted without the fold of the sample."""
    predictions = torch.empty_like(problem.val.labels)
    for rows, smaller in problem.without_fold:
        classifier = method.fit(smaller, metric, generator=generator)
        predictions[rows] = classifier.logits(problem.val.tensor[rows]).argmax(1)
    return predictions


def _given(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return problem.source


def _probe(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return retrained(problem.train, problem.num_classes, 1, generator=generator)


def _crt(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return retrained(problem.train, problem.num_classes, 0, generator=generator)


def _crt_val(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return retrained(problem.pool, problem.num_classes, 0, generator=generator)


def _logistic(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return train_logistic(problem.train, problem.val, problem.num_classes)


def _logistic_val(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return problem.balanced.head


def _lws(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return scaled_head(problem.source, problem.pool)


def _mislas(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return mislas_head(problem.source, problem.pool, MislasSettings(), generator=generator)


def _nearest_mean(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return nearest_mean_head(problem.pool, problem.num_classes)


def _neighbours(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return NeighbourVote.fit(problem.pool, problem.num_classes)


def _tau_norm(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return tuned_tau_norm(problem.source, problem.val, metric)


def _logit_adjustment(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    return tuned_logit_adjustment(problem.source, problem.train_counts, problem.val, metric)


def _bias(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    fitted = problem.balanced
    bias = tuned_bias(fitted.val_logits, problem.val.labels, problem.train_counts, metric)
    return LinearHead(fitted.head.weight, fitted.head.bias + bias.to(fitted.head.bias))


def _plug_in(problem: Problem, metric: MetricFunction, *, generator: torch.Generator) -> Classifier:
    fitted, labels = problem.balanced, problem.val.labels
    temperature = fitted_temperature(fitted.val_logits, labels)
    prior = torch.bincount(labels, minlength=problem.num_classes) / len(labels)
    probabilities = posterior(fitted.val_logits, prior, temperature=temperature)
    gains, weights = frank_wolfe(probabilities, labels, metric, generator=generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return PlugInMixture(fitted.head, temperature, prior, gains, weights, seed)


_KANG = "Kang et al., ICLR 2020"

METHODS = {
    "given": Method(_given, "the head that came with the features", "-", learns_val=False),
    "probe": Method(_probe, "linear probe: SGD on train as it comes", "-", learns_val=False),
    "crt": Method(_crt, "head retrained on train with class-balanced sampling", _KANG, learns_val=False),
    "crt_val": Method(
        _crt_val, "head retrained on train and val likewise: one of the four in the `balanced` of finetune", _KANG
    ),
    "logistic": Method(_logistic, "balanced logistic regression on train, C chosen on val", "scikit-learn"),
    "logistic_val": Method(_logistic_val, "balanced logistic regression on train and val, C by folds", "scikit-learn"),
    "lws": Method(_lws, "learnable scale per logit of the given head, on train and val", _KANG),
    "mislas": Method(
        _mislas, "label-aware smoothing and scales per class, on train and val", "Zhong et al., CVPR 2021"
    ),
    "ncm": Method(_nearest_mean, "nearest class mean of train and val", "Mensink et al., TPAMI 2013"),
    "knn": Method(_neighbours, f"{NEIGHBOURS} nearest neighbours in train and val, votes / class count", "faiss"),
    "tau_norm": Method(_tau_norm, "rows of the given head / norm ** tau, tau by the metric on val", _KANG, tuned=True),
    "logit_adjustment": Method(
        _logit_adjustment,
        "given head minus tau log prior, tau by the metric on val",
        "Menon et al., ICLR 2021",
        tuned=True,
    ),
    "bias": Method(
        _bias, "logistic_val with a bias per class, by coordinate ascent on out-of-fold logits", "-", tuned=True
    ),
    "plug_in": Method(
        _plug_in,
        "Frank-Wolfe mixture of plug-ins on logistic_val; predicts by seeded draws",
        "Narasimhan et al., arXiv 2210.09695",
        tuned=True,
    ),
}
