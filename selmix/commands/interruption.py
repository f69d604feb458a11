"""Ctrl-C and SIGTERM: one way to end, with the command that goes on."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PROCESSES, _AGENT = "WORLD_SIZE", "TORCHELASTIC_RUN_ID"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: what has begun is left as it can be gone on with.

    Attributes:
        exit_code: of the command, 128 + the number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.exit_code = 128 + number


def interruption_code(error: BaseException) -> int:
    """Return the exit code of a command that ended by this error, which is that of Ctrl-C if it does not say."""
    return getattr(error, "exit_code", Interrupted().exit_code)


class _Last:
    """What has come last, and whether anybody was told: typer turns what its verbs do not catch into a code."""

    error: Interrupted | None = None
    told = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Last.error = Interrupted(number)
    raise _Last.error


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; not under torchrun, which ends so what another process has failed."""
    if _AGENT in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return
    _Last.error, _Last.told = None, False
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def untold() -> Interrupted | None:
    """Return the interruption of which nobody was told."""
    return None if _Last.told else _Last.error


def again(resumes: Path | None) -> str:
    """Return in words how to go on with this command.

    `resumes` is a file that is there if that goes by --resume; else the command is started again as it is.
    """
    words = sys.argv[1:]
    go_on = resumes is not None and resumes.is_file()
    words += ["--resume"] * (go_on and "--resume" not in words)
    processes = os.environ.get(_PROCESSES, "1")
    start = ["selmix"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, "-m", "selmix"]
    return f"to {'go on' if go_on else 'start again'}: {shlex.join([*start, *words])}"


def told() -> None:
    """Note that the user was told."""
    _Last.told = True
