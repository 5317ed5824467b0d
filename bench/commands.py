"""`foreseer bench`: run, simulate, diff, report and gpu. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

from foreseer.command_options import Settings, takes, with_settings
from foreseer.console import Several, needs, progress

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["bench"]

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure policies and peers on one model and the same noises.")
"""Measure policies and peers on one model and the same noises."""


@bench.command(cls=Several)
@with_settings
@takes("foreseer.bench.ray_settings:RaySettings", extra="bench", into="ray", ray={"metavar": "[ADDRESS]"})
def run(
    settings: Annotated[Path, typer.Argument(help="A settings file, such as docs/benchmarks/speca.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; the same command goes on with what is there.")],
    ray: Settings,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
    restart_other: Annotated[
        bool, typer.Option("--restart-other", help="Throw away what is of other settings, versions or another commit, which is refused otherwise.")
    ] = False,
) -> None:
    """Run a benchmark, or go on with one."""
    with needs("bench", "bench"):
        from foreseer.bench.harness import run_benchmark
        from foreseer.bench.settings import read_settings
        from foreseer.bench.tables import print_results

        read = read_settings(settings)
        with progress() as tell:
            results = run_benchmark(read, out, restart=restart or ("if other" if restart_other else False), tell=tell, ray=ray())
        print_results(results)


@bench.command()
def simulate(
    settings: Annotated[Path, typer.Argument(help="A settings file, such as docs/benchmarks/speca.toml.")],
    full: Annotated[float, typer.Option(metavar="SECONDS", help="Of full computation of one sample, on one worker.")],
    computed: Annotated[float, typer.Option(metavar="SHARE", help="What a lane takes of that, on average.")] = 0.35,
    load: Annotated[float, typer.Option(metavar="SECONDS", help="Until a worker has loaded its model.")] = 60.0,
    write: Annotated[float, typer.Option(metavar="SECONDS", help="Of the one process that writes, for each unit.")] = 0.1,
    workers: Annotated[int, typer.Option(help="Up to how many workers of a cluster.")] = 64,
) -> None:
    """Say how long `bench run --ray` would take on 1, 2, 4 and more workers, and what it would cost. Nothing is
    drawn: its task graph is simulated.
    """
    with needs("bench", "bench"):
        from foreseer.bench.settings import read_settings
        from foreseer.bench.simulate import Costs
        from foreseer.bench.simulate import simulate as simulated
        from foreseer.bench.tables import print_simulated

        read, costs = read_settings(settings), Costs(full=full, computed=computed, load=load, write=write)
        counts = [*(2**power for power in range(workers.bit_length()) if 2**power < workers), workers]
        print_simulated([simulated(read, costs, workers=count) for count in counts])


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


@bench.command(cls=Several)
def gpu(
    out: Annotated[Path, typer.Option(help="The JSON file of the results; the same command goes on with what is there.")] = Path("gpu.json"),
    parts: Annotated[list[str] | None, typer.Option(help="kernel, lanes, peers, ways, checks; all if left out.")] = None,
    models: Annotated[list[str] | None, typer.Option(help="Models; all of the scale if left out.")] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(help="Lanes, such as taylorseer-5 or speca, or installed policies with their options."),
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds for all of it. What does not fit is skipped, and the same command goes on.")] = 520.0,
    scale: Annotated[str, typer.Option(help="published, or tiny to try the script out.")] = "published",
    steps: Annotated[int, typer.Option(help="Steps of a run; fewer where time is short.")] = 50,
    repeats: Annotated[int, typer.Option(help="Runs of each lane.")] = 2,
    full_steps: Annotated[int, typer.Option(help="Steps of full computation beside each run.")] = 6,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32; bfloat16 on a GPU and float32 on the CPU if left out.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
    here: Annotated[bool, typer.Option("--here", help="In this process, whatever ends it, instead of one for each group of parts.")] = False,
    since: Annotated[float | None, typer.Option(hidden=True, help="What was skipped since then is not tried again.")] = None,
    until: Annotated[float | None, typer.Option(hidden=True, help="When all must be done; in the place of --budget.")] = None,
) -> None:
    """Time policies on models in their published shapes, with random weights and forced decisions, beside other
    caches, compiled and offloaded. Of quality nothing is said.
    """
    with needs("bench gpu", "bench"):
        from foreseer.bench.gpu.budget import Budget
        from foreseer.bench.gpu.kept import DeviceLostError
        from foreseer.bench.gpu.settings import Settings
        from foreseer.bench.gpu.suite import PARTS, time_all
        from foreseer.bench.gpu.tables import print_timings
        from foreseer.bench.gpu.whole import LOST, run_whole
    settings = Settings(
        scale=scale,
        steps=steps,
        repeats=repeats,
        full_steps=min(full_steps, steps),
        device=device,
        dtype=dtype or ("float32" if device.startswith("cpu") else "bfloat16"),
    )

    def tell(what: str) -> None:
        typer.echo(what, err=True)

    try:
        with needs("bench gpu", "bench"):
            if here:
                limit = Budget(budget if until is None else max(0.0, until - time.time()))
                content = time_all(settings, models or (), policies or (), out, parts=parts or PARTS, restart=restart, budget=limit, since=since, tell=tell)
            else:
                content = run_whole(settings, out, parts=parts or (), models=models or (), policies=policies or (), budget=budget, restart=restart, tell=tell)
    except DeviceLostError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(LOST) from None
    except KeyboardInterrupt:
        if out.exists():
            print_timings(json.loads(out.read_text()))
        raise
    if since is None:  # else another process asked, and prints what is there
        print_timings(content)
