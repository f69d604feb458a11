"""What every verb shares with the terminal: progress, log lines, errors and exit codes."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from selmix.commands.interruption import again, interruption_code, told
from selmix.errors import FULL, DataError, SelmixError, UsageError

_GRACE = 5  # seconds: torchrun ends all processes soon after one has failed; what they all have to say, one says

out = Console()
err = Console(stderr=True)


@contextmanager
def guarded(*, quiet: bool, debug: bool, silent: bool = False, resumes: Path | None = None) -> Iterator[None]:
    """Show log lines on stderr, and turn an error into one line and its exit code (`debug` shows the trace).

    `silent` shows nothing: another process says the same. An error that it does not have, too, is shown after a while.
    `resumes` is there if an interrupted command goes on with --resume.
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
        if not (silent and error.agreed):
            show_error(str(error), trace=debug)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough
            raise
        said = f"{error.filename or 'a file'}: {error.strerror or error}"
        show_error(f"{said}; {'make room' if error.errno in FULL else 'mend that'}; {again(resumes)}", trace=debug)
        raise typer.Exit(DataError.exit_code) from error
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "KeyboardInterrupt" not in str(error):  # scripted parts of torch wrap it
            raise
        show_interrupted(resumes)
        raise typer.Exit(interruption_code(error)) from error
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


def show_error(message: str, *, trace: bool = False) -> None:
    """Print an error as one line on stderr, behind the trace of what is being handled if that is wanted."""
    if trace:
        err.print_exception()
    err.print(f"[red]error:[/red] {escape(' '.join(message.split()))}", soft_wrap=True, highlight=False)


def show_interrupted(resumes: Path | None = None) -> None:
    """Say that the command was interrupted, and how to go on."""
    told()
    err.print(f"interrupted; {again(resumes)}", soft_wrap=True, highlight=False, markup=False)
