"""Would the tests notice if the mathematics were wrong? Change it in one place after another, and see which tests fail.

    pip install -e '.[dev,mutants]'
    OMP_NUM_THREADS=1 python benchmarks/mutants.py                        # floor 1, and a table
    python benchmarks/mutants.py gains metrics --show                     # what survives, as differences
    python benchmarks/mutants.py gains --results runs/mutants.json        # and again, those that survived alone:
    python benchmarks/mutants.py gains --again runs/mutants.json

The changes are those of mutmut: another operator, another constant, an argument left out, a name bound to None, a
branch never taken. The wording of messages is not changed (texts with a space in them). mutmut starts pytest anew for
every mutant; here the tests of a module (`TESTS`) are collected once and run once, to see which of them reach which
function and how long they take. Then a mutant is a fork in which the functions of the module get the code of the
mutated file, and the tests that reach the mutated function are run until one fails: first those that killed others of
the same function, then the quickest. So what a module does when it is imported, its tables and what fills them, stays
as it is: a mutant there survives.

A mutant is killed if a test fails or if it takes much longer than all its tests took before. Random numbers are those
of the tests, hypothesis included, so a second run kills the same mutants; `--at-most` draws some of them, by `--seed`.
"""

import argparse
import difflib
import gc
import importlib
import json
import os
import random
import resource
import sys
import time
import types
from dataclasses import asdict, dataclass, field
from pathlib import Path

import libcst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import create_mutations

