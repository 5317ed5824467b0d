"""Noise levels of runs: those that the scheduler steps through, whatever it counts, and those that a caller says."""

import math
import warnings
from types import SimpleNamespace
from typing import Any

import attrs
import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from torch import nn

import foreseer
from foreseer.adapters.noise import schedule_of
from foreseer.bench.families import DiTFamily
from foreseer.bench.solvers import KINDS as KINDS_OF_SOLVERS
from foreseer.bench.solvers import Solver
from foreseer.declared import Schedule
from foreseer.errors import OptionError
from foreseer.testing.plays import noise_at, run_of
from foreseer.testing.worlds import World, constant
from foreseer.types import Run

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", ZERO_SNR),
    ("DDPMScheduler", {}),
    ("CogVideoXDDIMScheduler", ZERO_SNR),
    ("PNDMScheduler", {}),
    ("LCMScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", CONTINUOUS),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", FLOW_SIGMAS),
    ("UniPCMultistepScheduler", FLOW_SIGMAS),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("EDMEulerScheduler", {"sigma_schedule": "karras", "final_sigmas_type": "sigma_min"}),
    ("EDMDPMSolverMultistepScheduler", {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}),
]
"""Those of the pipelines in tests/tiny, and of the solvers that stand in for them."""


def built(name: str, config: dict[str, Any], steps: int = 7) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, name)(**config)
        scheduler.set_timesteps(steps)
    return scheduler


def noised(scheduler: Any, time: torch.Tensor) -> tuple[float, float]:
    """How much of a clean sample, and of noise, the scheduler itself has at a timestep: alpha and sigma."""
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = scheduler._begin_index = None
    one, zero, times = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), time.reshape(1)
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(one, times, zero).item(), scheduler.scale_noise(zero, times, one).item()
    return scheduler.add_noise(one, zero, times).item(), scheduler.add_noise(zero, one, times).item()


@pytest.mark.parametrize(("name", "config"), KINDS, ids=[f"{name}-{'-'.join(config)}" for name, config in KINDS])
def test_log_snr_is_that_of_the_schedulers_own_noise(name: str, config: dict[str, Any]) -> None:
    """Law: what ``add_noise`` makes of a clean sample at each timestep has the log-SNR that is told."""
    scheduler = built(name, config)
    told = schedule_of(scheduler, slice(None))
    assert told.log_snr is not None
    levels = [noised(scheduler, time) for time in scheduler.timesteps]
    wanted = [math.log(alpha / sigma) if alpha > 0 and sigma > 0 else -math.inf for alpha, sigma in levels]
    np.testing.assert_allclose(told.log_snr, wanted, rtol=1e-3, atol=2e-3)
    assert len(told.log_snr) == len(told.timesteps or ()) == len(scheduler.timesteps)


def test_an_evaluation_in_the_middle_of_a_step_has_the_noise_of_its_timestep() -> None:
    """Law: where a scheduler's list of sigmas is not that of its timesteps, the timesteps are believed."""
    scheduler = built("KDPM2DiscreteScheduler", {})
    told = schedule_of(scheduler, slice(None))
    kept = np.interp(scheduler.timesteps.tolist(), np.arange(1000), scheduler.alphas_cumprod.tolist())
    assert told.sigmas is None
    np.testing.assert_allclose(told.log_snr, 0.5 * np.log(kept / (1 - kept)), atol=5e-3)


