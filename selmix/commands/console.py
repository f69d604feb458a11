"""What every verb shares with the terminal: progress, log lines, errors and exit codes."""

import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.markup import escape

from selmix.errors import SelmixError, UsageError

_PROCESSES, _AGENT = "WORLD_SIZE", "TORCHELASTIC_RUN_ID"
_GRACE = 5  # seconds: torchrun ends all processes soon after one has failed; what they all have to say, one says

out = Console()
err = Console(stderr=True)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: what has begun is left as it can be gone on with.

    Attributes:
        exit_code: of the command, 128 + the number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.exit_code = 128 + number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; not under torchrun, which ends so what another process has failed."""
    if _AGENT in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_interrupted(error: BaseException, resumes: Path | None = None) -> int:
    """Say how to go on after an interruption; return the exit code.

    `resumes` is a file that is there if the command goes on with --resume; others are started again as they are.
    """
    words = sys.argv[1:]
    go_on = resumes is not None and resumes.is_file()
    words += ["--resume"] * (go_on and "--resume" not in words)
    processes = os.environ.get(_PROCESSES, "1")
    start = ["selmix"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, "-m", "selmix"]
    said = f"interrupted; to {'go on' if go_on else 'start again'}: {shlex.join([*start, *words])}"
    err.print(said, soft_wrap=True, highlight=False, markup=False)
    return getattr(error, "exit_code", Interrupted().exit_code)


@contextmanager
def guarded(*, quiet: bool, debug: bool, silent: bool = False, resumes: Path | None = None) -> Iterator[None]:
    """Show log lines on stderr, and turn an error into one line and its exit code (`debug` shows the trace).

    `silent` shows nothing: another process says the same. An error that it does not have, too, is shown after a while.
    `resumes` is a file that is there if an interrupted command goes on with --resume.
    """
    logger = logging.getLogger("selmix")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1 if silent else logging.ERROR if quiet else logging.INFO)
    try:
        yield
    except SelmixError as error:
        if silent:
            time.sleep(_GRACE)
        if debug:
            err.print_exception()
        if not (silent and error.agreed):
            show_error(str(error))
        raise typer.Exit(error.exit_code) from error
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "KeyboardInterrupt" not in str(error):  # scripted parts of torch wrap it
            raise
        raise typer.Exit(show_interrupted(error, resumes)) from error
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def alone(verb: str, *, quiet: bool, debug: bool, resumes: Path | None = None) -> Iterator[None]:
    """Guard a verb as `guarded` does, and refuse several processes."""
    from selmix.ranks import join_ranks

    ranks = join_ranks()
    with guarded(quiet=quiet, debug=debug, silent=not ranks.leads, resumes=resumes):
        if ranks.count > 1:
            raise UsageError(f"{verb} works in one process, and torchrun started {ranks.count}; leave torchrun away")
        yield


def show_report(folder: Path) -> None:
    """Say where the report of a run is, if there is one."""
    from selmix.report.record import REPORT

    if (folder / REPORT).is_file():
        out.print(f"report: {folder / REPORT}", soft_wrap=True, highlight=False, markup=False)


def show_error(message: str) -> None:
    """Print an error as one line on stderr."""
    err.print(f"[red]error:[/red] {escape(' '.join(message.split()))}", soft_wrap=True, highlight=False)
