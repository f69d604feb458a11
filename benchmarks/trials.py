"""Commands that are disturbed: small data, `selmix` in forks of this process, and what they leave, file by file.

Used by `killing.py` and `faults.py`. Commands run in forks of this process, which has imported everything and computed
nothing: so a trial takes about as long as its work. Blocks of the feature cache are of eight rows, so that small data
have many.
"""

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

LATEST = 10  # seconds from a signal to the end of its process
FINISHED = re.compile(r"holds a (finished run|trained backbone)")
RECIPE = """
name = "tiny"
architecture = "cifar_resnet20"
data = "images"
input_size = [16, 16]
[stage1]
epochs = 8
warmup_epochs = 0
batch_size = 8
"""
METHODS = "crt,ncm,bias,selmix"
TIMES = re.compile(rb'"seconds[^,}]*[,}]|\d+(\.\d+)? s\b|<td data-v="[^"]*">\d+\.\d</td>')  # in a page
IGNORED = re.compile(r"^Exception ignored in.*?^[\w.]+(Error|Interrupted)\b.*?$", re.MULTILINE | re.DOTALL)
LOOP = "steps=60 refresh=20 start_steps=20"


@dataclass(frozen=True)
class Verb:
    """A command: its words, what it writes, and whether it goes on by --resume."""

    words: str
    writes: tuple[str, ...]
    resumes: bool = False


VERBS = {
    "train": Verb("train tiny.toml --out out", ("out",), resumes=True),
    "extract": Verb("extract --backbone trained --data images --out out", ("out",)),
    "finetune": Verb(
        f"finetune --backbone trained --data images --cache cache --metric min_recall --out out {LOOP}",
        ("out", "cache"),
    ),
    "compare": Verb(
        f"compare --features features.npz --metric min_recall --seeds 0,1 --methods {METHODS} --out out {LOOP}",
        ("out",),
    ),
}


@dataclass
class Trials:
    """What came of some trials.

    Attributes:
        outcomes: how many ended how.
        faults: in words, with what the processes said.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, fault: str) -> None:
        """Note what was wrong with a trial, if something was; the first few are shown."""
        if fault:
            self.faults.append(fault)
            if len(self.faults) <= 3:
                print(fault, file=sys.stderr)


def command_line(about: str, disturbances: str, known: Iterable[str], count: str, many: int) -> argparse.Namespace:
    """Return what was asked for: lists of verbs and of disturbances, how many trials, and the seed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, all_of_them in (("verbs", VERBS), (disturbances, known)):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=list(all_of_them))
    parser.add_argument(f"--{count}", type=int, default=many)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def print_header(*columns: str) -> None:
    """Print the names of the columns of a Markdown table."""
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)


