"""The documentation site builds without a warning, holds what it is to hold, and fetches nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selmix

ROOT = Path(__file__).parent.parent
PROMISED = ["estimator.SelMixClassifier", "gains.gain_matrix", "metrics.get_metric", "metrics.logit_gradient"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_contract_is_in_the_reference(site):
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in PROMISED:
        assert f'id="selmix.{name}"' in pages, name


def test_nothing_is_fetched_and_notes_stay_out(site):
    assert not (site / "dev").exists()
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 20
    for page in pages:
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert not fetched, page


def test_every_picture_has_words():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.findall(r"!\[\s*\]", page.read_text()), page


def test_every_module_of_the_reference_is_there():
    package = Path(selmix.__file__).parent
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: selmix\.([\w.]+)", page.read_text(), flags=re.MULTILINE):
            path = package.joinpath(*name.removesuffix(".SelMixClassifier").split("."))
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name
