"""Metrics psi(C) of the joint confusion matrix, and their gradient in logit space."""

from selmix.metrics.gradient import logit_gradient, metric_gradient
from selmix.metrics.metric import Metric, MetricContext, MetricFunction
from selmix.metrics.minimum import SoftMinimum, soft_minimum
from selmix.metrics.names import ALIASES, DEFINITIONS, METRICS
from selmix.metrics.request import MetricRequest, get_metric, parse_metric, request_of
from selmix.metrics.syntax import split_texts
from selmix.metrics.user import is_reference
from selmix.metrics.values import mean_recall

__all__ = [
    "ALIASES",
    "DEFINITIONS",
    "METRICS",
    "Metric",
    "MetricContext",
    "MetricFunction",
    "MetricRequest",
    "SoftMinimum",
    "get_metric",
    "is_reference",
    "logit_gradient",
    "mean_recall",
    "metric_gradient",
    "parse_metric",
    "request_of",
    "soft_minimum",
    "split_texts",
]
