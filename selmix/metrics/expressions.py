"""Metrics written as arithmetic on other metrics, e.g. `0.5*mean_recall + 0.5*min(recall[cat], recall[dog])`.

    expression  number | k | metric name | rate[CLASS] | -e | (e) | e + e | e - e | e * e | e / e | e ** number
                | min(e, e, ...) | max(e, e, ...)
    rate        recall | precision | coverage
    CLASS       a name (in quotes unless it is a plain word) or the number of a class, from 0

The text is parsed, never run: what is not on this list is refused.
"""

import ast
import math
import operator
from collections.abc import Callable

import torch

from selmix.errors import UsageError, suggestion
from selmix.metrics.classes import RATES, class_label, class_position, class_rate
from selmix.metrics.metric import MetricContext, MetricForm
from selmix.metrics.minimum import Minimum, delta_errors, hard_minimum
from selmix.metrics.names import ALIASES, DEFINITIONS, unknown_metric
from selmix.metrics.syntax import DEEPEST, number, refuse, shortened, shown

Bind = Callable[[MetricContext | None], MetricForm]
"""What a piece of text means, once the data are known."""

_LARGEST_POWER = 16
_OPERATIONS: dict[type, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def compile_expression(node: ast.expr, depth: int = 0) -> Bind:
    """Turn a syntax tree into a metric form, or refuse it.

    Raises:
        UsageError: for what is not in the grammar, or an unknown name. What depends on the data (class names) is
            raised by the result when it gets them.
    """
    if depth > DEEPEST:
        raise UsageError(f"the expression is nested more than {DEEPEST} deep; write it flatter")
    match node:
        case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return _constant(number(node))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            inner = compile_expression(operand, depth + 1)
            return _map(operator.neg if isinstance(sign, ast.USub) else operator.pos, inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power = number(right)
            if abs(power) > _LARGEST_POWER:
                raise UsageError(f"powers go from -{_LARGEST_POWER} to {_LARGEST_POWER}, got {power:g}")
            return _map(lambda value: value**power, compile_expression(left, depth + 1))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            sides = compile_expression(left, depth + 1), compile_expression(right, depth + 1)
            return _pair(_OPERATIONS[type(operation)], *sides)
        case ast.Call(func=ast.Name(id="min" | "max" as which), args=args, keywords=[]) if len(args) > 1:
            return _extreme([compile_expression(item, depth + 1) for item in args], sign=1 if which == "min" else -1)
        case ast.Subscript(value=ast.Name(id=rate), slice=label):
            return _class_rate(rate, label)
        case ast.Name(id=name):
            return _named(name)
    raise refuse(node)


def _constant(value: float) -> Bind:
    return lambda context: lambda confusion, minimum: confusion.new_tensor(value)


def _map(operation: Callable[[torch.Tensor], torch.Tensor], inner: Bind) -> Bind:
    def bind(context: MetricContext | None) -> MetricForm:
        form = inner(context)
        return lambda confusion, minimum: operation(form(confusion, minimum))

    return bind


def _pair(operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], left: Bind, right: Bind) -> Bind:
    def bind(context: MetricContext | None) -> MetricForm:
        first, second = left(context), right(context)
        return lambda confusion, minimum: operation(first(confusion, minimum), second(confusion, minimum))

    return bind


def _extreme(items: list[Bind], *, sign: int) -> Bind:
    """Return the minimum (sign 1) or the maximum, which is the negative minimum of the negatives (sign -1)."""

    def bind(context: MetricContext | None) -> MetricForm:
        forms = [item(context) for item in items]

        def form(confusion: torch.Tensor, minimum: Minimum) -> torch.Tensor:
            values = torch.stack([form(confusion, minimum) for form in forms])
            return sign * minimum(sign * values, lambda support: delta_errors(values, confusion, support))

        return form

    return bind


def _class_rate(rate: str, label: ast.expr) -> Bind:
    if rate not in RATES:
        raise UsageError(f"{rate}[...] is unknown: {suggestion(rate, RATES)}")
    wanted = class_label(label)

    def bind(context: MetricContext | None) -> MetricForm:
        position = class_position(wanted, context)
        return lambda confusion, minimum: class_rate(rate, confusion, position)

    return bind


def _named(name: str) -> Bind:
    if name == "k":
        return lambda context: lambda confusion, minimum: confusion.new_tensor(float(confusion.shape[1]))
    if name in RATES:
        raise UsageError(f"{name} is one number for each class: write {name}[CLASS], mean_recall or min_recall")
    name = ALIASES.get(name, name)
    if name not in DEFINITIONS:
        raise UsageError(f"unknown metric {shortened(name)!r}: {unknown_metric(name)}")

    def bind(context: MetricContext | None) -> MetricForm:
        metric = DEFINITIONS[name].bind(context)
        return metric.form or (lambda confusion, minimum: metric.value(confusion))

    return bind


def names_a_metric(node: ast.expr) -> bool:
    """Return whether anything in the expression depends on the confusion matrix."""
    return any(isinstance(part, ast.Name) and part.id not in {"k", "min", "max"} for part in ast.walk(node))


def arithmetic(node: ast.expr, num_classes: int) -> float:
    """Return the value of an expression of numbers and k.

    Raises:
        UsageError: for anything else, or a result that is not finite.
    """
    if names_a_metric(node):
        raise UsageError(f"{shown(node)} must be a number, such as 0.8 or 0.95/k")
    value = float(compile_expression(node)(None)(torch.zeros(1, num_classes, dtype=torch.float64), hard_minimum))
    if not math.isfinite(value):
        raise UsageError(f"{shown(node)} is not a finite number")
    return value
