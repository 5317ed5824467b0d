"""Solvers in a scheduler's place: they go to the same end, through the levels that were asked for, at the cost that was said."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_workload import TinyWorkload

from foreseer.bench.families import DiTFamily
from foreseer.bench.lanes import Sampler
from foreseer.bench.solvers import KINDS, SPACINGS, Solver, own_scheduler, scheduler_for, solved_by, solvers_from
from foreseer.errors import OptionError, PluginError
from foreseer.zoo.dit import CONFIG, build

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # diffusers hands tensors to numpy

OWN: dict[str, Any] = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow of UniPC": lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    "DDIM": lambda: diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="linspace"),
    "PNDM": lambda: diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
    "velocity": lambda: diffusers.DDIMScheduler(beta_schedule="linear", prediction_type="v_prediction", clip_sample=False, timestep_spacing="linspace"),
}


def end_of(scheduler: Any, steps: int) -> tuple[torch.Tensor, list[float]]:
    """Sample data that are normal with a standard deviation of 1/2, for which a denoiser's best answer is known; return the timesteps too."""
    scheduler.set_timesteps(steps)
    x, seen = torch.linspace(-2, 2, 9, dtype=torch.float64)[None] * float(getattr(scheduler, "init_noise_sigma", 1.0)), []
    alphas = getattr(scheduler, "alphas_cumprod", None)
    flow = type(scheduler).__name__.startswith("FlowMatch") or scheduler.config.get("prediction_type") == "flow_prediction"
    for t in scheduler.timesteps:
        y, seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, [*seen, float(t)]
        if flow:
            sigma = float(t) / 1000
            output = y * (sigma - (1 - sigma) / 4) / ((1 - sigma) ** 2 / 4 + sigma**2)
        else:
            kept = float(alphas[int(t)])
            noise = y * (1 - kept) ** 0.5 / (kept / 4 + 1 - kept)
            clean = y * kept**0.5 / 4 / (kept / 4 + 1 - kept)
            output = noise if scheduler.config.prediction_type == "epsilon" else kept**0.5 * noise - (1 - kept) ** 0.5 * clean
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x, seen


@functools.cache
def limit_of(own: str) -> torch.Tensor:
    return end_of(Solver(kind="euler", spacing="own").instead_of(OWN[own]()), 900)[0]


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("kind", KINDS)
def test_all_go_to_the_same_end_and_evaluate_as_often_as_they_say(kind: str, own: str) -> None:
    """Law: on data whose denoiser is known, whatever the spacing; better ones come nearer than the first order."""
    scheduler, limit = OWN[own](), limit_of(own)
    found = {}
    for spacing in SPACINGS:
        solver = Solver(kind=kind, spacing=spacing)
        for count in (101, 15):
            end, seen = end_of(solver.instead_of(scheduler), solver.steps(count))
            assert len(seen) == count
            found[spacing, count] = float((end - limit).abs().max())
        assert found[spacing, 101] < 0.04, (spacing, found)
        assert found[spacing, 101] < found[spacing, 15] + 2e-3
    if kind not in ("euler", "heun"):
        best = "uniform" if "flow" in own else "log_snr"
        plain, _ = end_of(Solver(kind="euler", spacing=best).instead_of(scheduler), 15)
        assert found[best, 15] < float((plain - limit).abs().max()) / 3


@pytest.mark.parametrize("own", OWN)
def test_the_first_order_through_its_own_levels_is_what_the_scheduler_does(own: str) -> None:
    scheduler = OWN[own]()
    ours, seen = end_of(Solver(kind="euler", spacing="own").instead_of(scheduler), 12)
    assert len(set(seen)) == 12
    if own == "flow":
        theirs, known = end_of(OWN[own](), 12)
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert np.allclose(seen, known)
    elif "flow" not in own:  # DDIM, arXiv 2010.02502, eq. 12 without noise, from each timestep to the next
        x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
        kept = [*(float(scheduler.alphas_cumprod[int(t)]) for t in seen), 1.0]
        for a, b in itertools.pairwise(kept):
            noise, clean = x * (1 - a) ** 0.5 / (a / 4 + 1 - a), x * a**0.5 / 4 / (a / 4 + 1 - a)
            x = b**0.5 * clean + (1 - b) ** 0.5 * noise
        assert torch.allclose(ours, x, atol=1e-5)


