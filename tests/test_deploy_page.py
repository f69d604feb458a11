"""docs/deploy.md: every command works, and the Python opens what they wrote."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from deployed import CLASSES, run, tuned_run, write_striped

from selmix.deploy.onnx_graph import OPSET
from selmix.deploy.parity import _SAMPLES

PAGE = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    tuned_run(folder)
    (folder / "runs").mkdir()
    (folder / "run").rename(folder / "runs" / "insects")
    shutil.copytree(folder / "cache", folder / "features")
    shutil.copytree(folder / "data" / "test", folder / "photos")
    write_striped(folder / "may", {"test": (4, 3, 5)})
    (folder / "more").mkdir()
    for name in ("more/1.png", "image.png"):
        shutil.copy(folder / "photos" / "bee" / "2.png", folder / name)
    (folder / "list.csv").write_text("path,comment\nphotos/ant/0.png,the first\n")
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_works(line, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    code, stdout, _ = run(*shlex.split(line)[1:])
    assert code == 0
    if "--json" in line:
        json.loads(stdout)


@pytest.mark.parametrize("code", SNIPPETS, ids=["timm", "onnx"])
def test_the_snippet_says_what_predict_says(code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    for kind, name in (("timm", "insects.safetensors"), ("onnx", "insects.onnx")):
        if not Path(name).exists():
            assert run("export", "runs/insects", "--format", kind, "--out", name, "--quiet")[0] == 0
    assert any(code in Path(f"{name}.md").read_text() for name in ("insects.safetensors", "insects.onnx"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), {})
    name, probability = printed.getvalue().rsplit(maxsplit=1)
    assert name in CLASSES
    (row,) = json.loads(run("predict", "runs/insects", "image.png", "--json", "--calibrated")[1])["predictions"]
    assert (name, float(probability)) == (row["class"], pytest.approx(row["probability"], abs=1e-5))


def test_the_page_tells_the_constants():
    assert f"on {_SAMPLES} images of the run" in PAGE
    assert f"opset {OPSET}" in PAGE
    assert "It lies in [0.05, 20]" in PAGE
    assert len(COMMANDS) == 10
