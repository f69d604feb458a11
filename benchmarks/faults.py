"""What becomes of a command when the disk is full, data vanish, the clock jumps, helpers die, or that runs twice?

    python benchmarks/faults.py                                   # every fault, verb by verb, and a table
    python benchmarks/faults.py --faults full --verbs train --tries 20 --seed 1

A try disturbs a verb on small data, looks at what is left, mends the fault, starts the command again, and compares
every file with those of an undisturbed run (see `killing.py`). A disturbed command may succeed, and then with the same
files; or it ends with one line and the exit code 2 or 3, nothing torn under a final name, and no traceback.

| fault | what is done |
|---|---|
| full | it writes to a disk of a size drawn up to what the undisturbed run needs; then that grows (root, Linux) |
| quota | no file may grow beyond a size drawn up to that of the largest |
| readonly | it writes to a disk that cannot be written; then it can (root, Linux) |
| vanished | images and features are gone from a moment on; then they come back |
| clock | every look at the clock is up to a day early or late |
| worker | a process that decodes images is killed at a moment, if there is one then (extract alone has such) |
| twice | the same command is started twice, within the time of one run |
"""

import os
import random
import re
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trials import (
    VERBS,
    Trials,
    Verb,
    begin,
    command_line,
    digests,
    end_of,
    fresh_place,
    log_of,
    mount,
    plain,
    print_header,
    print_row,
    said,
    same_end,
    torn,
    undisturbed,
    with_resume,
    workshop,
)

PATIENCE = 120  # seconds
DAY = 86400
REFUSED = (2, 3)
# a finished run whose report alone could not be written, or lacks pictures
NO_REPORT = re.compile("there is no report of it|it has their names alone")
REPORT = {"out/report.html", "out/record.npz", "out/samples.json"}


@dataclass(frozen=True)
class Try:
    """A command to disturb.

    Attributes:
        verb: what is run,
        place: where.
        drawn: random numbers.
        seconds: that it takes by itself.
        sizes: bytes of each file that it writes by itself.
    """

    verb: Verb
    place: Path
    drawn: random.Random
    seconds: float
    sizes: list[int]

    def begin(self, name: str = "first", prepare: Callable[[], None] = lambda: None) -> int:
        """Start it."""
        return begin(shlex.split(self.verb.words), self.place, log_of(self.place, name), prepare)


def full(own: Try) -> list[int | None]:
    """Run on a small disk, then let it grow."""
    pages = own.drawn.randint(4, sum(-(-size // 4096) for size in own.sizes) + 8)
    mount(own.place, f"remount,size={4 * pages}k")
    codes = [end_of(own.begin(), PATIENCE)]
    mount(own.place, "remount,size=1g")
    return codes


def quota(own: Try) -> list[int | None]:
    """Run with files that may not grow."""
    most = own.drawn.randint(8192, max(16384, *own.sizes))
    return [end_of(own.begin(prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))), PATIENCE)]


def readonly(own: Try) -> list[int | None]:
    """Run where nothing can be written."""
    mount(own.place, "remount,ro")
    codes = [end_of(own.begin(), PATIENCE)]
    mount(own.place, "remount,rw")
    return codes


def vanished(own: Try) -> list[int | None]:
    """Let the data vanish while it runs."""
    number = own.begin()
    time.sleep(own.drawn.uniform(0, own.seconds))
    for name in ("images", "features.npz"):
        (own.place / name).rename(own.place / f"no {name}")
    codes = [end_of(number, PATIENCE)]
    for name in ("images", "features.npz"):
        (own.place / f"no {name}").rename(own.place / name)
    return codes


def clock(own: Try) -> list[int | None]:
    """Run by a clock that jumps."""

    def jump() -> None:
        looked, looked_ns = time.time, time.time_ns
        time.time = lambda: looked() + own.drawn.uniform(-DAY, DAY)
        time.time_ns = lambda: looked_ns() + int(1e9 * own.drawn.uniform(-DAY, DAY))

    return [end_of(own.begin(prepare=jump), PATIENCE)]


def worker(own: Try) -> list[int | None]:
    """Kill a process that it has started."""
    number = own.begin()
    latest = time.monotonic() + own.drawn.uniform(0, own.seconds)
    while time.monotonic() < latest:
        time.sleep(0.001)
        helpers = Path(f"/proc/{number}/task/{number}/children")
        if time.monotonic() > latest - own.seconds / 2 and helpers.is_file() and (found := helpers.read_text().split()):
            os.kill(int(own.drawn.choice(found)), signal.SIGKILL)
            break
    return [end_of(number, PATIENCE)]


def twice(own: Try) -> list[int | None]:
    """Run two at once."""
    numbers = [own.begin("first")]
    time.sleep(own.drawn.uniform(0, own.seconds))
    numbers.append(own.begin("other"))
    return [end_of(number, PATIENCE) for number in numbers]


FAULTS = {own.__name__: own for own in (full, quota, readonly, vanished, clock, worker, twice)}
OUTCOMES = ("succeeded", "one line", "without report")
ROOT = ("full", "readonly")
WORKERS = Verb("extract --backbone trained --data images --out out --workers 2", ("out",))


def trial(fault: str, own: Try, whole: dict[str, str], trials: Trials) -> str:
    """Disturb a command, start it again, and return what is wrong with the end, with what the processes said."""
    place, verb = own.place, own.verb
    codes, text = FAULTS[fault](own), plain(said(place))
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    refused = [code for code in codes if code != 0]
    trials.outcomes["one line" if refused else "succeeded"] += 1
    wrong = ""
    if not set(codes) <= {0, *REFUSED}:
        wrong = f"ended with {codes}"
    elif found := torn(place, verb.writes):
        wrong = f"torn: {', '.join(found)}"
    elif "Traceback" in text or len(lines) != len(refused):
        wrong = "a traceback" if "Traceback" in text else f"{len(lines)} lines for {len(refused)} errors"
    if NO_REPORT.search(text) and not refused:  # it is complete, and says so
        trials.outcomes["without report"] += 1
        left = digests(place, verb.writes)
        return wrong or ", ".join(sorted(file for file in whole.keys() - REPORT if left.get(file) != whole[file]))
    wrong = wrong or same_end(verb, with_resume(verb, place), place, whole)
    return wrong and f"{fault}: {wrong}\n{said(place)}"


def main() -> None:
    """Run the tries and print a table; exit with 1 if one failed."""
    asked = command_line(__doc__, "faults", FAULTS, "tries", 20)
    drawn, faulty = random.Random(asked.seed), False
    print_header("verb", "fault", "tries", *OUTCOMES, "faults")
    with workshop() as material:
        for word in asked.verbs:
            for fault in asked.faults:
                if (fault == "worker" and word != "extract") or (fault in ROOT and os.geteuid() != 0):
                    continue
                verb, trials = WORKERS if fault == "worker" else VERBS[word], Trials()
                whole, seconds, sizes = undisturbed(verb, material)
                for _ in range(asked.tries):
                    with fresh_place(material, "size=1g" if fault in ROOT else "") as place:
                        trials.note(trial(fault, Try(verb, place, drawn, seconds, sizes), whole, trials))
                print_row(word, fault, trials, asked.tries, OUTCOMES)
                faulty |= bool(trials.faults)
    sys.exit(int(faulty))


if __name__ == "__main__":
    main()
