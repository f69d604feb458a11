"""From what the user typed to constraints: read at once, bound when the data are known.

constraint  rate >= bound               every class
            expression >= bound         a class rate (recall[cat]), a metric, or arithmetic on them
            ... <= bound                likewise
rate        recall | precision | coverage
bound       arithmetic on numbers and k
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from selmix.constraints.constraint import TOLERANCE, Constraint
from selmix.errors import UsageError
from selmix.metrics.check import check_finite
from selmix.metrics.classes import RATES, class_label, class_position
from selmix.metrics.expressions import Bind, arithmetic, compile_expression, names_a_metric
from selmix.metrics.metric import MetricContext, MetricForm
from selmix.metrics.minimum import hard_minimum
from selmix.metrics.names import ALIASES, DEFINITIONS, unknown_metric
from selmix.metrics.syntax import parse_syntax, shown


@dataclass(frozen=True)
class ConstraintRequest:
    """A constraint as asked for, correct as far as that can be known without data.

    Attributes:
        text: as typed.
        left: what is constrained.
        at_least: >= or <=.
        bound: the other side.
        bind_left: what the left side means once the data are known; None for a rate of every class.
    """

    text: str
    left: ast.expr
    at_least: bool
    bound: ast.expr
    bind_left: Bind | None

    def bind(self, context: MetricContext) -> Constraint:
        """Return the constraint for these data.

        Raises:
            UsageError: for an unknown class, or a bound that nothing can keep.
            DataError: if the data lack what the left side needs.
        """
        bound = arithmetic(self.bound, context.num_classes)
        self._check_range(bound)
        names = context.class_names
        if self.bind_left is None:
            rate = self.left.id  # type: ignore[attr-defined]
            items = [f"{rate}[{name}]" for name in names]
            return Constraint(self.text, items, bound, self.at_least, lambda confusion, _: RATES[rate](confusion))
        match self.left:
            case ast.Subscript(value=ast.Name(id=rate), slice=label):
                position = class_position(class_label(label), context)
                return Constraint(
                    self.text,
                    [f"{rate}[{names[position]}]"],
                    bound,
                    self.at_least,
                    lambda confusion, _: RATES[rate](confusion)[position : position + 1],
                )
        return self._of_expression(self.bind_left(context), bound, context)

    def _of_expression(self, form: MetricForm, bound: float, context: MetricContext) -> Constraint:
        name = shown(self.left)
        check_finite(lambda confusion: form(confusion, hard_minimum), name, context.num_classes, context.num_groups)
        return Constraint(
            self.text, [name], bound, self.at_least, lambda confusion, minimum: form(confusion, minimum)[None]
        )

    def _check_range(self, bound: float) -> None:
        """Refuse a bound beyond the range of what it bounds, where that range is known."""
        match self.left:
            case ast.Name(id=name) if name not in RATES:
                lowest = DEFINITIONS[ALIASES.get(name, name)].lowest
            case ast.Name() | ast.Subscript():
                lowest = 0.0
            case _:
                return
        if self.at_least and bound > 1 + TOLERANCE:
            percent = f"; it is a share, did you mean {bound / 100:g}?" if 2 <= bound <= 100 else ""
            raise UsageError(
                f"{self.text} cannot be met: {shown(self.left)} is at most 1, the bound is {bound:g}{percent}"
            )
        if not self.at_least and bound < lowest - TOLERANCE:
            raise UsageError(
                f"{self.text} cannot be met: {shown(self.left)} is at least {lowest:g}, the bound is {bound:g}"
            )


def parse_constraint(text: str) -> ConstraintRequest:
    """Read a constraint such as `coverage >= 0.95/k` or `recall[cat] >= 0.6`.

    Raises:
        UsageError: for all that can be wrong with it before the data are known.

    >>> import torch
    >>> context = MetricContext(["cat", "dog"], torch.tensor([500, 10]))
    >>> constraint = parse_constraint("coverage >= 0.8/k").bind(context)
    >>> [round(float(slack), 3) for slack in constraint.slack(torch.tensor([[0.4, 0.1], [0.3, 0.2]]))]
    [0.3, -0.1]
    """
    text = text.strip()
    node = parse_syntax(text)
    match node:
        case ast.Compare(left=left, ops=[ast.GtE() | ast.LtE() as relation], comparators=[bound]):
            pass
        case ast.Compare(ops=[_, _, *_]):
            raise UsageError(f"{shown(node)} compares more than once; give one constraint for each side")
        case ast.Compare():
            raise UsageError(f"{shown(node)}: a constraint has >= or <=")
        case _:
            raise UsageError(f"{shown(node)} is no constraint: it has no >= or <=, as in recall[cat] >= 0.6")
    if names_a_metric(bound):
        remedy = "move the rest to the left"
        if not names_a_metric(left):
            turned = ">=" if isinstance(relation, ast.LtE) else "<="
            remedy = f"write {shown(bound)} {turned} {shown(left)}"
        raise UsageError(f"{shown(node)}: the bound, on the right, must be numbers and k; {remedy}")
    compile_expression(bound)
    if not names_a_metric(left):
        raise UsageError(f"{shown(node)} constrains nothing: the left side names no metric")
    known = [*RATES, *DEFINITIONS, *ALIASES]
    if isinstance(left, ast.Name) and left.id not in known:
        raise UsageError(f"{shown(left)} cannot be constrained: {unknown_metric(left.id)}")
    every_class = isinstance(left, ast.Name) and left.id in RATES
    return ConstraintRequest(
        text, left, isinstance(relation, ast.GtE), bound, None if every_class else compile_expression(left)
    )


def bind_constraints(requests: Sequence[ConstraintRequest], context: MetricContext) -> list[Constraint]:
    """Return the constraints for these data, refused if they cannot all be met.

    Coverages sum to 1, so their floors must sum to at most 1 and their ceilings to at least 1; and no item may have a
    floor above its ceiling. What else cannot be met together shows in the report of the run.

    Raises:
        UsageError: naming what clashes; and as `ConstraintRequest.bind`.
        DataError: as `ConstraintRequest.bind`.
    """
    constraints = [request.bind(context) for request in requests]
    floors: dict[str, float] = {}
    ceilings: dict[str, float] = {}
    for constraint in constraints:
        for item in constraint.items:
            if constraint.at_least:
                floors[item] = max(constraint.bound, floors.get(item, constraint.bound))
            else:
                ceilings[item] = min(constraint.bound, ceilings.get(item, constraint.bound))
    for item, floor in floors.items():
        if floor > ceilings.get(item, floor) + TOLERANCE:
            raise UsageError(f"{item} must be at least {floor:g} and at most {ceilings[item]:g}: it cannot be both")
    coverages = [f"coverage[{name}]" for name in context.class_names]
    least = sum(max(0.0, floors.get(item, 0.0)) for item in coverages)
    most = sum(min(1.0, ceilings.get(item, 1.0)) for item in coverages)
    if least > 1 + TOLERANCE:
        raise UsageError(f"the coverage floors sum to {least:g}, and coverages sum to 1: lower them, as in 0.95/k")
    if most < 1 - TOLERANCE:
        raise UsageError(f"the coverage ceilings sum to {most:g}, and coverages sum to 1: raise them, as in 2/k")
    return constraints