@given(st.sampled_from(sorted(OWN)), st.sampled_from(SPACINGS), st.integers(2, 60))
def test_levels_fall_from_the_first_to_the_last(own: str, spacing: str, steps: int) -> None:
    """Law: strictly; and those of variance-preserving noise are of whole timesteps, each with its own noise."""
    scheduler = Solver(kind="dpmpp_2m", spacing=spacing).instead_of(OWN[own]())
    scheduler.set_timesteps(steps)
    times, sigmas = scheduler.timesteps.double().numpy(), scheduler.sigmas.double().numpy()
    assert len(times) == steps
    assert len(sigmas) == steps + 1
    assert (np.diff(times) < 0).all()
    assert (np.diff(sigmas) < 0).all()
    assert sigmas[-1] == 0
    if "flow" in own:
        assert np.allclose(sigmas[:-1], times / 1000, atol=2e-6)
    else:
        table = np.sqrt(1 / scheduler.alphas_cumprod.double().numpy() - 1)
        assert np.allclose(sigmas[:-1], table[times.astype(int)], rtol=1e-5)
        assert (times[0], times[-1]) == (999, 0) or (own, spacing) == ("PNDM", "own")


@given(st.lists(st.integers(1, 999), min_size=1, max_size=12, unique=True))
def test_timesteps_that_are_given_are_stepped_through(times: list[int]) -> None:
    falling = sorted(times, reverse=True)
    solver = Solver.read(f"dpmpp_2m:timesteps={','.join(map(str, falling))}")
    assert Solver.read(str(solver)) == solver
    assert solver.fits(len(times))
    assert not solver.fits(len(times) + 1)
    for own in ("DDIM", "flow"):
        scheduler = solver.instead_of(OWN[own]())
        scheduler.set_timesteps(len(times))
        assert np.allclose(scheduler.timesteps.numpy(), falling)


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(SPACINGS), st.floats(0.25, 8).map(lambda shift: round(shift, 3)))
def test_a_solver_is_read_as_it_is_written(kind: str, spacing: str, shift: float) -> None:
    solver = Solver(kind=kind, spacing=spacing, shift=shift if spacing == "uniform" else 1.0)
    assert Solver.read(str(solver)) == solver


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dpmpp_2s", "did you mean 'dpmpp_2m'?"),
        ("unipc:spacing=log_snrs", "did you mean 'log_snr'?"),
        ("unipc:spaces=karras", "'spaces' is no option of solver 'unipc'"),
        ("unipc:shift=3", "write spacing=uniform,shift=3"),
        ("unipc:spacing=uniform,shift=0", "write a number in (0, 100]"),
        ("unipc:timesteps=1,2,3", "do not fall"),
        ("unipc:timesteps=high", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(OptionError) as found:
        Solver.read(text)
    assert said in str(found.value)


def test_what_has_no_levels_and_what_has_no_scheduler_is_refused() -> None:
    with pytest.raises(PluginError):
        Solver.read("")
    with pytest.raises(OptionError, match="cannot stand in the place of KarrasVeScheduler"):
        Solver(kind="unipc").instead_of(diffusers.KarrasVeScheduler())
    family = TinyWorkload("FluxPipeline", num_steps=4)
    sampler = Sampler.of(family, seed=0, num_steps=None, guidance=None)
    with pytest.raises(OptionError, match="cannot evaluate the model 8 times; write 7 or 9"):
        sampler.on(Solver(kind="heun"), 8)
    with pytest.raises(OptionError, match="more than the 1000 timesteps"):
        Solver(kind="unipc").levels(np.arange(1001.0)[::-1], table=np.linspace(0.1, 9, 1000))
    with pytest.raises(OptionError, match="1001 steps are more than the 1000 timesteps"):
        Solver(kind="unipc").instead_of(diffusers.DDIMScheduler()).set_timesteps(1001)


def test_a_loop_of_its_own_says_which_scheduler_it_steps_with() -> None:
    from toy_family import ToyFamily

    with pytest.raises(OptionError, match="has no place in 'toy'"):
        scheduler_for(ToyFamily(), Solver(kind="unipc"))


@pytest.mark.parametrize("name", ["dit", "FluxPipeline", "WanPipeline"])
def test_a_workload_draws_with_another_and_gets_its_own_back(name: str) -> None:
    """Law: the model is called as often as was said; afterwards all is as before, bit for bit."""
    torch.manual_seed(0)
    small = {**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    family: Any = DiTFamily(model=build(small).eval().requires_grad_(False)) if name == "dit" else TinyWorkload(name, num_steps=6)
    sampler = Sampler.of(family, seed=0, num_steps=6, guidance=None)
    own, before, calls = own_scheduler(family), sampler.draw([0, 1]), []
    hook = family.model.register_forward_hook(lambda *given: calls.append(1))
    per_step = 2 if name == "WanPipeline" else 1
    for text, count in (("dpmpp_2m", 6), ("unipc:spacing=uniform", 6), ("heun:spacing=own", 5)):
        calls.clear()
        found = sampler.on(Solver.read(text), count).draw([0, 1])
        assert len(calls) == count * per_step, text
        assert found.isfinite().all()
        assert not torch.equal(found, before)
    hook.remove()
    assert own_scheduler(family) is own
    assert torch.equal(sampler.draw([0, 1]), before)
    with pytest.raises(ZeroDivisionError), solved_by(family, OWN["flow"]()):
        raise ZeroDivisionError
    assert own_scheduler(family) is own


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "heun"])
def test_a_model_without_signal_at_its_end_is_begun_there(kind: str) -> None:
    """Law: with betas rescaled to no signal at the last timestep the run begins there, and is finite."""
    own = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False)
    for spacing in SPACINGS:
        end, seen = end_of(Solver(kind=kind, spacing=spacing).instead_of(own), 10)
        assert seen[0] == 999
        assert seen[5] > 50
        assert end.isfinite().all()


