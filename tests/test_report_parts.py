"""The parts of a report's page by hand: axes, drawings, matrices, tables, words, and the command that is shown."""

import re

import numpy as np
import pytest
from markupsafe import Markup

from selmix.recipe import CompareRecipe, FinetuneRecipe
from selmix.report.command import command_of
from selmix.report.course import stretches
from selmix.report.heat import heat
from selmix.report.marks import Axis, Series, axis, plot, track
from selmix.report.tables import Cell, change, soft, table
from selmix.report.words import changes_of_recall, costs, listed, points


@pytest.mark.parametrize(
    ("values", "scale", "expected"),
    [
        ([0, 5000], 1, ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        ([0.587, 0.753], 100, ["55", "60", "65", "70", "75", "80"]),
        ([-0.004, 0.004], 1, ["-0.004", "-0.002", "0.000", "0.002", "0.004"]),
        ([0.5, 0.5], 1, ["0.44", "0.46", "0.48", "0.50", "0.52", "0.54", "0.56"]),
        ([float("nan")], 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, scale, expected):
    found = axis("x", values, scale=scale)
    assert [text for _, text in found.ticks] == expected
    assert [value * scale for value, _ in found.ticks] == pytest.approx(
        [float(own.replace(",", "")) for own in expected]
    )
    assert (found.low, found.high) == (found.ticks[0][0], found.ticks[-1][0])


def test_a_track_draws_what_there_is_where_it_is():
    drawn = str(track(0.25, None, 0.75, span=(0.7, 1.0)))
    assert 'class="move rise" d="M250 10H750"' in drawn
    assert 'class="span" d="M700 6V14M700 10H1000M1000 6V14"' in drawn
    assert 'class="ring" d="M250 10h.01"' in drawn
    assert 'class="dot" d="M750 10h.01"' in drawn
    assert "balanced" not in drawn
    assert 'class="move fall"' in track(0.5, 0.5, 0.25)
    assert "M1000 10h" in track(None, None, 1.7)  # beyond the scale it stays at its end
    assert "ring" not in track(None, None, 0.5)


def test_a_plot_places_points_and_escapes_texts():
    x, y = Axis("<x>", 0, 10, [(0, "0"), (10, "<10>")]), Axis("y", -1, 1, [(0, "0")])
    series = [Series("<b>", [(0, -1), (5, 0), (10, 1)], "line", "after"), Series("", [(5, 0)], "stems", "rise", [1])]
    drawn = str(plot(series, x, y, label='a "label"', notes=[(10, "<end>")], bands=[(0, 5, "first")]))
    assert 'd="M0 1000L500 500L1000 0"' in drawn
    assert 'd="M500 500V0"' in drawn
    assert 'd="M0 0H500V1000H0Z"' in drawn
    assert "<b>" not in drawn
    assert "&lt;10&gt;" in drawn
    assert "&lt;end&gt;" in drawn
    assert 'aria-label="a &#34;label&#34;"' in drawn
    assert drawn.count("<li>") == 1


def test_a_small_matrix_has_numbers_titles_and_signs():
    matrix = np.array([[1.0, -0.5], [0.0, np.nan]])
    drawn = str(heat(matrix, ["<a>", "{row}"], label="m", cell="{row} as {column}: {value} %", signed=True))
    assert drawn.count("<title>") == 3
    assert "<title>&lt;a&gt; as {row}: −50 %</title>" in drawn
    assert re.findall(r'<text class="number[^>]*>([^<]*)<', drawn) == ["+100", "−50"]
    # sqrt(1/2) of ten levels is 7.07, so the eighth
    assert re.findall(r'<path class="(q[pn]\d+)"', drawn) == ["qp10", "qn8"]
    assert "data-values" not in drawn


def test_a_large_matrix_is_a_path_for_each_level_with_its_values_beside_it():
    matrix = np.eye(40) * 0.5
    matrix[0, 1:4] = 0.5
    drawn = str(heat(matrix, [f"c{row}" for row in range(40)], label="m", cell="{value}", largest=1.0, faint=1.0))
    assert drawn.count("<title>") == 0
    (path,) = re.findall(r'<path class="qp5" d="([^"]*)"', drawn)
    assert path.count("M") == 40  # the first row has one rectangle, four cells wide
    assert path.startswith("M0 0h4v1h-4z")
    values = re.findall(r'data-values="([^"]*)"', drawn)[0]
    assert values.startswith("[50.0,50.0,50.0,50.0,0.0")


def test_tables_sort_where_there_is_one_body_and_escape():
    rows = [["<a>", Cell("1.0", 0.01, "up")], ["b", "2"], ["c", Markup("<svg></svg>")]]
    text = str(table(["name", "value", " drawn"], [("", rows)], label="<t>"))
    assert "data-sort" in text
    assert '<th scope="row">&lt;a&gt;</th><td data-v="0.01" class="up">1.0</td>' in text
    assert '<td class="drawn"><svg></svg></td>' in text
    assert text.count("<button") == 2
    banded = str(table(["name", "value"], [("first", rows), ("none", []), ("second", rows)], label="t"))
    assert "data-sort" not in banded
    assert banded.count("<tbody>") == banded.count('scope="rowgroup"') == 2
    assert soft("a_<b>") == "a_<wbr>&lt;b&gt;"


def test_changes_are_toned_by_whether_they_are_good():
    tones = [
        change(value, "", lower_is_better=lower).tone for value, lower in ((0.1, False), (-0.1, False), (0.1, True))
    ]
    assert tones == ["up", "down", "down"]
    assert change(-0.1, "", lower_is_better=True).tone == "up"
    assert change(0.0004, "").tone == change(None, "").tone == ""


def test_words():
    assert points(float("nan")) == "–"
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    document = {
        "class_names": ["a", "b", "c", "d"],
        "recall": {"before": {"test": [0.5, 0.9, 0.2, None]}, "after": {"test": [0.6, 0.5, 0.196, None]}},
    }
    assert [name for _, name in changes_of_recall(document, "test")] == ["b", "c", "a"]
    assert costs(document, "test") == [(pytest.approx(-0.4), "b")]
    history = [
        {"step": 0, "metric": 0.5},
        {"step": 5, "metric": 0.75, "predicted_change": 2.0},
        {"step": 9, "metric": 0.5, "predicted_change": 1.0},
    ]
    assert stretches(history) == [(2.0, 0.25), (1.0, -0.25)]


def test_the_command_says_what_is_not_as_usual():
    recipe = FinetuneRecipe(
        backbone="timm:resnet18", data="my data", metric="recall[a b]", subject_to=["recall >= 0.3"], seed=3,
        input_size=(96, 128), mean=(0.5, 0.25, 0.5), on_bad_image="skip", workers=2, diagnose=True,
        stage2={"steps": 100, "batch_size": 64, "folds": 5}, pseudo={"source": "head", "bound": 0.5},
    )  # fmt: skip
    assert command_of("finetune", recipe.model_dump(exclude_none=True), 10, seeds=[0, 2]) == (
        "selmix finetune --backbone timm:resnet18 --data 'my data' --input-size 96x128 --mean 0.5,0.25,0.5 "
        "--on-bad-image skip --metric 'recall[a b]' --subject-to 'recall >= 0.3' --diagnose --seeds 0,2 steps=100 "
        "pseudo.source=head --out RUN"
    )
    request = CompareRecipe(features="f.npz", metrics=["min_recall", "mcc"], seeds=[0, 1], val_per_class=5)
    assert command_of("compare", request.model_dump(exclude_none=True), 10) == (
        "selmix compare --features f.npz --metric min_recall,mcc --val-per-class 5 --seeds 0,1 --out RUN"
    )
