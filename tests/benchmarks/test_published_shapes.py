"""A full step and a forecast step of a FLUX that a CPU can run: 8 double and 16 single blocks, 512 wide, 1,024 tokens of image and 64 of text.

Benchmarks, not tests: run them with `make bench`. Plain `pytest` calls each body once, on a tiny model, so that they cannot rot. The goal is a forecast of
every module in 4 % of a full step; `laws.py` measures it side by side, and what is spent outside of the blocks.
"""

import pytest
import torch
from benchmarks.laws import MIDDLE

import foreseer
from foreseer.bench.gpu.shapes import SCALES, calls_of, random_model, timesteps
from foreseer.registry import parse_policy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flux(request):
    """The model, one call's arguments, and ten timesteps."""
    shape = MIDDLE if request.config.getoption("benchmark_enable") else SCALES["tiny"]["flux-dev"]
    (call,) = calls_of(shape, device=CPU, dtype=torch.float32)
    times = timesteps(shape, 10, device=CPU, dtype=torch.float32)
    return random_model(shape, device=CPU, dtype=torch.float32), call, times


@torch.no_grad()
def test_a_full_step(benchmark, flux):
    model, call, times = flux
    benchmark.pedantic(lambda: model(**call, timestep=times[0]), rounds=3, warmup_rounds=1)


@torch.no_grad()
@pytest.mark.parametrize("target", ["modules", "last_block", "output"])
def test_a_forecast_step(benchmark, flux, target):
    model, call, times = flux
    spec = parse_policy(f"taylorseer:interval=1000,max_order=1,warmup_steps=2,target={target}")
    with foreseer.attach(model, spec) as attached, attached.run():
        for timestep in times[:3]:
            model(**call, timestep=timestep)
        benchmark.pedantic(lambda: model(**call, timestep=times[3]), rounds=10, warmup_rounds=1)
    assert len(attached.report.full_steps) == 2
