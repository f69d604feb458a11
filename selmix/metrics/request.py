"""From what the user typed to a metric: read at once, bound when the data are known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.errors import UsageError
from selmix.metrics.check import check_differentiable, check_finite
from selmix.metrics.expressions import Bind, compile_expression, names_a_metric
from selmix.metrics.metric import Metric, MetricContext
from selmix.metrics.minimum import hard_minimum
from selmix.metrics.names import ALIASES, DEFINITIONS
from selmix.metrics.syntax import parse_syntax
from selmix.metrics.user import is_reference, load_metric, metric_of_function


@dataclass(frozen=True)
class MetricRequest:
    """A metric as asked for, correct as far as that can be known without data.

    Attributes:
        name: a listed name (never an alias), or the text of an expression or function.
        source: what it stands for: an expression to bind, or a ready function of the user's.
    """

    name: str
    source: Bind | Metric

    def bind(self, context: MetricContext) -> Metric:
        """Return the metric for these data, tried out.

        Raises:
            UsageError: for an unknown class, or a metric that is not finite or not differentiable.
            DataError: if the data lack what it needs.
        """
        metric = self.untried(context)
        if self.name not in DEFINITIONS:
            check_finite(metric, self.name, context.num_classes, context.num_groups)
        if isinstance(self.source, Metric):
            check_differentiable(metric, self.name, context.num_classes)
        return metric

    def untried(self, context: MetricContext | None = None) -> Metric:
        """Return the metric as it is written; without data those that need some are refused."""
        if isinstance(self.source, Metric):
            return self.source
        if self.name in DEFINITIONS:
            return DEFINITIONS[self.name].bind(context)
        form = self.source(context)
        return Metric(self.name, self.name, lambda confusion: form(confusion, hard_minimum), form)


def parse_metric(text: str) -> MetricRequest:
    """Read a metric: a name, one of scikit-learn's names, an expression, or `path/to/file.py:function`.

    Raises:
        UsageError: for all that can be wrong with it before the data are known.

    >>> import torch
    >>> context = MetricContext(["cat", "dog"], torch.tensor([500, 10]))
    >>> metric = parse_metric("0.5*mean_recall + 0.5*recall[dog]").bind(context)
    >>> round(float(metric(torch.tensor([[0.4, 0.1], [0.3, 0.2]]))), 3)
    0.5
    """
    text = text.strip()
    if is_reference(text):
        return MetricRequest(text, load_metric(text))
    name = ALIASES.get(text, text)
    node = parse_syntax(name)
    bind = compile_expression(node)
    if not names_a_metric(node):
        raise UsageError(f"{text} names no metric, so nothing could be raised; name one, such as min_recall")
    return MetricRequest(name, bind)


def request_of(metric: str | Callable[[torch.Tensor], torch.Tensor]) -> MetricRequest:
    """Read a metric given as text, or as a function of the class confusion matrix [k, k].

    Raises:
        UsageError: as `parse_metric`; or for a function that does not take one argument.
    """
    if isinstance(metric, str):
        return parse_metric(metric)
    if not callable(metric):
        raise UsageError(f"metric must be a text or a function of the confusion matrix, got {metric!r}")
    # the colon, as in path.py:function, keeps the name apart from those of listed metrics
    name = f"{getattr(metric, '__module__', '')}:{getattr(metric, '__qualname__', type(metric).__qualname__)}"
    return MetricRequest(name, metric_of_function(metric, name=name, formula="a function of the user's"))


def get_metric(name: str) -> Metric:
    """Return a metric that needs nothing of the data.

    Raises:
        UsageError: if there is no such metric (the message lists the names and the nearest match), or it needs data.

    >>> import torch
    >>> confusion = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
    >>> round(float(get_metric("min_recall")(confusion)), 3)
    0.4
    """
    return parse_metric(name).untried()
