"""Rates of single classes, and how a user points at a class."""

import ast
import unicodedata

import torch

from selmix.confusion import class_confusion, class_prior, coverage
from selmix.errors import DataError, UsageError, suggestion
from selmix.metrics.metric import MetricContext
from selmix.metrics.syntax import shown

_LISTED = 20  # more class names than this are not all shown


def recalls(confusion: torch.Tensor) -> torch.Tensor:
    """Return the recall of every class, [k]; NaN for a class without samples."""
    confusion = class_confusion(confusion)
    prior = class_prior(confusion)
    present = prior > 0
    return torch.where(present, confusion.diagonal() / torch.where(present, prior, 1), torch.nan)


def precisions(confusion: torch.Tensor) -> torch.Tensor:
    """Return the precision of every class, [k]; 0, with zero gradient, for a class that is never predicted."""
    confusion = class_confusion(confusion)
    covered = coverage(confusion)
    predicted = covered > 0
    return torch.where(predicted, confusion.diagonal() / torch.where(predicted, covered, 1), 0)


RATES = {"recall": recalls, "precision": precisions, "coverage": coverage}


def class_rate(rate: str, confusion: torch.Tensor, position: int) -> torch.Tensor:
    """Return a rate of one class as a 0-d tensor.

    Raises:
        UsageError: if there is no such class.
        DataError: for the recall of a class without samples.
    """
    if position >= confusion.shape[1]:
        raise UsageError(f"there is no class number {position}: they go from 0 to {confusion.shape[1] - 1}")
    value = RATES[rate](confusion)[position]
    if value.isnan() and not confusion.isnan().any():
        raise DataError(
            f"class number {position} has no samples here, so it has no {rate}; bring some, or take another metric"
        )
    return value


def class_label(node: ast.expr) -> str | int:
    """Return the class that stands between brackets: a name, or a number.

    Raises:
        UsageError: if it is neither.
    """
    match node:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            return name
        case ast.Constant(value=int(index)) if not isinstance(index, bool):
            return index
    raise UsageError(
        f"a class is a name or a number from 0, got [{shown(node)}]; a name that is not a plain word needs quotes"
    )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def class_position(wanted: str | int, context: MetricContext | None) -> int:
    """Return the label of the class that the user means by a name or a number.

    Raises:
        UsageError: if there is none, or a number might mean two.
    """
    if context is None:
        if isinstance(wanted, str):
            raise UsageError(f"class {wanted} needs the class names: parse_metric(text).bind(MetricContext(...))")
        return wanted
    names = list(context.class_names)
    if isinstance(wanted, str):
        if wanted not in names:
            alike = [name for name in names if _composed(name) == _composed(wanted)]
            if len(alike) == 1:  # Python composes the letters of a plain word, and a file system may take them apart
                return names.index(alike[0])
            raise UsageError(f"unknown class {wanted}: {suggestion(wanted, names, listed=len(names) <= _LISTED)}")
        return names.index(wanted)
    if not wanted < len(names):
        raise UsageError(f"there is no class number {wanted}: they go from 0 to {len(names) - 1}")
    if str(wanted) in names and names[wanted] != str(wanted):
        raise UsageError(
            f"[{wanted}] may mean the class called {wanted} or class number {wanted}, called {names[wanted]}: "
            f'write ["{wanted}"] or ["{names[wanted]}"]'
        )
    return wanted
