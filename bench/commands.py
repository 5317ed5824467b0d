"""`foreseer bench`: run, diff, report and gpu. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foreseer.bench.gpu.command import gpu
from foreseer.console import Several, needs, progress

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["bench"]

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure policies and peers on one model and the same noises.")
"""Measure policies and peers on one model and the same noises."""


@bench.command()
def run(
    settings: Annotated[Path, typer.Argument(help="A settings file, such as docs/benchmarks/speca.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; the same command goes on with what is there.")],
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Run a benchmark, or go on with one."""
    with needs("bench", "bench"):
        from foreseer.bench.harness import run_benchmark
        from foreseer.bench.settings import read_settings
        from foreseer.bench.tables import print_results

        read = read_settings(settings)
        with progress() as tell:
            results = run_benchmark(read, out, restart=restart, tell=tell)
        print_results(results)


@bench.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Folder of results.")],
    after: Annotated[Path, typer.Argument(help="Folder of other results.")],
) -> None:
    """Say what changed between two results beyond noise. The exit status is 0 whatever changed."""
    with needs("bench", "bench"):
        from foreseer.bench.diff import diff as differences
        from foreseer.bench.results import Results
        from foreseer.bench.tables import print_diff

        print_diff(differences(Results.load(before), Results.load(after)))


@bench.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of results.")]) -> None:
    """Print the tables of results, finished or not, and write their page."""
    with needs("bench", "bench"):
        from foreseer.bench.report_page import write_page
        from foreseer.bench.results import Results
        from foreseer.bench.tables import print_results

        results = Results.load(folder)
        print_results(results)
        typer.echo(f"page: {write_page(results, folder if folder.is_dir() else folder.parent)}")


bench.command(cls=Several)(gpu)