ROOT = Path(__file__).parents[1]
# floor 1, and the tests that are each module's own; those that start commands or loops are left out: they are slow
TESTS = {
    "gains": ["test_gains"],
    "pairs": ["test_pairs"],
    "confusion": ["test_confusion", "test_sample_groups"],
    "mixup": ["test_mixup"],
    "descent": ["test_descent"],
    "worth": ["test_worth"],
    "significance": ["test_significance"],
    "bootstrap": ["test_bootstrap"],
    "calibration": ["test_calibration"],
    "apportion": ["test_apportion"],
    "metrics": [
        *("test_metrics", "test_minimum", "test_expressions", "test_sample_groups", "test_user_metric"),
        *("test_constraints", "test_evaluation"),
    ],
    "constraints": ["test_constraints"],
    "losses": ["test_losses"],
}
_SLOWER, _GRACE = 2, 3  # times as long as its tests, and seconds, until a mutant is taken for one that never ends
_LONGEST = 1.0  # seconds of computing; slower tests are not asked
_ROOM = 4 << 30  # bytes that a mutant may take


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: of the file, from the root of the repository.
        function: name of the outermost function around the change.
        first_line, last_line: of that function.
        code: the whole file, changed.
        difference: what was changed, as the changed lines.
    """

    path: str
    function: str
    first_line: int
    last_line: int
    code: str
    difference: str


@dataclass
class Outcome:
    """What became of a mutant: killed by a failing test, killed by the clock, survived, or reached by no test."""

    path: str
    function: str
    difference: str
    end: str


@dataclass(eq=False)  # pytest puts plugins into sets
class Loop:
    """pytest's loop, replaced by one that runs the tests once and then the mutants."""

    mutants: list[Mutant]
    progress: bool = True
    outcomes: list[Outcome] = field(default_factory=list)
    failed: str | None = None
    trying: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    killers: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    reached: dict[str, set[tuple[str, int]]] = field(default_factory=dict)

    def pytest_collection(self) -> None:
        """Let hypothesis draw the same examples every time, however slow the machine is."""
        from hypothesis import settings  # pytest wants to be the first to import it

        settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> pytest.TestReport | None:
        """Report of a mutant's test that it failed, without the pages that say how, which cost more than the test."""
        if not self.trying or call.excinfo is None or call.excinfo.errisinstance(pytest.skip.Exception):
            return None
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", None, call.when)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the name of a test that fails."""
        if report.failed:
            self.failed = report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run everything."""
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            self.run_watched(item, following)
            if self.failed:
                raise SystemExit(f"{self.failed} fails on the code as it is")
        gc.collect()
        gc.freeze()  # pages that a fork does not touch need not be copied
        for number, mutant in enumerate(self.mutants, 1):
            end = self.end_of(mutant, session)
            self.outcomes.append(Outcome(mutant.path, mutant.function, mutant.difference, end))
            if self.progress:
                print(f"{number}/{len(self.mutants)} {mutant.path} {mutant.function}: {end}", file=sys.stderr)
        return True

    def run_watched(self, item: pytest.Item, following: pytest.Item | None) -> None:
        """Run a test and note how long it takes and which functions of the mutated files it calls."""
        calls: set[tuple[str, int]] = set()
        watched = {str(ROOT / mutant.path) for mutant in self.mutants}

        def note(frame: types.FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename in watched:
                calls.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        begin = time.process_time()
        sys.setprofile(note)
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        finally:
            sys.setprofile(None)
        self.seconds[item.nodeid] = time.process_time() - begin
        self.reached[item.nodeid] = calls

    def end_of(self, mutant: Mutant, session: pytest.Session) -> str:
        """Run the tests that reach a mutant in a process of its own, and return what became of it."""
        lines = range(mutant.first_line, mutant.last_line + 1)
        path = str(ROOT / mutant.path)
        items = [
            item
            for item in session.items
            if any(file == path and line in lines for file, line in self.reached[item.nodeid])
            and self.seconds[item.nodeid] < _LONGEST
        ]
        if not items:
            return "no test"
        # what killed others of the function first, then the quickest
        latest = self.killers.setdefault((mutant.path, mutant.function), [])
        items.sort(
            key=lambda item: (-latest.index(item.nodeid) if item.nodeid in latest else 1, self.seconds[item.nodeid])
        )
        limit = int(_GRACE + _SLOWER * sum(self.seconds[item.nodeid] for item in items))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            gc.disable()
            self.trying = True
            killer = self.killer_of(mutant, items, limit)
            os.write(writing, b"" if killer is None else killer.encode())
            os._exit(killer is not None)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            killer = pipe.read()
        _, status = os.waitpid(child, 0)
        if killer:
            latest[:] = [*(own for own in latest if own != killer), killer]
        if os.WIFSIGNALED(status):
            return "time"
        return {0: "survived", 1: "killed"}[os.WEXITSTATUS(status)]

    def killer_of(self, mutant: Mutant, items: list[pytest.Item], limit: int) -> str | None:
        """Take on the code of a mutant and return the test that fails, or None if none does."""
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM, size + _ROOM))
        try:
            take_on(mutant)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    break
        except BaseException as error:  # a file that cannot be run, or a test that ends pytest
            return type(error).__name__
        return self.failed


def take_on(mutant: Mutant) -> None:
    """Give the functions of a module that is in use the code of the mutated file."""
    module = importlib.import_module(mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    changed = dict(vars(module))
    exec(compile(mutant.code, str(ROOT / mutant.path), "exec"), changed)
    _exchange(vars(module), changed)


def _exchange(used: dict | types.MappingProxyType, changed: dict | types.MappingProxyType) -> None:
    for name, new in changed.items():
        old = used.get(name)
        old, new = getattr(old, "__func__", old), getattr(new, "__func__", new)
        if isinstance(old, property) and isinstance(new, property):
            old, new = old.fget, new.fget
        if old is new:
            continue
        if isinstance(old, types.FunctionType) and isinstance(new, types.FunctionType):
            old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
        elif isinstance(old, type) and isinstance(new, type):
            _exchange(vars(old), vars(new))


def mutants_of(path: Path) -> list[Mutant]:
    """Return the mutants of a file, in order."""
    source = path.read_text()
    tree, mutations, _, _ = create_mutations(str(path), source)
    positions = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
    printed = [tree.code_for_node(statement) for statement in tree.body]
    statement_of = {id(part): index for index, own in enumerate(tree.body) for part in (own, *_members(own))}
    header = source.removesuffix("".join(printed))
    found = {}
    for mutation in mutations:
        function = mutation.contained_by_top_level_function
        if not isinstance(function, libcst.FunctionDef) or _is_wording(mutation.original_node):
            continue
        index = statement_of[id(function)]
        statement = tree.body[index].deep_replace(mutation.original_node, mutation.mutated_node)
        code = "".join([header, *printed[:index], tree.code_for_node(statement), *printed[index + 1 :]])
        difference = "\n".join(
            line.rstrip()
            for line in difflib.unified_diff(source.splitlines(), code.splitlines(), n=0, lineterm="")
            if line[:3] not in ("---", "+++")
        )
        first = positions[function.decorators[0] if function.decorators else function].start.line
        last = positions[function].end.line
        mutant = Mutant(str(path.relative_to(ROOT)), function.name.value, first, last, code, difference)
        if code != source and _compiles(code):
            found[code] = mutant
    return list(found.values())


def _members(statement: libcst.CSTNode) -> list[libcst.CSTNode]:
    return list(statement.body.body) if isinstance(statement, libcst.ClassDef) else []


def _is_wording(node: libcst.CSTNode) -> bool:
    return isinstance(node, libcst.SimpleString) and " " in node.value.strip()


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def files_of(name: str) -> list[Path]:
    """Return the files of a module of floor 1."""
    path = ROOT / "selmix" / name
    return sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def judged(name: str, settings: argparse.Namespace) -> list[Outcome]:
    """Try out the mutants of a module."""
    mutants = [mutant for path in files_of(name) for mutant in mutants_of(path)]
    if settings.again:
        survivors = {(own["path"], own["difference"]) for own in json.loads(settings.again.read_text()) if _alive(own)}
        mutants = [mutant for mutant in mutants if (mutant.path, mutant.difference) in survivors]
    if settings.at_most and len(mutants) > settings.at_most:
        chosen = random.Random(settings.seed).sample(range(len(mutants)), settings.at_most)
        mutants = [mutants[index] for index in sorted(chosen)]
    if not mutants:
        return []
    loop = Loop(mutants, progress=settings.progress)
    tests = [f"tests/{own}.py" for own in TESTS[name]]
    doctests = sorted({mutant.path for mutant in mutants})
    code = pytest.main(
        [
            "-p",
            "no:terminal",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=--doctest-modules --assert=plain",
            *tests,
            *doctests,
        ],
        plugins=[loop],
    )
    if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the tests of {name} cannot be run: {code!r}")
    return loop.outcomes


def _alive(outcome: dict) -> bool:
    return outcome["end"] in ("survived", "no test")


def main() -> None:
    """Read the command line, try out the mutants, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[], help=f"of floor 1: {', '.join(TESTS)}; all, if none is named")
    parser.add_argument("--at-most", type=int, help="mutants of a module that are drawn; all, if not given")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--show", action="store_true", help="show what survives")
    parser.add_argument("--progress", action="store_true", help="a line for each mutant")
    parser.add_argument("--results", type=Path, help="JSON file for the outcomes")
    parser.add_argument("--again", type=Path, help="such a file: only what survived there")
    settings = parser.parse_args()
    os.chdir(ROOT)
    outcomes = []
    print("| module | mutants | killed | survived | % |\n|---|---|---|---|---|")
    for name in settings.modules or TESTS:
        own = judged(name, settings)
        outcomes += own
        alive = [outcome for outcome in own if _alive(asdict(outcome))]
        share = f"{100 * (1 - len(alive) / len(own)):.1f}" if own else "-"
        print(f"| `{name}` | {len(own)} | {len(own) - len(alive)} | {len(alive)} | {share} |", flush=True)
        if settings.show:
            for outcome in alive:
                print(f"{outcome.path} {outcome.function} ({outcome.end})\n{outcome.difference}\n", flush=True)
        if settings.results:
            settings.results.parent.mkdir(parents=True, exist_ok=True)
            settings.results.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
