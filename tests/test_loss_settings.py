"""From the settings of a loss to the mean that training minimises."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from test_losses import COSINES, COUNTS, LABELS, LOGITS, PUBLISHED, assert_near, numbers

from selmix.errors import DataError, UsageError
from selmix.stage1.loss_settings import LOSSES
from selmix.stage1.loss_weights import LossSettings
from selmix.stage1.objective import Objective

BALANCED = {"weights": "class_balanced", "beta": 0.9999}


def made(name: str, **values) -> Objective:
    return LOSSES[name](**values).objective(COUNTS)


def mean_loss(objective: Objective, logits: torch.Tensor = LOGITS, *, epoch: int = 0) -> float:
    return float(objective.share(logits, LABELS, torch.arange(4), epoch=epoch))


# means of the toy batch, from the specification of stage one
@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("cross_entropy", {}, 1.838157),
        ("cross_entropy", BALANCED, 2.198371),
        ("cross_entropy", BALANCED | {"divide_by": "weight"}, 1.542048),
        ("sigmoid", BALANCED, 3.749339),
        ("sigmoid_focal", BALANCED | {"gamma": 0.5}, 2.989150),
        ("sigmoid_focal", BALANCED | {"gamma": 1.0}, 2.457435),
        ("sigmoid_focal", BALANCED | {"gamma": 2.0}, 1.793112),
        ("focal", {"gamma": 2.0}, 1.420395),
        ("focal", BALANCED | {"gamma": 1.0}, 1.738261),
        ("logit_adjustment", {}, 3.226438),
        ("logit_adjustment", {"tau": 2.0}, 5.806610),
        ("cdt", {}, 1.175372),
        ("vs", {}, 3.034146),
        ("vs", {"gamma": 0.2, "tau": 1.2}, 3.584642),
        ("label_aware_smoothing", {"head_smoothing": 0.4, "tail_smoothing": 0.1}, 1.869422),
        ("label_aware_smoothing", {"head_smoothing": 0.4, "tail_smoothing": 0.1, "variant": "paper"}, 1.885055),
    ],
)
def test_means_of_the_toy_batch(name, values, expected):
    assert mean_loss(made(name, **values)) == pytest.approx(expected, abs=2e-6)


def test_ldam_judges_cosines():
    objective = made("ldam")
    assert objective.cosine_scale == 30
    assert mean_loss(objective, COSINES) == pytest.approx(16.532098, rel=1e-6)
    assert mean_loss(made("ldam", **BALANCED), COSINES) == pytest.approx(32.252381, rel=1e-6)
    assert mean_loss(made("ldam", **BALANCED, divide_by="weight"), COSINES) == pytest.approx(22.623437, rel=1e-6)


def test_scale_and_margin_of_ldam_are_those_of_the_settings():
    objective = made("ldam", scale=20.0, max_margin=0.0)
    assert objective.cosine_scale == 20
    free = torch.nn.functional.cross_entropy(20 * COSINES, LABELS, reduction="none")
    assert_near(objective.losses(COSINES, LABELS), free, atol=1e-12)
    margins = 0.2 * numbers(0.01, 0.1, 1, 1) ** 0.25  # of the samples, by their labels' counts 100, 10, 1, 1
    own = torch.nn.functional.one_hot(LABELS, 3) * margins[:, None]
    expected = torch.nn.functional.cross_entropy(20 * (COSINES - own), LABELS, reduction="none")
    assert_near(made("ldam", scale=20.0, max_margin=0.2).losses(COSINES, LABELS), expected)


def test_weights_inverse_to_the_counts():
    weights = numbers(0.01, 0.1, 1, 1) * 3 / 1.11
    expected = float((weights * numbers(*PUBLISHED["cross-entropy"][1])).mean())
    assert mean_loss(made("cross_entropy", weights="inverse_frequency")) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("divide_by", ["batch", "weight"])
def test_deferred_weights_set_in_with_their_epoch(divide_by):
    deferred = made("ldam", **BALANCED, weights_from=160, divide_by=divide_by)
    assert mean_loss(deferred, COSINES, epoch=159) == mean_loss(made("ldam"), COSINES)
    always = made("ldam", **BALANCED, divide_by=divide_by)
    assert mean_loss(deferred, COSINES, epoch=160) == mean_loss(always, COSINES)


@pytest.mark.parametrize("divide_by", ["batch", "weight"])
def test_shares_of_rows_add_up_to_the_mean(divide_by):
    objective = made("cross_entropy", **BALANCED, divide_by=divide_by)
    parts = [torch.tensor([2, 0]), torch.tensor([3]), torch.tensor([1])]
    shares = sum(float(objective.share(LOGITS[rows], LABELS, rows, epoch=0)) for rows in parts)
    assert shares == pytest.approx(mean_loss(objective), rel=1e-6)


def test_what_each_loss_wants_of_the_last_layer():
    assert {name for name in LOSSES if made(name).one_vs_rest} == {"sigmoid", "sigmoid_focal"}
    assert {name for name in LOSSES if made(name).cosine_scale is not None} == {"ldam"}


@pytest.mark.parametrize("name", LOSSES)
def test_settings_name_their_loss_and_can_be_written_and_read(name):
    settings = LOSSES[name]()
    assert settings.name == name
    assert LOSSES[name](**dataclasses.asdict(settings)) == settings


def test_the_page_lists_every_loss_with_its_keys_and_defaults():
    page = (Path(__file__).parent.parent / "docs/settings.md").read_text().partition("## The loss of stage one")[2]
    common = {field.name for field in dataclasses.fields(LossSettings)}
    for name, kind in LOSSES.items():
        (keys,) = re.findall(rf"^\| `{name}` \| (.*?) ?\|", page, re.MULTILINE)
        own = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in common}
        listed = [
            f"`{key}` {value:g}" if isinstance(value, float) else f"`{key}` {value}" for key, value in own.items()
        ]
        assert keys == ", ".join(listed)
    for field in dataclasses.fields(LossSettings)[1:]:
        assert re.search(rf"^\| `{field.name}` \| `?{field.default}`? \|", page, re.MULTILINE)


@pytest.mark.parametrize("name", LOSSES)
def test_tables_are_float32_whatever_the_logits(name):
    objective = made(name, **BALANCED)
    assert objective.class_weights is not None
    assert objective.class_weights.dtype == torch.float32
    half = torch.zeros(4, 3, dtype=torch.bfloat16)
    assert objective.share(half, LABELS, torch.arange(4), epoch=0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("cross_entropy", {"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
        ("cross_entropy", {"weights_from": 160.0}, "weights_from must be >= 0, and 0 while weights is none, got 160"),
        ("cross_entropy", BALANCED | {"weights_from": -1.0}, "weights_from must be >= 0"),
        ("focal", {"gamma": -1.0}, "gamma must be >= 0"),
        ("sigmoid_focal", {"gamma": -1.0, "beta": -1.0}, "beta must be .*; gamma must be"),
        ("ldam", {"max_margin": -0.1, "scale": 0.0}, "max_margin must be >= 0, got -0.1; scale must be > 0, got 0.0"),
        ("logit_adjustment", {"tau": -1.0}, "tau must be >= 0"),
        ("cdt", {"gamma": -1.0}, "gamma must be >= 0"),
        ("vs", {"gamma": -1.0, "tau": -1.0}, "gamma must be .*; tau must be"),
        ("label_aware_smoothing", {"head_smoothing": 1.0}, "head_smoothing must be in"),
        ("label_aware_smoothing", {"tail_smoothing": -0.1}, "tail_smoothing must be in"),
        ("label_aware_smoothing", {"power": 2.0}, "power must be > 0, and 1 unless shape is exp"),
        ("label_aware_smoothing", {"power": 0.0, "shape": "exp"}, "power must be > 0"),
    ],
)
def test_values_without_meaning_are_refused_all_at_once(name, values, message):
    with pytest.raises(UsageError, match=message):
        LOSSES[name](**values)


def test_the_power_is_that_of_exp():
    objective = made("label_aware_smoothing", head_smoothing=0.4, shape="exp", power=0.5)
    eps = numbers(0.4, 0.4 * (9 / 99) ** 0.5, 0, 0)
    log_probabilities = LOGITS.log_softmax(1)
    expected = -((1 - eps) * log_probabilities[torch.arange(4), LABELS] + eps * log_probabilities.mean(1))
    assert_near(objective.losses(LOGITS, LABELS), expected)


@pytest.mark.parametrize(
    ("name", "values"),
    [("ldam", {}), ("logit_adjustment", {}), ("cdt", {}), ("vs", {}), ("cross_entropy", BALANCED)],
)
def test_a_class_without_images_is_refused_where_counts_matter(name, values):
    with pytest.raises(DataError, match="1 have none, with numbers 1:"):
        LOSSES[name](**values).objective(torch.tensor([5, 0, 2]))
    with pytest.raises(DataError, match=r"7 have none, with numbers 1, 2, 3, 4, 5, \.\.\.:"):
        LOSSES[name](**values).objective(torch.tensor([5] + [0] * 7))
    assert LOSSES["cross_entropy"]().objective(torch.tensor([5, 0, 2])).class_weights is None
