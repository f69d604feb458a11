"""The house keeps its shape: imports point down, modules stay small, the edge alone prints."""

import ast
from pathlib import Path

import pytest

import selmix

PACKAGE = Path(selmix.__file__).parent

# docs/architecture.md says what each floor is for
FLOORS = [
    ["agreement", "errors", "faults", "ranks", "seeding", "writing"],
    [
        "apportion",
        "bootstrap",
        "calibration",
        "confusion",
        "constraints",
        "descent",
        "gains",
        "losses",
        "margins",
        "metrics",
        "mixup",
        "pairs",
        "significance",
        "worth",
    ],
    [
        "backbones",
        "checkpoints",
        "cifar_resnet",
        "data",
        "evaluation",
        "features",
        "heads",
        "neighbours",
        "predictions",
        "shipped",
        "wide_resnet",
    ],
    ["baselines", "pseudo", "semi", "stage1", "stage2"],
    [
        "audit",
        "beginning",
        "check",
        "compare",
        "deploy",
        "diagnosis",
        "doctor",
        "estimator",
        "extraction",
        "figures",
        "finetuning",
        "generations",
        "head_file",
        "manifest",
        "option_words",
        "pareto",
        "pipeline",
        "preparation",
        "recipe",
        "report",
        "recipe_check",
        "recipe_header",
        "result",
        "run",
        "run_folders",
        "searching",
        "semi_training",
        "spread",
        "stages",
        "starting",
        "sweep",
        "train_recipe",
        "training",
        "training_job",
        "training_run",
        "verdict",
    ],
    ["commands", "__main__"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the top-level part a module belongs to: `gains`, `stage2`, ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Return the parts of selmix that a module imports, wherever in the module the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("selmix.")}
    return found - {"__version__"}


def called_names(path: Path) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_modules_are_small(path):
    if path.parent == PACKAGE and path.name == "__init__.py":
        assert imported_parts(path) == {"estimator"}  # when it is asked for: tests/test_estimator.py
        return
    own = FLOOR_OF[part_of(path)]
    upward = {part for part in imported_parts(path) if FLOOR_OF[part] > own}
    assert not upward, f"{path} on floor {own} imports {upward} from above"
    lines = len(path.read_text().splitlines())
    assert lines <= 300
    if part_of(path) == "commands":
        assert lines <= 90


def test_an_upward_import_would_be_seen(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from selmix.stage2.refine import refine\n    import selmix.commands.demo\n")
    assert imported_parts(module) == {"stage2", "commands"}


def test_every_part_stands_on_one_floor():
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts == set(FLOOR_OF)
    assert len(FLOOR_OF) == sum(map(len, FLOORS))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_edge_prints(path):
    if part_of(path) != "commands":
        assert "print" not in called_names(path)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(path) in FLOORS[1]], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_mathematics_reads_no_files_and_picks_no_device(path):
    source = path.read_text()
    assert "open" not in called_names(path)
    assert not {"pathlib", "os", "json", "io"} & {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "cuda" not in source
