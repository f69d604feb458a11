"""docs/choosing.md: what chance does, by scipy's binomial law; metrics and constraints that are there."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from selmix.constraints import parse_constraint
from selmix.metrics import parse_metric

PAGE = (Path(__file__).parent.parent / "docs" / "choosing.md").read_text()
CHANCE = [
    [float(cell.replace(",", "")) for cell in line.strip("| \n").split("|")]
    for line in PAGE.split("## What chance does")[1].split("\n## ")[0].splitlines()
    if re.match(r"\| [\d,]+ \|", line)
]


@pytest.mark.parametrize("row", CHANCE, ids=lambda row: f"{row[0]:.0f}")
def test_what_chance_does(row):
    samples = int(row[0])
    spread = [100 * binom.std(samples, recall) / samples for recall in (0.5, 0.8, 0.95)]
    # the mean of a minimum of k is the sum over x of P(all are above x)
    above = binom.sf(np.arange(samples), samples, 0.8)
    bias = [100 * (0.8 - (above**count).sum() / samples) for count in (10, 100, 1000)]
    assert row[1:] == pytest.approx(spread + bias, abs=0.051)


def test_the_table_of_chance_was_read():
    assert [row[0] for row in CHANCE] == [10, 20, 50, 100, 250, 1000]


def test_what_the_first_table_asks_for_can_be_asked_for():
    table = PAGE.split("## What do you care about?")[1].split("\n## ")[0]
    words = {word for line in table.splitlines() if line.startswith("| ") for word in re.findall(r"`([^`]+)`", line)}
    for word in words - {"my_metric.py:psi"}:
        if re.search("[<>]=", word):
            parse_constraint(re.sub("--subject-to '(.*)'", r"\1", word))
        else:
            parse_metric(word)
    assert {"min_recall", "min_head_tail_recall", "macro_f1"} <= words
