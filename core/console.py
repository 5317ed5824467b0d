"""How the command line reads what is typed and prints what is found."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from foreseer.errors import ForeseerError

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from typer.core import TyperCommand, TyperGroup
except ImportError as error:
    raise SystemExit(f"foreseer: the command line needs {error.name}: pip install 'foreseer[cli]'") from None

__all__ = ["Frame", "Pace", "Several", "complain", "console", "needs", "progress", "table"]


class Frame(TyperGroup):
    """Turns what foreseer raises on purpose into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ForeseerError as error:
            complain(str(error))
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # who read this has read enough
                raise
            complain(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None


ADDRESS = re.compile(r"auto|local|(\w+://)?\[?[\w.:-]+\]?:\d+")
"""What is a value where a value may be left out: a file's name or a policy is none."""


class Several(TyperCommand):
    """Lets an option that may be given several times take several values at once: ``--policy a b``. One whose
    value is shown in brackets, ``--ray [ADDRESS]``, may go without it; then the value is an empty text.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, as the parser wants it."""
        for option in self.params:
            if getattr(option, "multiple", False):
                args = list(_repeat(option.opts[0], args))
            if getattr(option, "metavar", None) == "[ADDRESS]":
                args = list(_alone(option.opts[0], args))
        return super().parse_args(ctx, args)


def _repeat(option: str, args: list[str]) -> Iterator[str]:
    """Write ``option a b`` as ``option a option b``."""
    following = 0
    for arg in args:
        if arg.startswith("-"):
            following = 1 if arg == option else 2 if arg.startswith(f"{option}=") else 0
        elif following:
            if following > 1:
                yield option
            following += 1
        yield arg


def _alone(option: str, args: list[str]) -> Iterator[str]:
    """Write ``option a`` as ``option=a`` where ``a`` is an address, and else ``option`` as ``option=``."""
    rest = iter([*args, None])
    for arg in rest:
        if arg == option:
            following = next(rest)
            value = following if following is not None and ADDRESS.fullmatch(following) else None
            yield f"{option}={value or ''}"
            if value is not None:
                continue
            arg = following
        if arg is not None:
            yield arg


def console(*, stderr: bool = False) -> Console:
    """Where everything is printed: text is shown as it is, never as markup. On stderr the terminal wraps it."""
    # A pipe has no width, and rich would take 80 columns for it.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(stderr=stderr, soft_wrap=stderr, highlight=False, markup=False, emoji=False, width=width)


def table(*headings: str, **columns: dict[str, Any]) -> Table:
    """Return an empty table; ``columns`` are, by heading, more arguments of rich's ``add_column``."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold", **columns.get(heading, {}))
    return made


def complain(message: str) -> None:
    """Print one line to stderr."""
    line = Text.assemble(("foreseer: ", "bold red"), " ".join(message.split()))
    console(stderr=True).print(line)


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Say what to install where a package is missing, for whom, and end with exit status 1. Around a part of a
    command, or above all of it as a decorator.
    """
    try:
        yield
    except ImportError as error:
        # diffusers puts dummies in the place of what a missing package makes impossible
        dummy = re.search(r"requires the (\S+) library but it was not found", str(error))
        missing = dummy[1] if dummy else error.name if isinstance(error, ModuleNotFoundError) else None
        if (missing or "foreseer").startswith("foreseer"):  # a mistake of ours, which must not look like the user's
            raise
        complain(f"{what} needs {missing}: pip install 'foreseer[{extra}]'")
        raise typer.Exit(1) from None


class Pace:
    """How far something is, and how long the rest takes if it goes on as it went.

    Args:
        clock: Seconds that never go back.

    Attributes:
        what: What is under way.
        done: How much of it is done.
        total: How much there will be; 0 where that is not known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()
        self._since = self._at = self._begun
        self._first: int | None = None
        self.what, self.done, self.total = "", 0, 0

    def told(self, what: str, done: int, total: int) -> None:
        """Take note of what begins. What was done before the first time, by an earlier run, says nothing of
        the pace; nor does another count, once it begins at less.
        """
        now = self._clock()
        if self._first is None or done < self.done:
            self._since, self._first = now, done
        if done != self.done:
            self._at = now
        self.what, self.done, self.total = what, done, total

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes; None while nothing is known of it."""
        made = self.done - (self._first or 0)
        if made <= 0 or self.total <= self.done:
            return None
        return max(0.0, (self._at - self._since) / made * (self.total - self.done) - (self._clock() - self._at))

    def __str__(self) -> str:
        of = f"{self.done} of {self.total}, " if self.total else ""
        left = "" if self.left is None else f", about {_duration(self.left)} left"
        so_far = "" if 0 < self.total <= self.done else " so far"
        return f"{of}{self.what} ({_duration(self.spent)}{so_far}{left})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr how far a command is and how long the rest takes: a bar on a terminal; elsewhere a line at
    once, and others ever more seldom. Yields who is told what begins, how much is done, and how much there
    will be.
    """
    pace, out = Pace(), console(stderr=True)
    with (_bar if out.is_terminal else _lines)(pace, out) as tell:
        yield tell


@contextmanager
def _bar(pace: Pace, out: Console) -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn

    class Left(ProgressColumn):
        """rich's own looks back 30 seconds, in which no sample of a large model ends."""

        def render(self, task: Task) -> Text:
            return Text("" if pace.left is None else f"about {_duration(pace.left)} left")

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Left(), TextColumn("{task.description}", markup=False))
    # drawn seldom: drawing takes time from what is being timed
    with Progress(*columns, console=out, refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            pace.told(what, done, total)
            bar.update(task, description=what, completed=done, total=total or None)

        yield tell


@contextmanager
def _lines(pace: Pace, out: Console) -> Iterator[Callable[[str, int, int], None]]:
    over, said, told = threading.Event(), 0.0, (0, "")

    def say() -> None:
        nonlocal said, told
        said, told = pace.spent, (pace.done, pace.what)
        out.print(f"foreseer: {pace}")

    def say_seldom() -> None:
        while not over.wait(1):
            if pace.what and pace.spent - said >= max(10, pace.spent / 10):
                say()

    def tell(what: str, done: int, total: int) -> None:
        begins = not pace.what
        pace.told(what, done, total)
        if begins:
            say()

    speaker = threading.Thread(target=say_seldom, daemon=True)
    speaker.start()
    try:
        yield tell
        if told != (pace.done, pace.what):
            say()
    finally:
        over.set()
        speaker.join()