def test_a_pipeline_finds_what_it_shifts_by() -> None:
    """Law: the levels of the workload's own scheduler are those that the pipeline asks it for, whatever it shifts by."""
    family: Any = TinyWorkload("FluxPipeline", num_steps=6)
    before = family.pipeline.scheduler
    family.pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=2.0, max_shift=3.0)
    sampler = Sampler.of(family, seed=0, num_steps=6, guidance=None)
    try:
        own = sampler.draw([0])
        for text in ("euler:spacing=own", "unipc:spacing=own"):
            other = sampler.on(Solver.read(text), 6)
            drawn = other.draw([0])
            assert np.allclose(other.scheduler.sigmas.numpy(), family.pipeline.scheduler.sigmas.numpy(), atol=2e-6)
            if "euler" in text:
                assert torch.allclose(drawn, own, atol=1e-4)
    finally:
        family.pipeline.scheduler = before


def test_schedulers_that_no_solver_stands_for_are_refused() -> None:
    for own in (
        diffusers.EulerAncestralDiscreteScheduler(),
        diffusers.LCMScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    ):
        with pytest.raises(OptionError, match="leave the solver out"):
            Solver(kind="unipc").instead_of(own)
    for text, name, said in (
        ("unipc:timesteps=999,700,0", "flow", "> 0 and at most 1000"),
        ("unipc:timesteps=2000,1500", "DDIM", "from 0 and at most 999"),
        ("unipc:spacing=uniform,shift=3", "DDIM", "is for flow matching"),
    ):
        solver = Solver.read(text)
        with pytest.raises(OptionError, match=said):
            solver.instead_of(OWN[name]()).set_timesteps(len(solver.timesteps) or 5)
    with pytest.raises(OptionError, match="sigmas= is not for DDIMScheduler"):
        Solver(kind="unipc").instead_of(OWN["DDIM"]()).set_timesteps(sigmas=[1.0, 0.5])
    for wrong in (5, [5], True):
        with pytest.raises(OptionError, match="is no solver"):
            solvers_from(wrong)


def test_image_to_image_adds_the_noise_of_a_flow() -> None:
    scheduler = Solver(kind="unipc", spacing="own").instead_of(OWN["flow"]())
    own = OWN["flow"]()
    for one in (scheduler, own):
        one.set_timesteps(8)
    clean, noise = torch.ones(1, 4, 2), torch.full((1, 4, 2), 3.0)
    assert torch.allclose(scheduler.scale_noise(clean, scheduler.timesteps[2:3], noise), own.scale_noise(clean, own.timesteps[2:3], noise), atol=1e-4)
