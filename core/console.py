"""How the command line reads what is typed and prints what is found."""

from __future__ import annotations

import errno
import os
import sys
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

__all__ = ["Frame", "Several", "complain", "console", "needs", "progress", "table"]


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


class Several(TyperCommand):
    """Lets an option that may be given several times take several values at once: ``--policy a b``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, as the parser wants it."""
        for option in self.params:
            if getattr(option, "multiple", False):
                args = list(_repeat(option.opts[0], args))
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
    """Say what to install where a package is missing, for whom, and end with exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "foreseer").startswith("foreseer"):  # a mistake of ours, which must not look like the user's
            raise
        complain(f"{what} needs {error.name}: pip install 'foreseer[{extra}]'")
        raise typer.Exit(1) from None


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr. Yields who is told what begins, how much is done, and how much there will be."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # drawn seldom: drawing takes time from what is being timed
    with Progress(*columns, console=console(stderr=True), refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