def print_row(verb: str, disturbance: str, trials: Trials, count: int, outcomes: Sequence[str]) -> None:
    """Print what came of the trials of a verb."""
    cells = [verb, disturbance, count, *(trials.outcomes[name] for name in outcomes), len(trials.faults)]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def write_material(folder: Path) -> None:
    """Write images, a recipe and features."""
    rng = np.random.default_rng(0)
    for split, counts in {"train": (24, 12, 6), "val": (6, 6, 6), "test": (8, 8, 8)}.items():
        for name, count in zip("abc", counts, strict=True):
            (folder / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{index}.png")
    (folder / "tiny.toml").write_text(RECIPE)
    arrays = {}
    for split, counts in {"train": (60, 30, 12), "val": (12, 12, 12), "test": (20, 20, 20)}.items():
        labels = np.repeat(np.arange(3), counts)
        arrays[f"{split}_features"] = (np.eye(3)[labels] + rng.normal(size=(len(labels), 3))).astype(np.float32)
        arrays[f"{split}_labels"] = labels
    np.savez(folder / "features.npz", **arrays)


def import_everything() -> None:
    """Import what the verbs import, and compute nothing: a process that has started threads must not fork."""
    import selmix

    for module in pkgutil.walk_packages(selmix.__path__, "selmix."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("timm")
    importlib.import_module("torch").set_num_threads(1)
    importlib.import_module("selmix.features.cache")._FEWEST_ROWS = 8


def begin(words: list[str], place: Path, log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start `selmix WORDS` in a folder, in a process group of its own, and return the number of the process.

    What it says goes to `log`; `prepare` is called in it before it begins.
    """
    sys.stdout.flush()
    told, tells = os.pipe()
    number = os.fork()
    if number:
        os.close(tells)
        os.read(told, 1)  # until it is about to begin
        os.close(told)
        return number
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(place)
        with log.open("wb", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.argv = ["selmix", *words]
        from selmix import commands

        app = commands.app

        def telling(*words: object, **options: object) -> object:
            os.write(tells, b".")  # from now on it takes signals
            return app(*words, **options)

        commands.app = telling
        prepare()
        commands.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_of(number: int, seconds: float) -> int | None:
    """Return how a process ended: its exit code, minus a signal, or None if it did not within the time."""
    latest = time.monotonic() + seconds
    while time.monotonic() < latest:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def without_times(content: object) -> object:
    """Return a document without what says how long something took, or that features were there already."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if "second" not in key and key != "reused"}
    if isinstance(content, list):
        return [without_times(value) for value in content]
    return content


def files_of(place: Path, writes: tuple[str, ...]) -> list[Path]:
    """Return every file that a command has written."""
    found = [path for name in writes for path in ((place / name), *(place / name).rglob("*"))]
    return sorted(path for path in found if path.is_file())


def digests(place: Path, writes: tuple[str, ...]) -> dict[str, str]:
    """Return the digest of every file that a command has written."""
    found = {}
    for path in files_of(place, writes):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_times(json.loads(content))).encode()
        elif path.suffix == ".jsonl":
            content = json.dumps([without_times(json.loads(line)) for line in content.splitlines()]).encode()
        elif path.suffix == ".html":
            content = TIMES.sub(b"", content)
        found[path.relative_to(place).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def said(place: Path) -> str:
    """Return what the processes of a trial have said."""
    return "".join(f"--- {path.stem} ---\n{path.read_text()}" for path in sorted(log_of(place, "").parent.iterdir()))


def plain(text: str) -> str:
    """Return what was said without the errors that Python itself says it ignored, as in code that cannot raise."""
    return IGNORED.sub("", text)


def torn(place: Path, writes: tuple[str, ...]) -> list[str]:
    """Return the files under their final names that their readers refuse."""
    import torch
    from safetensors.torch import load_file

    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        ".toml": lambda path: tomllib.loads(path.read_text()),
        ".safetensors": load_file,
        ".npy": np.load,
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".html": lambda path: path.read_text().rindex("</html>"),
    }
    found = []
    for path in files_of(place, writes):
        if path.name.startswith(".") or path.suffix not in readers:
            continue
        try:
            readers[path.suffix](path)
        except Exception as error:
            found.append(f"{path.name} ({type(error).__name__}: {error})")
    return found


@contextmanager
def fresh_place(material: Path, disk: str = "") -> Iterator[Path]:
    """Make a folder with the material, always the same one, as what is written may name it.

    With `disk`, options of a tmpfs, it is a disk of its own. What processes say is kept elsewhere, in `log_of`.
    """
    place, logs = material.parent / "place", log_of(material, "").parent
    place.mkdir()
    logs.mkdir()
    try:
        if disk:
            mount(place, disk)
        for path in material.iterdir():
            (place / path.name).symlink_to(path)
        yield place
    finally:
        if disk:
            subprocess.run(["umount", place], check=True)
        shutil.rmtree(place)
        shutil.rmtree(logs)


def mount(place: Path, options: str) -> None:
    """Let a folder be a disk of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)


def log_of(place: Path, name: str) -> Path:
    """Return where a process of a trial writes what it says."""
    return place.with_name("logs") / f"{name}.log"


def undisturbed(verb: Verb, material: Path) -> tuple[dict[str, str], float, list[int]]:
    """Return the digests of an undisturbed run, how long it takes and how large its files are; two runs must agree."""
    found, seconds = [], []
    for _ in range(2):
        with fresh_place(material) as place:
            start = time.monotonic()
            code = end_of(begin(shlex.split(verb.words), place, log_of(place, "first")), 120)
            seconds.append(time.monotonic() - start)
            if code != 0:
                sys.exit(f"{verb.words} ended with {code}\n{said(place)}")
            found.append(digests(place, verb.writes))
            sizes = [(place / name).stat().st_size for name in found[-1]]
    for other in found[1:]:
        if wrong := sorted(file for file in other if other[file] != found[0].get(file)):
            sys.exit(f"{verb.words}: undisturbed runs differ in {', '.join(wrong)}")
    return found[0], statistics.median(seconds), sizes


def with_resume(verb: Verb, place: Path) -> list[str]:
    """Return the words of a verb as somebody types them again: with --resume if something is there to resume."""
    return shlex.split(verb.words) + ["--resume"] * (verb.resumes and (place / "out" / "recipe.toml").is_file())


def same_end(verb: Verb, words: list[str], place: Path, whole: dict[str, str]) -> str:
    """Start a command again, and say what is wrong with its end; nothing if it left what the undisturbed run did."""
    finished, log = digests(place, verb.writes) == whole, log_of(place, "second")
    code = end_of(begin(words, place, log), 60)
    if code != 0 and not (finished and code == 2 and FINISHED.search(log.read_text())):
        return f"the second process ended with {code}"
    left = digests(place, verb.writes)
    wrong = sorted(file for file in left.keys() | whole.keys() if left.get(file) != whole.get(file))
    return f"not as the undisturbed run: {', '.join(wrong)}" if wrong else ""


@contextmanager
def workshop() -> Iterator[Path]:
    """Import everything, and write the material with a trained backbone; return its folder."""
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        material, log = Path(folder) / "material", Path(folder) / "material.log"
        write_material(material)
        if end_of(begin(shlex.split(VERBS["train"].words), material, log), 120) != 0:
            sys.exit(log.read_text())
        (material / "out").rename(material / "trained")
        yield material
