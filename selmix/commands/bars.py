"""Progress on stderr, where somebody sees it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    track,
)
from rich.text import Text

from selmix.commands.console import err

if TYPE_CHECKING:
    from selmix.features.extract import Track
    from selmix.training_job import Bar


def progress(*, quiet: bool) -> "Track | None":
    """Return a progress bar for long loops or None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        return None

    def bar(items: Iterable[int], description: str, total: int) -> Iterable[int]:
        return track(items, description, total=total, console=err, transient=True)

    return bar


class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


@contextmanager
def image_bar(*, quiet: bool) -> "Iterator[Bar]":
    """Show how many images a training has seen, how fast, and the time left, on stderr where somebody sees it."""
    from selmix.training_job import no_bar

    if quiet or not sys.stderr.isatty():
        yield no_bar
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Speed(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as shown:

        def bar(description: str, images: int, done: float) -> Callable[[int], object]:
            task = shown.add_task(description, total=images, completed=int(done * images))
            return lambda count: shown.advance(task, count)

        yield bar
