"""Planned grids: the best is that of brute force, a gap's error is what diffusers' solver makes of it, and what is written comes back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_workload import TinyWorkload
from typer.testing import CliRunner

from foreseer.errors import OptionError
from foreseer.registry import policy
from foreseer.schedule_plan import Grid, SchedulePlan
from foreseer.signature import Signature
from foreseer.types import Site
from foreseer.workbench.clean import CLEAN, clean_predictions
from foreseer.workbench.grids import GRID_SOLVERS, even_steps, gap_errors, plan_grid, sigmas_for, solver_of, solver_weights
from foreseer.workbench.limits import Limits
from foreseer.workbench.planner import plan
from foreseer.workbench.recording import record
from foreseer.workbench.trace import Trace

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # diffusers hands tensors to numpy

SCHEDULERS: dict[str, Any] = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "variance preserving": lambda: diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="linspace"),
}


def trace_of(predictions: Any, *, half: Any = None, solver: str = "dpmpp_2m") -> Trace:
    """A recording of ``(S, T, N)`` data predictions at half logarithms of signal over noise."""
    samples, steps, width = predictions.shape
    levels = np.exp(-np.linspace(-3, 4, steps) if half is None else -np.asarray(half))
    return Trace(
        signature=Signature(num_steps=steps),
        depth=2,
        labels=tuple(map(str, range(samples))),
        grams={("", CLEAN): predictions @ predictions.transpose(0, 2, 1)},
        sensitivity=np.zeros((samples, 0)),
        final_norm=np.ones(samples),
        final_size=width,
        grid=Grid(solver=solver, timesteps=np.arange(steps)[::-1], sigmas=levels, levels=levels),
    )


def curves(steps: int, *, samples: int = 2, seed: int = 0) -> Any:
    """``(S, T, 5)`` data predictions that turn from one value to another, each at a place of its own."""
    random = np.random.default_rng(seed)
    place, pace = random.normal(size=(2, samples, 1, 5))
    return np.tanh((np.linspace(-3, 4, steps)[None, :, None] - place) * np.exp(pace)) * random.normal(size=(samples, 1, 5))


@settings(max_examples=15)
@given(
    st.integers(2, 7),
    st.integers(0, 99),
    st.sampled_from(GRID_SOLVERS),
    st.sampled_from(["gaps", "sum"]),
    st.sampled_from(["mean", "worst"]),
    st.integers(0, 1),
)
def test_the_best_grid_is_that_of_brute_force(steps: int, seed: int, kind: str, objective: Any, over: Any, last: int) -> None:
    trace = trace_of(curves(steps, seed=seed))
    found = plan_grid(trace, solver=kind, objective=objective, over=over, limits=Limits(last=last))
    assert trace.grid is not None
    errors = gap_errors(trace, trace.grid, kind, recorded="dpmpp_2m")
    power = 2 if objective == "gaps" else 1
    for count in range(1, steps + 1):
        costs = []
        for rest in itertools.combinations(range(1, steps), count - 1):
            gaps = errors.of((0, *rest)) ** power
            if not last or (0, *rest)[-1] == steps - 1:
                costs.append(float((gaps.mean(axis=0) if over == "mean" else gaps.max(axis=0)).sum() ** (1 / power)))
        if costs:
            assert found.budget(count).error == pytest.approx(min(costs), abs=1e-9)
        else:
            assert count not in found.budgets


@pytest.mark.parametrize("kind", GRID_SOLVERS)
def test_more_evaluations_are_never_predicted_worse_and_all_of_them_are_off_by_nothing(kind: str) -> None:
    found = plan_grid(trace_of(curves(12), solver=kind))
    errors = [found.budget(count).error for count in range(1, 13)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(0, abs=1e-7)
    assert all(found.budget(count).error <= found.budget(count).uniform + 1e-9 for count in range(1, 13))


@settings(max_examples=10)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True), st.sampled_from(GRID_SOLVERS), st.floats(-2, 2))
def test_every_grid_of_constant_data_is_exact(between: list[int], kind: str, value: float) -> None:
    trace = trace_of(np.full((1, 14, 3), value), solver=kind)
    assert trace.grid is not None
    assert gap_errors(trace, trace.grid, kind, recorded=kind).of((0, *sorted(between))) == pytest.approx(0, abs=1e-6)


def test_the_corrected_solver_follows_a_parabola_exactly() -> None:
    """Law: UniPC of order 2 is exact for data that are quadratic in log-SNR, but for its first step; Euler is not (arXiv 2302.04867, theorem 3.1)."""
    before, now, after = np.array(-0.7), np.array(0.2), np.array(1.3)
    at = np.stack([before, now, after])
    fine = np.linspace(now, after, 20001)
    for power in range(3):
        exact = np.trapezoid(np.exp(fine) * fine**power, fine)
        assert solver_weights("unipc", before, now, after) @ at**power == pytest.approx(exact, rel=1e-6)
    assert solver_weights("euler", before, now, after) @ at != pytest.approx(np.trapezoid(np.exp(fine) * fine, fine), rel=1e-2)


@pytest.mark.parametrize("own", SCHEDULERS)
@pytest.mark.parametrize("kind", GRID_SOLVERS)
def test_weights_are_those_of_diffusers(kind: str, own: str) -> None:
    """Law: a solver that is given the k-th unit vector for the k-th data prediction ends with its weights."""
    from foreseer.bench.solvers import Solver

    times = (990.0, 850.0, 600.0, 250.0)
    scheduler = Solver(kind=kind, timesteps=times).instead_of(SCHEDULERS[own]())
    scheduler.set_timesteps(4)
    alpha, sigma = (part.numpy() for part in scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[:-1].double()))
    half = np.log(alpha / sigma)
    scheduler.convert_model_output = lambda output, *args, **options: output
    x, reached = torch.zeros(1, 4, dtype=torch.float64), []
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.eye(4, dtype=torch.float64)[k : k + 1], t, x, return_dict=False)[0]
        corrected = getattr(scheduler, "last_sample", None)
        reached.append(x[0].numpy() if corrected is None else corrected[0].numpy())
    if kind != "unipc":
        reached = [np.zeros(4), *reached[:-1]]  # else corrected when the next step begins
    for k in range(3):
        change = reached[k + 1] / sigma[k + 1] - reached[k] / sigma[k]
        known = solver_weights(kind, np.array(half[k - 1] if k else np.nan), half[k], half[k + 1])
        weights = np.zeros(4)
        weights[[max(k - 1, 0), k, k + 1]] += known * [k > 0, 1, 1]
        assert change == pytest.approx(weights, rel=2e-4, abs=2e-4 * np.abs(weights).max())


@pytest.mark.parametrize("own", SCHEDULERS)
def test_what_is_written_comes_back_from_the_scheduler(own: str, tmp_path: Path) -> None:
    from foreseer.bench.solvers import Solver

    fine = Solver(kind="dpmpp_2m").instead_of(SCHEDULERS[own]())
    fine.set_timesteps(20)
    from foreseer.workbench.clean import grid_of

    made = plan_grid(attrs.evolve(trace_of(curves(20)), grid=grid_of(fine, solver="dpmpp_2m")), budget=7)
    found = SchedulePlan.load(made.save(tmp_path / "grid.json"))
    assert found == made
    visited = found.visited()
    assert visited.timesteps == tuple(fine.timesteps[step].item() for step in found.budget().steps)
    mine = solver_of(found).instead_of(SCHEDULERS[own]())
    mine.set_timesteps(7)
    assert mine.timesteps.tolist() == pytest.approx(visited.timesteps, rel=1e-5)
    assert mine.sigmas[:-1].tolist() == pytest.approx(visited.sigmas, rel=1e-5)
    if own == "variance preserving":
        theirs = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", final_sigmas_type="zero")
        theirs.set_timesteps(timesteps=list(map(int, visited.timesteps)))
        assert theirs.timesteps.tolist() == list(visited.timesteps)
        assert theirs.sigmas[:-1].tolist() == pytest.approx(visited.sigmas, rel=1e-5)
        return
    bending = {
        "none": (diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0), {}),
        "fixed": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), {}),
        "of the size": (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), {"mu": 0.7}),
        "linear": (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"), {"mu": 1.7}),
        "of UniPC": (diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0), {}),
    }
    for what, (theirs, told) in bending.items():
        theirs.set_timesteps(sigmas=np.array(sigmas_for(found, theirs, **told)), **told)
        assert theirs.sigmas[:-1].tolist() == pytest.approx(visited.sigmas, rel=2e-5), what
    with pytest.raises(OptionError, match="write mu="):
        sigmas_for(found, bending["linear"][0])
    with pytest.raises(OptionError, match="shift_terminal, which cannot be undone"):
        sigmas_for(found, diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1))


def test_a_recording_on_a_solver_has_its_data_predictions_and_plans_of_it_its_steps(tmp_path: Path) -> None:
    workload = TinyWorkload("FluxPipeline")
    found = record(workload, tmp_path / "fine", steps=5, solver="dpmpp_2m", sites="clean,output", target="output", samples=2, batch=2, measured=1).trace
    from foreseer.bench.lanes import Sampler
    from foreseer.bench.solvers import Solver

    sampler = Sampler.of(workload, seed=0, num_steps=5, guidance=None).on(Solver(kind="dpmpp_2m"), 5)
    with clean_predictions(sampler.scheduler) as predictions:
        latents = sampler.draw([0, 1])
    flat = torch.stack([each.flatten(1) for each in predictions], dim=1).double().numpy()
    assert found.gram(CLEAN) == pytest.approx(flat @ flat.transpose(0, 2, 1), rel=1e-5)
    assert latents.flatten(1).numpy() == pytest.approx(flat[:, -1], abs=1e-6), "the last data prediction is the sample"
    assert found.grid is not None
    assert found.grid.levels == pytest.approx([s / (1 - s) for s in found.grid.sigmas])
    assert Trace.load(tmp_path / "fine.safetensors").grid == found.grid
    assert "convert_model_output" not in vars(sampler.scheduler)

    schedule = plan(found, target="output", budget=3)
    assert schedule.visited().timesteps == found.grid.timesteps, "what is forecast is visited"
    fine = Sampler.of(workload, seed=0, num_steps=None, guidance=None).on(solver_of(schedule), 5)
    drawn = fine.run([0, 1], driven=fine.policy(policy("planned", schedule=schedule), [0, 1]))
    assert drawn.steps == (3.0, 3.0)
    other = Sampler.of(workload, seed=0, num_steps=None, guidance=None).on(Solver(kind="dpmpp_2m", spacing="uniform"), 5)
    with pytest.raises(OptionError, match="timesteps that differ"):
        other.run([0, 1], driven=other.policy(policy("planned", schedule=schedule), [0, 1]))


def test_what_cannot_be_planned_is_said_in_words(tmp_path: Path) -> None:
    trace = trace_of(curves(6))
    with pytest.raises(OptionError, match=r"solver='heun' cannot be planned for.*euler, dpmpp_2m, unipc"):
        plan_grid(trace, solver="heun")
    with pytest.raises(OptionError, match=r"record with --solver dpmpp_2m --steps 100 --sites clean"):
        plan_grid(attrs.evolve(trace, grid=None))
    with pytest.raises(OptionError, match=r"objective='squares' is unknown"):
        plan_grid(trace, objective="squares")
    with pytest.raises(OptionError, match=r"not known; record with --solver"):
        attrs.evolve(plan_grid(trace), grid=None).visited()
    with pytest.raises(OptionError, match=r"no run of 9 steps; ask for 1 or 2"):
        plan_grid(trace).visited_in(9)
    with pytest.raises(OptionError, match=r"EulerDiscreteScheduler makes none; write --solver dpmpp_2m"), clean_predictions(diffusers.EulerDiscreteScheduler()):
        pass


def test_the_command_writes_a_grid(tmp_path: Path) -> None:
    from foreseer.__main__ import app

    path, out = trace_of(curves(12)).save(tmp_path / "fine"), tmp_path / "grid.json"
    done = CliRunner().invoke(app, ["plan", str(path), "--grid", "--solver", "unipc", "--budget", "5", "--out", str(out)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    times = ", ".join(f"{t:g}" for t in SchedulePlan.load(out).visited().timesteps)
    assert f"timesteps=[{times}]" in done.output
    assert f"solver: unipc:timesteps={times.replace(', ', ',')}" in done.output
    for words, said in (
        (["--solver", "unipc"], "write --grid with it"),
        (["--grid", "--target", "output"], "--target"),
        (["--grid", "--solver", "heun"], "heun"),
    ):
        done = CliRunner().invoke(app, ["plan", str(path), "--out", str(out), *words])
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())


def test_the_name_of_the_site_is_read_as_it_is_written() -> None:
    from foreseer.workbench.record_settings import site_from

    assert site_from("clean") == CLEAN == Site(-1, "clean")
    assert str(CLEAN) == "clean"
    assert even_steps(1, 9) == (0,)


def test_a_solver_takes_the_grid_of_each_number_of_steps_from_the_file(tmp_path: Path) -> None:
    from foreseer.bench.solvers import Solver

    made = plan_grid(trace_of(curves(12)), limits=Limits(last=1))
    text = f"dpmpp_2m:timesteps={made.save(tmp_path / 'grid.json')}"
    solver = Solver.read(text)
    assert str(solver) == text
    scheduler = solver.instead_of(SCHEDULERS["variance preserving"]())
    for count in (3, 7):
        assert solver.fits(count)
        scheduler.set_timesteps(count)
        assert scheduler.timesteps.tolist() == list(made.visited(count).timesteps)
    assert not solver.fits(1)
    with pytest.raises(OptionError, match="record with --solver"):
        Solver.read(f"dpmpp_2m:timesteps={attrs.evolve(made, grid=None).save(tmp_path / 'schedule.json')}")


def test_a_grid_says_which_solver_took_its_steps_and_only_of_data_predictions() -> None:
    """Law: a pipeline's own scheduler is known by its kind and order; what predicts noise has no data predictions."""
    from foreseer.workbench.clean import grid_of

    for scheduler, kind in (
        (diffusers.UniPCMultistepScheduler(), "unipc"),
        (diffusers.UniPCMultistepScheduler(solver_order=3), "unipc_3"),
        (diffusers.DPMSolverMultistepScheduler(), "dpmpp_2m"),
        (diffusers.DPMSolverMultistepScheduler(solver_order=3), "dpmpp_3m"),
    ):
        scheduler.set_timesteps(6)
        grid = grid_of(scheduler, solver="")
        assert grid is not None
        assert grid.solver == kind
    for other in (
        diffusers.DEISMultistepScheduler(),
        diffusers.UniPCMultistepScheduler(predict_x0=False),
        diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),  # which adds noise
    ):
        assert grid_of(other, solver="") is None
        with pytest.raises(OptionError, match="write --solver dpmpp_2m"), clean_predictions(other):
            pass


def test_a_recording_of_some_steps_of_a_grid_is_refused() -> None:
    trace = trace_of(curves(8))
    assert trace.grid is not None
    with pytest.raises(OptionError, match=r"8 steps of a grid of 9, as image to image leaves them"):
        plan_grid(attrs.evolve(trace, grid=trace.grid.at([0, *range(8)])))
