"""What is left of a command that is killed, and does it come to the same end when it is started again?

    python benchmarks/killing.py                                    # every verb and signal, and a table
    python benchmarks/killing.py --verbs train --signals INT --moments 20 --seed 1

A trial runs a verb on small data in a process group of its own, sends the group a signal at a moment drawn uniformly
from the time that an undisturbed run takes, looks at what is left, starts the command again and compares every file
with those of the undisturbed run, bit for bit (what says how long something took, or that features were there already,
is left out). A trial fails if

- an interrupted or terminated process shows a traceback, does not say how to go on, or ends with another code than 130
  or 143; what it says is what is then run, for SIGKILL it is the same command with --resume where a verb has that;
- a file under its final name cannot be read by its reader: nothing torn is ever read;
- the second process fails, leaves other files than the undisturbed run (temporary ones among them), or another byte.

Commands run in forks of this process, which has imported everything and computed nothing: so a trial takes about as
long as its work. Blocks of the feature cache are of eight rows, so that small data have many.
"""

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import random
import re
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
CODES = {"TERM": 143, "INT": 130}
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
    """What came of the trials of one verb and signal.

    Attributes:
        outcomes: how many left nothing, left work, or were finished already.
        faults: in words, with what the processes said.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


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


def begin(words: list[str], place: Path, said: Path) -> int:
    """Start `selmix WORDS` in a folder, in a process group of its own, and return the number of the process."""
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
        with said.open("wb", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.argv = ["selmix", *words]
        from selmix.commands import main

        os.close(told)
        os.write(tells, b".")
        os.close(tells)
        main()
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


def digests(place: Path, writes: tuple[str, ...]) -> dict[str, str]:
    """Return the digest of every file that a command has written."""
    found = {}
    for path in sorted(path for name in writes for path in (place / name).rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_times(json.loads(content))).encode()
        elif path.suffix == ".jsonl":
            content = json.dumps([without_times(json.loads(line)) for line in content.splitlines()]).encode()
        elif path.suffix == ".html":
            content = TIMES.sub(b"", content)
        found[path.relative_to(place).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


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
    for path in sorted(path for name in writes for path in (place / name).rglob("*") if path.is_file()):
        if path.name.startswith(".") or path.suffix not in readers:
            continue
        try:
            readers[path.suffix](path)
        except Exception as error:
            found.append(f"{path.name} ({type(error).__name__}: {error})")
    return found


@contextmanager
def fresh_place(material: Path) -> Iterator[Path]:
    """Make a folder with the material, always the same one: what is written may name it."""
    place = material.parent / "place"
    place.mkdir()
    try:
        for path in material.iterdir():
            (place / path.name).symlink_to(path)
        yield place
    finally:
        shutil.rmtree(place)


def again(verb: Verb, place: Path, said: str, name: str) -> list[str] | str:
    """Return the words that the restart shall have, or what is wrong with what the process said."""
    if name == "KILL":
        return shlex.split(verb.words) + ["--resume"] * (verb.resumes and (place / "out" / "recipe.toml").is_file())
    if "Traceback" in said:
        return "a traceback"
    told = re.search(r"interrupted; .*: selmix (.*)", said)
    return shlex.split(told.group(1)) if told else "no word of how to go on"


def trial(verb: Verb, name: str, moment: float, material: Path, whole: dict[str, str], trials: Trials) -> None:
    """Kill a run at a moment, start it again, and note what is wrong with the end."""
    with fresh_place(material) as place:
        first, second = place / "first.log", place / "second.log"
        number = begin(shlex.split(verb.words), place, first)
        time.sleep(moment)
        os.killpg(number, SIGNALS[name])
        code, said = end_of(number, LATEST), first.read_text()

        def fault(what: str) -> None:
            more = second.read_text() if second.is_file() else ""
            trials.faults.append(f"{name} after {moment:.3f} s: {what}\n--- first ---\n{said}\n--- again ---\n{more}")

        if code is None:
            return fault(f"the process lived {LATEST} s longer")
        if found := torn(place, verb.writes):
            return fault(f"torn: {', '.join(found)}")
        finished = digests(place, verb.writes) == whole
        begun = any((place / name).exists() for name in verb.writes)
        trials.outcomes["finished" if finished else "work" if begun else "nothing"] += 1
        words = shlex.split(verb.words)
        if code != 0:
            if code != CODES.get(name, -signal.SIGKILL):
                return fault(f"exit code {code}")
            found = again(verb, place, said, name)
            if isinstance(found, str):
                return fault(found)
            words = found
        code = end_of(begin(words, place, second), 60)
        if code != 0 and not (finished and code == 2 and FINISHED.search(second.read_text())):
            return fault(f"the second process ended with {code}")
        left = digests(place, verb.writes)
        wrong = sorted(file for file in left.keys() | whole.keys() if left.get(file) != whole.get(file))
        if wrong:
            return fault(f"not as the undisturbed run: {', '.join(wrong)}")
    return None


def undisturbed(verb: Verb, material: Path) -> tuple[dict[str, str], float]:
    """Return the digests of an undisturbed run and how long it takes; two runs must agree."""
    found, seconds = [], []
    for _ in range(2):
        with fresh_place(material) as place:
            start = time.monotonic()
            code = end_of(begin(shlex.split(verb.words), place, place / "said.log"), 120)
            seconds.append(time.monotonic() - start)
            if code != 0:
                sys.exit(f"{verb.words} ended with {code}: {(place / 'said.log').read_text()}")
            found.append(digests(place, verb.writes))
    for other in found[1:]:
        if wrong := sorted(file for file in other if other[file] != found[0].get(file)):
            sys.exit(f"{verb.words}: undisturbed runs differ in {', '.join(wrong)}")
    return found[0], statistics.median(seconds)


def main() -> None:
    """Run the trials and print a table; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--signals", default=",".join(SIGNALS))
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    import_everything()
    drawn, faulty = random.Random(asked.seed), False
    print("| verb | signal | moments | nothing left | work left | finished | faults |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder) / "material"
        write_material(material)
        number = begin(shlex.split(VERBS["train"].words), material, Path(folder) / "said.log")
        if end_of(number, 120) != 0:
            sys.exit((Path(folder) / "said.log").read_text())
        (material / "out").rename(material / "trained")
        for word in asked.verbs.split(","):
            verb = VERBS[word]
            whole, seconds = undisturbed(verb, material)
            for name in asked.signals.split(","):
                trials = Trials()
                for _ in range(asked.moments):
                    trial(verb, name, drawn.uniform(0, seconds), material, whole, trials)
                counts = [trials.outcomes[outcome] for outcome in ("nothing", "work", "finished")]
                row = [word, f"SIG{name}", asked.moments, *counts, len(trials.faults)]
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
                for said in trials.faults[:3]:
                    print(said, file=sys.stderr)
                faulty |= bool(trials.faults)
    sys.exit(int(faulty))


if __name__ == "__main__":
    main()
