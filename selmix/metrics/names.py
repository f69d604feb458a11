"""The metrics that have a name, with what each of them promises."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.errors import DataError, UsageError, suggestion
from selmix.metrics import values
from selmix.metrics.classes import RATES
from selmix.metrics.groups import HEAD_ABOVE, TAIL_BELOW, ClassGroups, min_head_tail_recall, worst_group_recall
from selmix.metrics.metric import Metric, MetricContext, MetricFunction
from selmix.metrics.minimum import Minimum, hard_minimum

_LEFT_OUT = "left out"
_WRONG = "counts as a wrong prediction where it is predicted"


@dataclass(frozen=True)
class Definition:
    """What a name stands for.

    Attributes:
        name: as the user types it.
        formula: as in `Metric`.
        bind: data -> the metric; without data a metric that needs some is refused.
        empty_class: what a class without samples does to it.
        lowest: end of the range; the other end is 1. Higher is better, for all of them.
        needs: what of the data it needs, in words; empty for most.
    """

    name: str
    formula: str
    bind: Callable[[MetricContext | None], Metric]
    empty_class: str = _LEFT_OUT
    lowest: float = 0.0
    needs: str = ""


def _plain(
    name: str, formula: str, value: MetricFunction, *, empty_class: str = _LEFT_OUT, lowest: float = 0.0
) -> Definition:
    metric = Metric(name, formula, value)
    return Definition(name, formula, lambda context: metric, empty_class, lowest)


_MIN_RECALL = Metric("min_recall", "min_i r_i", values.min_recall, values.min_recall)
_HEAD_TAIL = f"min of the mean r_i of head (> {HEAD_ABOVE} training samples) and tail classes (< {TAIL_BELOW})"
_WORST_GROUP = "min over groups of the mean r_i within the group"


def _bind_head_tail(context: MetricContext | None) -> Metric:
    if context is None:
        raise UsageError("min_head_tail_recall needs the training counts: parse_metric(name).bind(MetricContext(...))")
    members = ClassGroups.from_counts(context.class_counts).head_and_tail
    if members is None:
        least, most = int(context.class_counts.min()), int(context.class_counts.max())
        raise DataError(
            f"min_head_tail_recall needs a class of more than {HEAD_ABOVE} training samples and one of fewer than "
            f"{TAIL_BELOW}; here they have {least} to {most}: choose another metric, such as min_recall"
        )
    return Metric(
        "min_head_tail_recall",
        _HEAD_TAIL,
        lambda confusion: min_head_tail_recall(confusion, members),
        lambda confusion, minimum: min_head_tail_recall(confusion, members, minimum),
    )


def _bind_worst_group(context: MetricContext | None) -> Metric:
    if context is None:
        raise UsageError("worst_group_recall needs the groups: parse_metric(name).bind(MetricContext(...))")
    if context.num_groups < 2:
        raise DataError("worst_group_recall needs groups of samples, and these data have none: try min_recall")
    num_groups = context.num_groups

    def form(confusion: torch.Tensor, minimum: Minimum = hard_minimum) -> torch.Tensor:
        assert len(confusion) == num_groups * confusion.shape[1], "rows are classes times groups"
        return worst_group_recall(confusion, minimum)

    return Metric("worst_group_recall", _WORST_GROUP, form, form)


DEFINITIONS = {
    definition.name: definition
    for definition in (
        _plain("accuracy", "sum_i C_ii", values.accuracy, empty_class=_WRONG),
        _plain("mean_recall", "mean_i r_i", values.mean_recall),
        Definition("min_recall", _MIN_RECALL.formula, lambda context: _MIN_RECALL),
        _plain("geometric_mean", "(prod_i r_i) ^ (1/k)", values.geometric_mean),
        _plain("harmonic_mean", "k / sum_i (1 / r_i)", values.harmonic_mean),
        _plain("q_mean", "1 - sqrt(mean_i (1 - r_i)^2)", values.q_mean),
        _plain("macro_f1", "mean_i 2 C_ii / (pi_i + c_i)", values.macro_f1),
        _plain("micro_f1", "sum_i C_ii, F1 over all classes pooled", values.micro_f1, empty_class=_WRONG),
        _plain(
            "mcc",
            "(sum_i C_ii - sum_i pi_i c_i) / sqrt((1 - sum_i pi_i^2) (1 - sum_i c_i^2))",
            values.mcc,
            empty_class=_WRONG,
            lowest=-1.0,
        ),
        _plain(
            "kappa",
            "(sum_i C_ii - sum_i pi_i c_i) / (1 - sum_i pi_i c_i)",
            values.kappa,
            empty_class=_WRONG,
            lowest=-1.0,
        ),
        Definition("min_head_tail_recall", _HEAD_TAIL, _bind_head_tail, needs="head and tail classes"),
        Definition("worst_group_recall", _WORST_GROUP, _bind_worst_group, needs="groups of samples"),
    )
}
METRICS = {name: definition.bind(None) for name, definition in DEFINITIONS.items() if not definition.needs}

# the names scikit-learn users type first
ALIASES = {
    "balanced_accuracy": "mean_recall",
    "recall_macro": "mean_recall",
    "f1_macro": "macro_f1",
    "f1_micro": "micro_f1",
    "matthews_corrcoef": "mcc",
    "cohen_kappa": "kappa",
}

# what tables show beside the metrics that can be asked for
REPORTED = {
    "min_coverage": "min_j c_j, the smallest share of the predictions",
    "head_recall": f"mean recall of the classes with more than {HEAD_ABOVE} training samples",
    "medium_recall": f"mean recall of the classes with {TAIL_BELOW} to {HEAD_ABOVE} training samples",
    "tail_recall": f"mean recall of the classes with fewer than {TAIL_BELOW} training samples",
    "ece": "expected calibration error, 15 bins; lower is better",
}

_INSTEAD = {
    "min_coverage": "constrain every class: --subject-to 'coverage >= 0.95/k'",
    "head_recall": "name classes, as in recall[CLASS], or take mean_recall",
    "medium_recall": "name classes, as in recall[CLASS], or take mean_recall",
    "tail_recall": "take min_head_tail_recall, or name classes, as in recall[CLASS]",
    "ece": "`selmix predict --calibrated` lowers it after the tuning",
}


def unknown_metric(name: str) -> str:
    """Return what to say of a word that is no metric: the nearest one, all that there are, and what they need."""
    if name in REPORTED:
        return f"it is reported, and cannot be asked for; {_INSTEAD[name]}"
    near = suggestion(name, [*DEFINITIONS, *ALIASES, *RATES], listed=False)
    listed = [own.name + f" (needs {own.needs})" * bool(own.needs) for own in DEFINITIONS.values()]
    return (
        f"{near} " * near.endswith("?") + f"there are: {', '.join(listed)}; scikit-learn's names, such as "
        f"{next(iter(ALIASES))}; for one class {', '.join(f'{rate}[CLASS]' for rate in RATES)}; only reported: "
        f"{', '.join(REPORTED)}"
    )
