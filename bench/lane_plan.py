"""Which lanes a benchmark has: what its settings name, and plain sampling with fewer steps beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from foreseer.bench.jobs import Given
from foreseer.bench.lanes import FULL, Solved, as_many, fewer_name
from foreseer.bench.results import LaneResult
from foreseer.bench.settings import BenchSettings
from foreseer.bench.solvers import Solver
from foreseer.registry import PolicySpec, signature_of

__all__ = ["fewer_lanes", "planned_lanes"]


def planned_lanes(settings: BenchSettings, *, batch: int, num_steps: int) -> list[tuple[LaneResult, Given | None]]:
    """Return full computation and the lanes that settings name, at a batch size, with what drives each."""
    found: list[tuple[LaneResult, Given | None]] = [(LaneResult(name=FULL, kind="full", batch=batch, num_steps=num_steps), None)]
    for given in (*settings.lanes, *settings.peers):
        spec = given.policy if isinstance(given, Solved) else given
        parameters = signature_of(spec.factory).parameters.values()
        chosen = {parameter.name: parameter.default for parameter in parameters} | dict(spec.options)
        options = {k: getattr(v, "__name__", str(v)) if callable(v) else v for k, v in chosen.items()}
        kind: Literal["policy", "peer"] = "policy" if isinstance(spec, PolicySpec) else "peer"
        on: dict[str, Any] = {"solver": str(given.solver), "num_steps": given.num_steps} if isinstance(given, Solved) else {"num_steps": num_steps}
        found.append((LaneResult(name=str(given), kind=kind, batch=batch, method=spec.name, options=options, **on), given))
    return found


def fewer_lanes(settings: BenchSettings, lanes: Iterable[LaneResult], *, batch: int, num_steps: int, first: bool) -> list[LaneResult]:
    """Return plain sampling at each lane's number of computed steps, or of those of the first batch alone, by
    each solver that can take as many.
    """
    done = [lane for lane in lanes if lane.batch == batch and lane.units and lane.kind in ("policy", "peer")]
    counts = sorted({as_many(lane.units[0].steps if first else lane.steps) for lane in done} | {*settings.counts})
    able: list[tuple[Solver | None, int]] = [(None, n) for n in counts if n < num_steps]
    able += [(solver, n) for solver in settings.solvers for n in counts if solver.fits(n)]
    return [LaneResult(name=fewer_name(n, solver), kind="fewer", batch=batch, num_steps=n, solver=str(solver or "")) for solver, n in able]
