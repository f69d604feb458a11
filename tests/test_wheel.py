"""An installed wheel does the demo outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel and install it, without its dependencies, into a clean folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("selmix-*.whl")
    target = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return wheel, target


def run_installed(target: Path, cwd: Path, *words: str) -> str:
    """Run Python with the installed package ahead of the checkout, and warnings as errors."""
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_wheel_carries_what_ships_and_nothing_else_at_the_top(installed):
    wheel, _ = installed
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"selmix", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert "selmix/_shipped/pretrained/fashion_resnet32/model.safetensors" in names
    assert "selmix/_shipped/pretrained/fashion_mnist_lt/LICENSE" in names
    assert "selmix/_shipped/recipes/demo.toml" in names
    assert {f"selmix/report/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert "selmix/_shipped/recipes/cifar10_lt_if100/mislas_stage1.toml" in names


def test_the_demo_runs_from_the_installed_wheel(installed, tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("SELMIX_CACHE", str(shared_cache))
    _, target = installed
    where = run_installed(target, tmp_path, "-c", "import selmix; print(selmix.__file__)")
    assert Path(where.strip()).is_relative_to(target)
    stdout = run_installed(target, tmp_path, "-m", "selmix", "demo", "--json", "steps=200")
    result = json.loads(stdout)
    assert result["support"]["test"] == [1000] * 10
    assert result == json.loads((tmp_path / "runs" / "demo" / "result.json").read_text())


def test_the_console_script_points_into_the_package(installed):
    _, target = installed
    (points,) = target.glob("selmix-*.dist-info/entry_points.txt")
    assert "selmix = selmix.commands:main" in points.read_text()
