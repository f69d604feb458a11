"""docs/metrics.md says what the code does."""

import re
from pathlib import Path

import pytest
import torch

from selmix.constraints import bind_constraints, parse_constraint
from selmix.metrics import ALIASES, DEFINITIONS, MetricContext, parse_metric
from selmix.metrics.check import check_differentiable

PAGE = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
CONTEXT = MetricContext(["cat", "dog", "T-shirt/top", "owl"], torch.tensor([500, 50, 30, 5]))


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_table_has_every_metric_as_it_is():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    expected = [
        [
            f"`{metric.name}`",
            metric.formula,
            f"{metric.lowest:g} .. 1",
            metric.empty_class,
            " ".join(f"`{alias}`" for alias, name in ALIASES.items() if name == metric.name),
        ]
        for metric in DEFINITIONS.values()
    ]
    assert [row for row in rows if len(row) == 5] == expected


@pytest.mark.parametrize("text", block("metric").splitlines())
def test_the_expressions_work(text):
    assert parse_metric(text).bind(CONTEXT).name == text


def test_the_constraints_work_even_together():
    requests = [parse_constraint(text) for text in block("constraint").splitlines()]
    assert sum(len(constraint.items) for constraint in bind_constraints(requests, CONTEXT)) == 3 * 4 + 5


def test_the_function_works(tmp_path):
    (tmp_path / "own.py").write_text(block("python"))
    metric = parse_metric(f"{tmp_path / 'own.py'}:psi").bind(CONTEXT)
    check_differentiable(metric, "psi", 7)
