"""What becomes of input that nobody meant: coverage-guided fuzzing of all that selmix reads.

    pip install atheris
    python benchmarks/fuzz.py                        # every target, one after the other, and a table
    python benchmarks/fuzz.py --targets metric,image --cases 2000 --seed 1

A case ends well if it is accepted, or refused by a SelmixError with an exit code of its own. Anything else ends the
fuzzing of its target and is reported with the input, which is kept (`--keep FOLDER`): another exception, more than
`--seconds` for a case, or more than 1 GiB above what the process needs by itself. A target runs in a process of its
own, with a corpus of valid inputs to start from, and is repeatable by its seed.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from fuzz_targets import TARGETS

GIB = 1024  # MiB
CASES, IMAGES = 100_000, 2_000


def fuzz(name: str, cases: int, seed: int, seconds: int, folder: Path) -> None:
    """Fuzz one target in this process; never returns."""
    import resource

    import atheris

    with atheris.instrument_imports(include=["selmix"]):
        read, seeds = next(target for target in TARGETS if target.__name__ == name)(folder)
    from selmix.errors import SelmixError

    logging.disable()
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()

    def one(content: bytes) -> None:
        try:
            read(content)
            outcomes["accepted"] += 1
        except SelmixError as error:
            if not str(error) or error.exit_code < 2:
                raise RuntimeError("an error without words, or without an exit code of its own") from error
            outcomes["refused"] += 1
        if outcomes.total() % 100 == 0 or outcomes.total() >= cases:
            (folder / "outcomes.json").write_text(json.dumps(outcomes))

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds):
        one(content)
        (corpus / str(number)).write_bytes(content)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    outcomes.clear()
    given = {"runs": cases, "seed": seed + 1, "timeout": seconds, "rss_limit_mb": own + GIB, "max_len": 4096}
    limits = [f"-{name}={value}" for name, value in given.items()]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/fault-", "-verbosity=0", str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    """Run the targets and print a table; exit with 1 if one of them found a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(target.__name__ for target in TARGETS))
    parser.add_argument("--cases", type=int, help=f"of each target; {CASES:,}, of images {IMAGES:,}, unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = asked.targets.split(",")
    if asked.folder is not None:
        fuzz(names[0], asked.cases, asked.seed, asked.seconds, asked.folder)
    print("| input | cases | accepted | refused | faults |\n|---|---|---|---|---|")
    faulty = False
    for name in names:
        cases = asked.cases or (IMAGES if name == "image" else CASES)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place).resolve()
            given = {"targets": name, "cases": cases, "seed": asked.seed, "seconds": asked.seconds}
            words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
            command = [sys.executable, __file__, *words, "--in", place]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            file = folder / "outcomes.json"
            outcomes = json.loads(file.read_text()) if file.is_file() else {}
            fault = done.returncode != 0 or sum(outcomes.values()) < cases
            faulty |= fault
            row = [name, sum(outcomes.values()), outcomes.get("accepted", 0), outcomes.get("refused", 0), int(fault)]
            print("| " + " | ".join(f"{own:,}" if isinstance(own, int) else own for own in row) + " |", flush=True)
            if fault:
                print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
                for found in folder.glob("fault-*"):
                    print(f"input: {found.read_bytes()[:400]!r}")
                    if asked.keep is not None:
                        asked.keep.mkdir(parents=True, exist_ok=True)
                        (asked.keep / f"{name}-{found.name}").write_bytes(found.read_bytes())
    sys.exit(int(faulty))


if __name__ == "__main__":
    main()