def test_rising_timesteps_of_flow_matching_begin_with_noise() -> None:
    told = schedule_of(built("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}), slice(None))
    assert told.log_snr is not None
    assert told.log_snr[0] == -math.inf
    assert all(np.diff(told.log_snr[1:]) > 0)


def test_a_scheduler_that_does_not_say_what_it_counts_has_no_log_snr() -> None:
    unknown = SimpleNamespace(config={}, timesteps=torch.tensor([3.0, 2.0, 1.0]), sigmas=torch.tensor([0.75, 0.5, 0.25, 0.0]))
    assert schedule_of(unknown, slice(1, 3)) == Schedule(timesteps=(2.0, 1.0), sigmas=(0.5, 0.25))


PIPELINES = {"FluxPipeline": {}, "WanPipeline": {}, "DiTPipeline": {}, "CosmosTextToWorldPipeline": {}, "FluxImg2ImgPipeline": {"strength": 0.6}}


@pytest.mark.parametrize("name", list(PIPELINES))
def test_the_levels_of_a_pipelines_run_are_those_that_it_steps_through(name: str) -> None:
    """Law: evaluation i has the timestep, sigma and log-SNR of the i-th call of the scheduler's ``step``."""
    tiny = TINY[name]
    pipe = tiny.build()
    seen: list[tuple[float, float | None]] = []
    step = pipe.scheduler.step

    def watched(output: Any, time: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(output, time, *args, **kwargs)
        index = getattr(pipe.scheduler, "step_index", None)
        if not seen or seen[-1][0] != float(time):  # Cosmos asks it twice
            seen.append((float(time), None if index is None else float(pipe.scheduler.sigmas[index - 1])))
        return result

    pipe.scheduler.step = watched
    with foreseer.attach(pipe, "taylorseer:interval=2") as attached:
        tiny.call(pipe, steps=5, **PIPELINES[name])
        for report in attached.reports.values():
            run = report.run
            assert [time for time, _ in seen] == pytest.approx(run.timesteps, abs=1e-3)
            assert run.log_snr is not None
            assert len(run.log_snr) == run.num_steps == len(seen)
            assert all(np.diff(run.log_snr) > 0)
            sigmas = [sigma for _, sigma in seen]
            assert run.sigmas is None if sigmas[0] is None else sigmas == pytest.approx(run.sigmas)


def test_the_bundled_dit_says_its_noise_levels() -> None:
    model = TINY["DiTPipeline"].build().transformer
    with DiTFamily(model=model).attached(foreseer.policy("none"), num_steps=4, samples=1) as attached, torch.no_grad():
        assert attached._generation is not None
        told = attached._generation.schedule()
    scheduler = built("DDIMScheduler", {"beta_start": 1e-4, "beta_end": 0.02})
    np.testing.assert_allclose(told.log_snr, [math.log(a / s) for a, s in (noised(scheduler, torch.tensor(int(t))) for t in told.timesteps or ())], rtol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS_OF_SOLVERS))
@pytest.mark.parametrize("flow", [False, True])
def test_solvers_say_the_levels_that_they_step_through(kind: str, flow: bool) -> None:
    """Law: the sigmas of a solver in a scheduler's place are its run's, and log-SNR is theirs; it never falls."""
    own = built("FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers' schedulers say while they are built and set up
        scheduler = Solver(kind=kind).instead_of(own)
        scheduler.set_timesteps(7)
    told, sigmas = schedule_of(scheduler), scheduler.sigmas.double().numpy()[: len(scheduler.timesteps)]
    np.testing.assert_array_equal(told.sigmas, sigmas)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(told.log_snr, np.log(1 - sigmas) - np.log(sigmas) if flow else -np.log(sigmas))
    assert not any(later < level for level, later in zip(told.log_snr or (), (told.log_snr or ())[1:], strict=False))


LEVELS = st.lists(st.floats(-9, 9), min_size=1, max_size=9)


@given(levels=LEVELS, calls=st.integers(1, 4), listed=st.booleans(), behind=st.booleans())
def test_a_schedule_of_calls_is_one_of_steps(levels: list[float], calls: int, listed: bool, behind: bool) -> None:
    """Law: levels listed call by call or step by step, with one behind the last step or none, are the steps'."""
    times = [float(i) for i in range(len(levels)) for _ in range(calls)]
    told = [level for level in levels for _ in range(calls if listed else 1)] + [math.inf] * behind
    kept = Schedule(timesteps=times, log_snr=torch.tensor(told, dtype=torch.float64)).every(calls)
    assert kept.num_steps == len(levels)
    assert kept.log_snr is not None
    assert list(kept.log_snr[: len(levels)]) == levels


def test_a_run_that_begins_late_has_the_levels_that_are_left() -> None:
    run = run_of(World(constant), num_steps=6, sigmas=True)
    late = run.starting_at(2)
    assert run.log_snr is not None
    assert late.log_snr == run.log_snr[2:]
    assert late.whole().log_snr is None
    assert run.log_snr[0] == -math.inf, "flow matching begins with noise alone"


@pytest.mark.parametrize("wrong", [[math.nan], ["much"], 3])
def test_log_snr_that_is_none_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(OptionError, match="log_snr"):
        Run(2, 1, (0,), log_snr=wrong)
    with pytest.raises(OptionError, match="log_snr"):
        Schedule(log_snr=wrong)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


@pytest.mark.parametrize("how", ["run", "generation"])
def test_a_caller_says_it(how: str) -> None:
    levels = noise_at([1000.0, 700.0, 300.0])
    model = Plain()
    with foreseer.attach(model, "taylorseer:interval=2") as attached, torch.no_grad(), getattr(attached, how)(num_steps=3, **levels) as begun:
        for _ in range(3):
            if how == "generation":
                begun.step()
            model(torch.ones(1, 4))
    assert attrs.asdict(attached.report.run, filter=lambda field, _: field.name in levels) == levels
    with (
        pytest.raises(OptionError, match="log_snr has 2 entries and the run has 3 steps"),
        getattr(foreseer.attach(Plain(), "none"), how)(num_steps=3, log_snr=[0.0, 1.0]),
    ):
        pass
