"""A user's own metric: `path/to/file.py:function`, a differentiable psi(confusion [k, k]) -> 0-d."""

import importlib.machinery
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from selmix.confusion import class_confusion
from selmix.errors import UsageError, suggestion
from selmix.metrics.metric import Metric, MetricFunction

_REFERENCE = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")


def is_reference(text: str) -> bool:
    """Return whether the text names a function in a Python file."""
    return _REFERENCE.fullmatch(text) is not None


def load_metric(text: str) -> Metric:
    """Import the function that the text names; the file is run as Python runs any import.

    Raises:
        UsageError: if the file cannot be run or holds no such function of one argument.
    """
    match = _REFERENCE.fullmatch(text)
    assert match is not None
    path, name = match["path"], match["name"]
    module = _run(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise UsageError(f"{path} has no function {name}: {suggestion(name, own)}")
    return metric_of_function(function, name=text, formula=f"the function {name} of {path}")


def metric_of_function(function: Callable[[torch.Tensor], torch.Tensor], *, name: str, formula: str) -> Metric:
    """Return the metric that a function of the class confusion matrix is, not yet tried out.

    Raises:
        UsageError: if the function does not take one argument.
    """
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UsageError(f"{name} must take one argument, the confusion matrix: {error}") from error
    return Metric(name, formula, _guarded(name, function), whole=True)


def _run(path: str) -> types.ModuleType:
    """Run a file as a module; not through the import system, which may reuse what it compiled before an edit."""
    name = "selmix_user_" + re.sub(r"\W", "_", path)
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = types.ModuleType(name)
    module.__file__ = path
    try:
        code = loader.source_to_code(loader.get_data(path), path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is no Python: {error}") from error
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"{path} fails when it is imported: {_said(error)}") from error
    return module


def _guarded(text: str, function: Any) -> MetricFunction:
    """Return the function of the class confusion matrix, its exceptions turned into one line."""

    def value(confusion: Any) -> Any:
        try:
            return function(class_confusion(confusion))
        except (Exception, SystemExit) as error:
            raise UsageError(f"{text} fails on a {confusion.shape[1]}-class matrix: {_said(error)}") from error

    return value


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
