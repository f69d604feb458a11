"""The report of a run as a person meets it: made by real runs, read as a file and in a browser."""

import html
import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_commands import features, run

from selmix.report import writer
from selmix.report.reading import Run
from selmix.report.several import comparison

QUICK = ["steps=100", "start_steps=50", "folds=3"]
EVIL = "<script>alert(1)</script>"
SECTIONS = ["classes", "confusion", "metrics", "steps", "pairs", "geometry", "calibration", "images", "repeat"]


def finetuned(folder, arrays, *more, settings=QUICK):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "f.npz", **arrays)
    words = ("--features", folder / "f.npz", "--metric", "min_recall", "--out", folder / "run", *settings)
    code, stdout, stderr = run("finetune", *words, *more)
    assert code in (0, 4), stderr
    return folder / "run", stdout


def long_tail(num_classes, largest=200, smallest=5):
    return [round(largest * (smallest / largest) ** (rank / (num_classes - 1))) for rank in range(num_classes)]


def shaded_folder(root):
    """Write images of three shades, with a pool."""
    rng = np.random.default_rng(0)
    levels = {"ant": 60, EVIL.replace("/", "∕"): 128, "cat": 190}
    for split, counts in {"train": (30, 12, 6), "val": (10, 10, 10), "test": (12, 12, 12)}.items():
        for (name, level), size in zip(levels.items(), counts, strict=True):
            place = root / split / name
            place.mkdir(parents=True)
            for row in range(size):
                noise = rng.normal(level, 40, (28, 28)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{row}.png")
    (root / "unlabeled").mkdir()
    for row in range(20):
        noise = rng.normal(60 + 65 * (row % 3), 40, (28, 28)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(root / "unlabeled" / f"{row}.png")
    return root


def images_run(root):
    words = (
        "--backbone",
        "shipped:fashion_resnet32",
        "--data",
        shaded_folder(root / "data"),
        "--metric",
        "mean_recall",
    )
    code, stdout, stderr = run("finetune", *words, "--out", root / "run", "--device", "cpu", *QUICK)
    assert code == 0, stderr
    return root / "run", stdout


def few_replicates(monkeypatch):
    monkeypatch.setattr("selmix.result.REPLICATES", 20)
    monkeypatch.setattr("selmix.verdict.REPLICATES", 50)
    monkeypatch.setattr("selmix.audit.document._REPLICATES", 20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Make a run of every kind: name -> folder, and what the command said."""
    root = tmp_path_factory.mktemp("reports")
    three = {"train": (300, 60, 12), "val": (40, 40, 40), "test": (100, 100, 100)}
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        few_replicates(patch)
        patch.setenv("SELMIX_CACHE", str(root / "cache"))
        named = features(three) | {"class_names": np.array([EVIL, 'b "and" {row} & c', "plain"])}
        pool = {"unlabeled_features": features({"x": (60, 30, 30)})["x_features"]}
        made["pool"] = finetuned(root / "pool", named | pool, "--diagnose")
        made["two"] = finetuned(root / "two", features({"train": (80, 20), "val": (30, 30), "test": (50, 50)}))
        made["no test"] = finetuned(root / "no_test", features({"train": (200, 60, 20)}))
        made["hundred"] = finetuned(
            root / "hundred", features({"train": long_tail(100), "val": [5] * 100, "test": [10] * 100}, width=16)
        )
        made["thousand"] = finetuned(
            root / "thousand",
            features({"train": long_tail(1000, 30, 2), "val": [2] * 1000, "test": [3] * 1000}, width=16),
            settings=["steps=20", "refresh=10", "start_steps=5", "folds=2", "batch_size=64"],
        )
        made["constraints"] = finetuned(
            root / "constraints", features(three), "--subject-to", "recall >= 0.7", "--subject-to", "coverage[0] <= 0.3"
        )
        groups = {f"{split}_groups": np.arange(sum(counts)) % 2 for split, counts in three.items()}
        made["groups"] = finetuned(root / "groups", features(three) | groups)
        made["seeds"] = finetuned(root / "seeds", features(three), "--seeds", "0..2")
        made["sweep"] = finetuned(root / "sweep", features(three), "--metric", "macro_f1,0.5*accuracy + 0.5*min_recall")
        made["images"] = images_run(root / "images")
        chosen = ("--metric", "min_recall,mean_recall", "--methods", "given,ncm,selmix", "--seeds", "0,1")
        (root / "compare").mkdir()
        np.savez(root / "compare" / "f.npz", **features(three))
        code, stdout, stderr = run(
            "compare", "--features", root / "compare" / "f.npz", "--out", root / "compare" / "run", *chosen, *QUICK
        )
        assert code == 0, stderr
        made["compare"] = root / "compare" / "run", stdout
    return made


class Page(HTMLParser):
    """Reads a page: sections, tags, text, and every attribute that could ask for something."""

    def __init__(self, folder):
        super().__init__()
        self.source = (folder / "report.html").read_text(encoding="utf-8")
        self.tags, self.keys, self.text, self.asks, self.scripts, self.unnamed = [], [], "", [], 0, []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.tags.append(tag)
        if tag == "section":
            self.keys.append(own["id"])
        self.asks += [own[name] for name in ("src", "href", "srcset", "data", "action") if own.get(name)]
        if tag in ("figure", "svg") and not own.get("aria-label") and own.get("aria-hidden") != "true":
            self.unnamed.append(tag)
        if tag == "img" and not own.get("alt"):
            self.unnamed.append(tag)

    def handle_data(self, data):
        self.text += data


NAMES = [
    "pool",
    "two",
    "no test",
    "hundred",
    "thousand",
    "constraints",
    "groups",
    "seeds",
    "images",
    "compare",
    "sweep",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_run_writes_a_page_that_asks_for_nothing_and_escapes_names(runs, name):
    folder, stdout = runs[name]
    assert stdout.count(f"report: {folder / 'report.html'}") == 1
    page = Page(folder)
    assert page.tags.count("script") == 1
    assert page.tags.count("h1") == 1
    assert page.unnamed == []
    assert len(set(page.keys)) == len(page.keys) >= 3
    assert all(ask.startswith(("#", "data:", "seed", "macro_f1/", "0.5_")) for ask in page.asks)
    assert not re.search(r"https?:", page.source)
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "nan" not in re.findall(r"[a-z]+", page.text)
    assert len(page.source) < 3e6


def test_the_sections_of_a_run(runs):
    assert Page(runs["two"][0]).keys == SECTIONS
    assert set(Page(runs["pool"][0]).keys) == {*SECTIONS, "pool"}
    assert set(Page(runs["constraints"][0]).keys) == {*SECTIONS, "constraints"}
    assert Page(runs["seeds"][0]).keys == ["each", "metrics", "classes", "repeat"]
    assert Page(runs["compare"][0]).keys == ["ladder-0", "ladder-1", "left-out", "repeat"]


def test_the_headline_and_the_leads_say_the_figures_of_the_result(runs):
    folder = runs["constraints"][0]
    document, page = json.loads((folder / "result.json").read_text()), Page(folder)
    before, after = (document[head]["test"]["min_recall"] for head in ("before", "after"))
    assert f"from {100 * before:.1f} to {100 * after:.1f} % on test" in page.text
    low, high = document["interval"]["change"]["test"]["min_recall"]
    assert f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−") in page.text
    recall = document["recall"]
    moves = [b - a for a, b in zip(recall["before"]["test"], recall["after"]["test"], strict=True)]
    assert f"{moves.index(max(moves))} gained {100 * max(moves):.1f} points" in page.text
    assert f"{moves.index(min(moves))} paid {-100 * min(moves):.1f}" in page.text
    errors = [100 * document[head]["test"]["ece"] for head in ("before", "after")]
    assert f"error went from {errors[0]:.1f} to {errors[1]:.1f} %" in page.text
    met = sum(own["met"] for own in document["constraints"])
    assert f"{met} of 2 constraints met on validation" in page.text
    assert "multiplier" in page.text


def test_the_matrices_are_those_of_the_predictions(runs):
    own = Run.read(runs["two"][0])
    document = own.document
    for head in ("before", "after"):
        assert own.confusion(head).diagonal().tolist() == pytest.approx(
            [document["recall"][head]["test"][label] for label in own.order]
        )
    many = Run.read(runs["thousand"][0])
    assert many.confusion("after").shape == (100, 100)
    np.testing.assert_allclose(many.confusion("after").sum(1), 1)
    assert (np.diff(many.place[many.order]) >= 0).all()  # the loop and the page know one order of the classes
    assert many.record["pair_drawn"].sum() == pytest.approx(1, abs=1e-4)
    assert (runs["thousand"][0] / "record.npz").stat().st_size < 1e6


def test_names_are_text_and_nothing_runs(runs):
    page = Page(runs["pool"][0])
    assert EVIL in page.text
    assert 'b "and" {row} & c' in page.text
    assert EVIL not in page.source


def test_without_a_test_split_the_page_says_so_in_red(runs):
    page = Page(runs["no test"][0])
    assert "Optimistic: there is no test split" in page.text
    assert "on val" in page.text
    assert 'class="warning"' in page.source
    assert "There is no test split, so none is shown." in page.text


def test_images_are_shown_and_the_pool_with_them(runs):
    folder = runs["images"][0]
    page = Page(folder)
    samples = json.loads((folder / "samples.json").read_text())
    changed = samples["test"]["improved"] + samples["test"]["harmed"]
    pictures = [own["picture"] for own in changed] + [
        own["picture"] for row in samples["pool"] for own in row["samples"]
    ]
    assert len(pictures) > 15
    assert [ask for ask in page.asks if ask.startswith("data:image")] == sorted(pictures, key=page.source.index)
    document = Run.read(folder)
    probability = {head: document.record[f"test_{head}_of_truth"] for head in ("before", "after")}
    moves = probability["after"] - probability["before"]
    assert [own["position"] for own in samples["test"]["improved"]][0] == int(moves.argmax())
    assert [own["position"] for own in samples["test"]["harmed"]][0] == int(moves.argmin())
    ids = json.loads((folder / "splits.json").read_text())["test"]
    assert all(own["id"] == ids[own["position"]] for own in changed)


def test_the_ladder_and_the_seeds(runs):
    folder = runs["compare"][0]
    document, page = json.loads((folder / "compare.json").read_text()), Page(folder)
    for name, own in document["summary"].items():
        assert own["verdict"] + "." in page.text
        assert f"The ladder on {name}" in page.text
        for method in own["methods"].values():
            low, high = method["test"]["interval"]
            assert low <= method["test"]["mean"] + 0.02
            assert f"{100 * low:.1f} to {100 * high:.1f}" in page.text
    # a mean that is ahead by what the test samples may be wrong by is not called more than that
    for low, clear in ((-0.01, 0), (0.01, 1)):
        own = {**own, "best": "selmix", "difference": {"mean": 0.02, "interval": [low, 0.05]}}
        title = comparison(document | {"summary": {"min_recall": own}})[0]
        assert title.endswith(f"the best mean on 1 of 1, beyond what the test samples leave to chance on {clear}")
    folder = runs["seeds"][0]
    document, page = json.loads((folder / "seeds.json").read_text()), Page(folder)
    mean, std = (100 * document["after"]["test"]["min_recall"][key] for key in ("mean", "std"))
    assert f"{mean:.1f} ± {std:.1f} %" in page.text
    for seed in range(3):
        assert f"seed{seed}/report.html" in page.asks
        assert (folder / f"seed{seed}" / "report.html").is_file()


def test_the_page_of_a_sweep(runs):
    folder = runs["sweep"][0]
    document, page = json.loads((folder / "sweep.json").read_text()), Page(folder)
    assert page.keys == ["heads", "front", "repeat"]
    for head in document["heads"]:
        assert f"{100 * head['test']['min_recall']['mean']:.1f}" in page.text
        if head["folder"]:
            assert f"{head['folder']}/seed0/report.html" in page.asks
            assert (folder / head["folder"] / "seed0" / "report.html").is_file()
    front = document["pareto"]["test"]
    shown = [", ".join(front[:-1]), front[-1]] if len(front) > 1 else front
    assert f"On the front on test: {' and '.join(shown)}." in page.text
    own = {head["head"]: head["test"] for head in document["heads"]}
    for name in document["metrics"]:
        for other in ("before", "balanced"):
            gain = 100 * (own[name][name]["mean"] - own[other][name]["mean"])
            shown = f"{gain:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(gain) >= 0.05 else "0.0"
            assert f"{name} {shown}" in page.text
    assert "--metric 'macro_f1,0.5*accuracy + 0.5*min_recall' --seeds 0" in page.text


def test_the_command_that_is_shown_repeats_the_run(runs, tmp_path):
    folder = runs["constraints"][0]
    (command,) = re.findall("<code>(selmix .*?)</code>", Page(folder).source)
    words = shlex.split(html.unescape(command))
    assert words[:2] == ["selmix", "finetune"]
    words[words.index("RUN")] = str(tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:
        few_replicates(patch)
        assert run(*words[1:])[0] in (0, 4)
    for name in ("head.safetensors", "metrics.jsonl", "recipe.toml", "record.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_report_is_made_anew_from_the_folder_alone(runs, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(runs["images"][0], folder)
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    code, stdout, stderr = run("report", folder)
    assert (code, stdout, stderr) == (0, f"report: {folder / 'report.html'}\n", "")
    assert (folder / "report.html").read_bytes() == page
    code, stdout, _ = run("report", folder, "--json")
    assert json.loads(stdout) == {
        "schema": 1, "command": "report", "report": str(folder / "report.html"), "bytes": len(page),
    }  # fmt: skip
    assert run("report", folder, "--quiet") == (0, "", "")


def test_of_several_seeds_each_has_its_report_made_anew(runs, tmp_path):
    folder = tmp_path / "seeds"
    shutil.copytree(runs["seeds"][0], folder)
    pages = {path: path.read_bytes() for path in [folder / "report.html", *folder.glob("seed*/report.html")]}
    assert len(pages) == 4
    for path in pages:
        path.unlink()
    assert run("report", folder)[0] == 0
    assert {path: path.read_bytes() for path in pages} == pages


def _with_fewer_classes(folder):
    path = folder / "result.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"class_names": document["class_names"][:1]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "record.npz").unlink(), "has no record.npz"),
        (lambda folder: (folder / "record.npz").write_bytes(b"PK"), "not a readable .npz"),
        (lambda folder: (folder / "samples.json").unlink(), "a report needs the whole folder of a run"),
        (lambda folder: (folder / "metrics.jsonl").write_text("{"), "metrics.jsonl is damaged"),
        (lambda folder: (folder / "result.json").write_text("{"), "result.json is damaged"),
        (lambda folder: (folder / "result.json").write_text("{}"), "is no result of demo or finetune"),
        (_with_fewer_classes, "do not belong together"),
    ],
)
def test_a_spoilt_folder_is_one_line_and_exit_code_3(runs, tmp_path, spoil, message):
    folder = tmp_path / "run"
    shutil.copytree(runs["two"][0], folder)
    spoil(folder)
    code, stdout, stderr = run("report", folder)
    assert (code, stdout) == (3, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert message in stderr


@pytest.mark.parametrize("name", ["_page_of", "write_record", "write_samples"])
def test_a_report_that_fails_costs_no_run(tmp_path, monkeypatch, caplog, name):
    few_replicates(monkeypatch)

    def broken(*_):
        raise ZeroDivisionError("no\nsuch luck")

    monkeypatch.setattr(writer, name, broken)
    folder, stdout = finetuned(tmp_path, features({"train": (80, 20), "val": (30, 30)}))
    assert (folder / "result.json").is_file()
    assert (folder / "head.safetensors").is_file()
    assert not (folder / "report.html").exists()
    assert "report:" not in stdout
    assert caplog.messages[-1] == f"the run is complete in {folder}, but there is no report of it: no such luck"


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
LOOK = """
const seen = (own) => { const box = own.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
const folded = (own) => own.closest("details:not([open])") !== null;
const figures = [...document.querySelectorAll("figure, figure svg")].filter((own) => !folded(own));
return {
  scroll: document.documentElement.scrollWidth - window.innerWidth,
  width: window.innerWidth,
  figures: figures.length,
  hidden: figures.filter((own) => !seen(own)).map((own) => own.outerHTML.slice(0, 80)),
  asked: performance.getEntriesByType("resource").map((own) => own.name).filter((own) => !own.startsWith("data:")),
  paper: getComputedStyle(document.body).backgroundColor,
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(executable_path=driver, log_output=os.devnull)
    opened = selenium.Chrome(options=options, service=service)
    yield opened
    opened.quit()


def looked_at(browser, page: Path, width: int, theme: str):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    found = browser.execute_script(LOOK)
    return found, browser.get_log("browser")


@pytest.mark.parametrize("name", NAMES)
def test_in_a_browser_it_fits_and_every_figure_is_there(runs, browser, name):
    page, papers = runs[name][0] / "report.html", set()
    for width in (1280, 390):
        for theme in ("light", "dark"):
            found, messages = looked_at(browser, page, width, theme)
            assert messages == []
            assert found["width"] == width
            assert found["scroll"] <= 0
            assert found["figures"] > (1 if name == "sweep" else 3)
            assert found["hidden"] == []
            assert found["asked"] == []
            papers.add(found["paper"])
    assert len(papers) == 2


def test_in_a_browser_tables_are_sorted_and_cells_named(runs, browser):
    folder = runs["hundred"][0]
    looked_at(browser, folder / "report.html", 1280, "light")
    told = browser.execute_script(
        """
        const picture = document.querySelector("svg[data-values]"), box = picture.getBoundingClientRect();
        const at = { clientX: box.left + box.width * 0.005, clientY: box.top + box.height * 0.995, bubbles: true };
        picture.dispatchEvent(new PointerEvent("pointermove", at));
        return document.getElementById("tip").textContent;
        """
    )
    own = Run.read(folder)
    share = own.confusion("before")[-1, 0]
    assert told == f"{own.rows[-1]} predicted as {own.rows[0]}: {100 * share:.3g} %"
    shown = browser.execute_script(
        """
        const table = [...document.querySelectorAll("#classes table[data-sort]")].pop();
        table.closest("details").open = true;
        const button = [...table.querySelectorAll("thead button")].find((own) => own.textContent === "after");
        button.click();
        return [...table.tBodies[0].rows].map((row) => Number(row.cells[button.closest("th").cellIndex].textContent));
        """
    )
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == 100
    assert browser.get_log("browser") == []
