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
"""

import os
import random
import re
import shlex
import signal
import sys
import time
from pathlib import Path

from trials import (
    LATEST,
    VERBS,
    Trials,
    Verb,
    begin,
    command_line,
    digests,
    end_of,
    fresh_place,
    log_of,
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

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
CODES = {"TERM": 143, "INT": 130}


def trial(verb: Verb, name: str, moment: float, material: Path, whole: dict[str, str], trials: Trials) -> str:
    """Kill a run at a moment, start it again, and return what is wrong with the end, with what the processes said."""
    with fresh_place(material) as place:
        number = begin(shlex.split(verb.words), place, log_of(place, "first"))
        time.sleep(moment)
        os.killpg(number, SIGNALS[name])
        code, told = end_of(number, LATEST), plain(log_of(place, "first").read_text())
        finished = digests(place, verb.writes) == whole
        left = any((place / name).exists() for name in verb.writes)
        trials.outcomes["finished" if finished else "work" if left else "nothing"] += 1
        wrong, words = "", with_resume(verb, place)
        if code is None:
            wrong = f"the process lived {LATEST} s longer"
        elif found := torn(place, verb.writes):
            wrong = f"torn: {', '.join(found)}"
        elif code not in (0, CODES.get(name, -signal.SIGKILL)):
            wrong = f"exit code {code}"
        elif code != 0 and name != "KILL":
            command = re.search(r"^interrupted; .*: selmix (.*)$", told, re.MULTILINE)
            words = shlex.split(command.group(1)) if command else words
            wrong = "a traceback" if "Traceback" in told else "" if command else "no word of how to go on"
        wrong = wrong or same_end(verb, words, place, whole)
        return wrong and f"{name} after {moment:.3f} s: {wrong}\n{said(place)}"


def main() -> None:
    """Run the trials and print a table; exit with 1 if one failed."""
    asked = command_line(__doc__, "signals", SIGNALS, "moments", 100)
    drawn, faulty = random.Random(asked.seed), False
    print_header("verb", "signal", "moments", "nothing left", "work left", "finished", "faults")
    with workshop() as material:
        for word in asked.verbs:
            verb = VERBS[word]
            whole, seconds, _ = undisturbed(verb, material)
            for name in asked.signals:
                trials = Trials()
                for _ in range(asked.moments):
                    trials.note(trial(verb, name, drawn.uniform(0, seconds), material, whole, trials))
                print_row(word, f"SIG{name}", trials, asked.moments, ("nothing", "work", "finished"))
                faulty |= bool(trials.faults)
    sys.exit(int(faulty))


if __name__ == "__main__":
    main()
