"""What is wrong or odd about a data set: collected by the readers, raised or logged where images are opened."""

import logging
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from selmix.data.images import ImageData
from selmix.errors import DataError

logger = logging.getLogger("selmix")

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One fault or oddity.

    Attributes:
        severity: `error` keeps the data from being used, `warning` is said.
        kind: what it is, a word or two for tables: `missing file`, `case twins`, ...
        split: where; empty if it is about the whole.
        class_name: of the class; empty if several or none are meant.
        path: the file or folder to look at.
        message: rule and value, in one line.
        remedy: what to do.
        other_path: the second of two files.
        similarity: of the two, at most 1; None if it was not measured.
    """

    severity: Literal["error", "warning"]
    kind: str
    split: str
    class_name: str
    path: str
    message: str
    remedy: str
    other_path: str = ""
    similarity: float | None = None

    def __str__(self) -> str:
        return f"{self.message}{'' if self.message.endswith('?') else ';'} {self.remedy}"


def fault(kind: str, message: str, remedy: str, *, path: object = "", split: str = "", class_name: str = "") -> Finding:
    """Return a finding that keeps the data from being used."""
    return Finding("error", kind, split, class_name, str(path), message, remedy)


def caution(
    kind: str, message: str, remedy: str, *, path: object = "", split: str = "", class_name: str = ""
) -> Finding:
    """Return a finding that does not."""
    return Finding("warning", kind, split, class_name, str(path), message, remedy)


Survey = tuple[ImageData | None, list[Finding]]


def accepted(survey: Survey, spec: str) -> ImageData:
    """Return surveyed data if nothing is wrong with them, and log what is odd.

    Raises:
        DataError: naming the first faults and how to see them all.
    """
    data, findings = survey
    said(findings, spec, more=f" See them all: selmix check {shlex.quote(spec)}")
    assert data is not None, "data are missing only where a finding says why"
    return data


def said(findings: Iterable[Finding], spec: str, *, more: str = "") -> None:
    """Log findings that are warnings.

    Raises:
        DataError: naming the first ones that are errors, and what to do to see `more`.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if len(errors) == 1:
        raise DataError(str(errors[0]))
    if errors:
        first = " ".join(f"({number}) {finding}." for number, finding in enumerate(errors[:_SHOWN], 1))
        raise DataError(f"{spec} has {len(errors)} faults: {first}{more}")
    for finding in findings:
        logger.warning("%s", finding)


def listed(words: Iterable[object], most: int = 5) -> str:
    """Return the first words and how many more there are.

    >>> listed([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    every = [str(word) for word in words]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
