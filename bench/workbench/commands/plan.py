"""`foreseer plan`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from foreseer.command_options import Settings, takes
from foreseer.console import console, progress, table
from foreseer.document import plain
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

if TYPE_CHECKING:
    from foreseer.schedule_plan import SchedulePlan

__all__ = ["plan"]

PREDICTOR = "corrector:max_order=1"


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes("foreseer.workbench.limits:Limits", extra="workbench")
def plan(
    trace: Annotated[Path, typer.Argument(help="A file that `foreseer record` made.")],
    source: Settings,
    settings: Settings,
    out: Annotated[Path, typer.Option(help="The plan's file.")] = Path("plan.json"),
    predictor: Annotated[str, typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="What forecasts; it must be linear.")] = PREDICTOR,
    budget: Annotated[int | None, typer.Option(help="Computed steps of the schedule that the plan names. Default: about a quarter of the steps.")] = None,
    block_rows: Annotated[float | None, typer.Option(help="Instead: the most block-rows, as a share of full computation.")] = None,
    target_error: Annotated[float | None, typer.Option(help="Instead: the most predicted error, relative to the final latent's norm.")] = None,
    target: Annotated[str, typer.Option(help="What is forecast: modules, last_block, residual, residual_after_first or output.")] = "modules",
    objective: Annotated[str, typer.Option(help="How errors of single steps add up: gaps, sum or squares.")] = "gaps",
    over: Annotated[str, typer.Option(help="Over the samples: mean or worst.")] = "mean",
    preset: Annotated[Path | None, typer.Option(help="Run the chosen schedule with the model, and write it as a preset.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Choose the steps of a solver instead: what is not computed is not visited.")] = False,
    solver: Annotated[str | None, typer.Option(help="For --grid: euler, dpmpp_2m or unipc. Default: what the trace was recorded with.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="For --preset: recorded samples, and others, to measure on. Default: 8; of a pipeline each prompt once.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="For --preset: samples that are drawn together. Default: all; of a pipeline one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the best schedules of a recorded model for every number of computed steps, and write them."""
    asked = {"budget": budget, "block_rows": block_rows, "target_error": target_error}
    if sum(value is not None for value in asked.values()) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None)
        raise OptionError(f"{both} each choose the number of computed steps; write one of them")
    if block_rows is not None and not 0 < block_rows <= 1:
        raise OptionError(f"block_rows={block_rows} is out of range; write a share in (0, 1]")
    if (preset is None) != (not {"workload", "pipeline"} & set(source.keywords)):
        raise OptionError("a preset is measured with the model: write both --preset FILE.json and --workload NAME or --pipeline, or neither")
    for name, value in {"samples": samples, "batch": batch}.items():
        if value is not None and value < 1:
            raise OptionError(f"{name}={value} is out of range; write a whole number >= 1")
        if value is not None and preset is None:
            raise OptionError(f"{name}={value} is for a preset, which is measured; write --preset FILE.json with it, or leave it out")
    if grid:
        _refuse_beside_grid(
            {"predictor": predictor != PREDICTOR, "block_rows": block_rows is not None, "target": target != "modules", "preset": preset is not None}
        )
    elif solver is not None:
        raise OptionError(f"solver={solver!r} steps through a grid; write --grid with it, or leave it out")
    if out.suffix != ".json":
        raise OptionError(f"out={str(out)!r} is no name of a plan; write one that ends in .json")
    from foreseer.workbench.grids import plan_grid
    from foreseer.workbench.planner import plan as find
    from foreseer.workbench.trace import Trace

    limits = settings()
    for path in (out, preset):
        if path is not None:
            refuse_unwritable(path)
    chosen: dict[str, Any] = {"objective": objective, "over": over, "limits": limits}
    recorded = Trace.load(trace)
    forecast: dict[str, Any] = {"predictor": predictor, "target": target}
    found = plan_grid(recorded, solver=solver, **chosen) if grid else find(recorded, **forecast, **chosen)
    found = _choose(found, budget=budget, block_rows=block_rows, target_error=target_error)
    written = found.save(out)
    if preset is not None:
        from foreseer.workbench.planned_preset import planned_preset

        loaded = source(dtype=source.keywords.get("dtype") or found.signature.dtype or None).load()
        with progress() as tell:
            made = planned_preset(found, loaded, name=preset.stem, samples=samples, batch=batch, tell=tell)
        typer.echo(f"wrote {made.save(preset)}: {made.held_out}", err=as_json)
    if as_json:
        typer.echo(json.dumps(plain(found), indent=1))
        return
    console().print(_front(found))
    steps = f"chosen: {found.chosen} of {found.num_steps} steps, {'+'.join(map(str, found.budget().steps))}"
    for note in (found.note, steps, *_visited(found), f"wrote {written}"):
        if note:
            console().print(Text(note), soft_wrap=True)


def _refuse_beside_grid(given: dict[str, bool]) -> None:
    for name in [name for name, said in given.items() if said]:
        raise OptionError(
            f"--grid forecasts nothing and visits other steps, and --{name.replace('_', '-')} is for a schedule of forecasts; leave one of them out"
        )


def _visited(found: SchedulePlan) -> tuple[str, ...]:
    """Say what a pipeline is to be given."""
    if found.between == "forecast":
        return ()
    from foreseer.workbench.grids import solver_of

    visited = found.visited()
    times, sigmas = (", ".join(f"{value:g}" for value in values) for values in (visited.timesteps, visited.sigmas))
    return (f"timesteps=[{times}]", f"sigmas=[{sigmas}]", f"solver: {solver_of(found)}")


def _choose(found: SchedulePlan, *, budget: int | None, block_rows: float | None, target_error: float | None) -> SchedulePlan:
    import attrs

    if block_rows is not None:
        most = math.floor(block_rows * found.num_steps + 1e-9)  # a forecast step runs no block
        fitting = [number for number in found.budgets if number <= most]
        if not fitting:
            raise OptionError(f"block_rows={block_rows} is less than the {min(found.budgets)} of {found.num_steps} steps that must be computed; write more")
        budget = max(fitting)
    elif target_error is not None:
        budget = found.cheapest(target_error)
    return found if budget is None else attrs.evolve(found, chosen=len(found.budget(budget).steps))


def _front(found: SchedulePlan) -> Any:
    right: dict[str, Any] = {"justify": "right", "no_wrap": True}
    shown = table(
        "steps", "error", "even", "PSNR", "computed", steps=right, error=right, even=right, PSNR=right
    )  # fmt: skip
    for number, budget in sorted(found.budgets.items()):
        mark = "bold" if number == found.chosen else ""
        psnr = "" if budget.psnr is None else f"{budget.psnr:.1f}"
        cells = (str(number), f"{budget.error:.3g}", f"{budget.uniform:.3g}", psnr, _ranges(budget.steps))
        shown.add_row(*(Text(cell, style=mark) for cell in cells))
    return shown


def _ranges(steps: tuple[int, ...]) -> str:
    """Write ``0-3, 7, 9``."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][-1] == step - 1:
            runs[-1] = [runs[-1][0], step]
        else:
            runs.append([step])
    return ", ".join("-".join(map(str, run)) for run in runs)
