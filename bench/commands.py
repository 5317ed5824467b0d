"""`foreseer bench`: run, diff and report. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from foreseer.console import complain

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["bench"]

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure policies and peers on one model and the same noises.")


@contextmanager
def _packages() -> Iterator[None]:
    """Say what to install where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "foreseer").startswith("foreseer"):
            raise
        complain(f"bench needs {error.name}: pip install 'foreseer[bench]'")
        raise typer.Exit(1) from None


@bench.command()
def run(
    settings: Annotated[Path, typer.Argument(help="A settings file, such as docs/benchmarks/speca.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; the same command goes on with what is there.")],
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Run a benchmark, or go on with one."""
    with _packages():
        from foreseer.bench.harness import run_benchmark
        from foreseer.bench.settings import read_settings
        from foreseer.bench.tables import print_results

        read = read_settings(settings)
        with _progress() as tell:
            results = run_benchmark(read, out, restart=restart, tell=tell)
        print_results(results)


@bench.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Folder of results.")],
    after: Annotated[Path, typer.Argument(help="Folder of other results.")],
) -> None:
    """Say what changed between two results beyond noise. The exit status is 0 whatever changed."""
    with _packages():
        from foreseer.bench.diff import diff as differences
        from foreseer.bench.results import Results
        from foreseer.bench.tables import print_diff

        print_diff(differences(Results.load(before), Results.load(after)))


@bench.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of results.")]) -> None:
    """Print the tables of results, finished or not, and write their page."""
    with _packages():
        from foreseer.bench.report_page import write_page
        from foreseer.bench.results import Results
        from foreseer.bench.tables import print_results

        results = Results.load(folder)
        print_results(results)
        typer.echo(f"page: {write_page(results, folder)}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # drawn seldom: drawing takes time from what is being timed
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
