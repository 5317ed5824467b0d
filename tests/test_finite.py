"""Laws of numbers that run over: no output is infinite or NaN that full computation would not have made so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import foreseer
from foreseer.registry import parse_policy

POLICIES = [
    "none",
    "reuse:interval=3",
    "taylorseer:interval=4,max_order=1,warmup_steps=3",
    "taylorseer:interval=4,max_order=2,warmup_steps=3,target=last_block",
    "taylorseer:interval=4,max_order=1,warmup_steps=3,target=output",
    "planned:schedule=0+1+2+5/8,max_order=1",
    "planned:schedule=0+1+2+5/8,max_order=1,target=modules",
    "cg_taylor:threshold=100,warmup_steps=3",
    "cg_taylor:threshold=100,warmup_steps=3,target=output",
    "speca:threshold=100,threshold_decay=1,max_order=1,warmup_steps=3",
    "speca:threshold=100,threshold_decay=1,max_order=1,warmup_steps=3,on_reject=next_step",
    "speca:threshold=100,threshold_decay=1,max_order=1,warmup_steps=3,min_draft_steps=2",
    "speca_released:threshold=0.5,max_order=1",
]


class Part(nn.Module):
    """A part of a block that grows with the time."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (self.gain.to(x.dtype) * t)[:, None, None] * torch.ones_like(x)


class Block(nn.Module):
    """Attention that may be large, brought back by a norm or handed on."""

    def __init__(self, gain: float, *, normed: bool) -> None:
        super().__init__()
        self.attn, self.mlp = Part(gain), Part(0.01)
        self.norm = nn.LayerNorm(8) if normed else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.norm(x + self.attn(x, t))
        return x + self.mlp(x, t)


class Model(nn.Module):
    """Three blocks, one of which is large in one of its rows' times."""

    def __init__(self, large: int, gain: float, *, normed: tuple[int, ...] = (0, 1, 2), last: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(gain if index == large else 1.0, normed=index in normed) for index in range(3)])
        self.last = last
        self.half().eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, t)
        return self.last(x)


TIMES = [0.5, 1.5, 2.5, 3.0, 3.2, 3.2, 3.2, 3.2]
"""A line through the first three runs past what the fourth has."""
X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).half()


def loop(model: nn.Module, times: list[float] = TIMES) -> list[Tensor]:
    with torch.no_grad():
        return [model(X, torch.tensor([t, t / 2]).half()) for t in times]


def driven(model: nn.Module, policy: str) -> tuple[list[Tensor], foreseer.Report]:
    with foreseer.attach(model, parse_policy(policy), blocks="blocks") as attached, attached.run(num_steps=len(TIMES)):
        return loop(model), attached.report


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("large", [0, 1, 2])
@pytest.mark.parametrize("normed", ["all", "others"])
def test_a_forecast_that_runs_over_is_computed(policy: str, large: int, normed: str) -> None:
    """Law: in float16, wherever the part lies, whatever is forecast, judged or not."""
    model = Model(large, 20000.0, normed=tuple(index for index in range(3) if normed == "all" or index != large))
    bare = loop(model)
    assert all(output.isfinite().all() for output in bare)
    outputs, report = driven(model, policy)
    assert all(output.isfinite().all() for output in outputs)
    for step, computed in enumerate(report.computed):
        for row in range(2):
            if computed[row]:
                torch.testing.assert_close(outputs[step][row], bare[step][row])


@pytest.mark.parametrize("policy", POLICIES)
def test_finite_forecasts_of_which_the_model_makes_infinity_are_computed(policy: str) -> None:
    """Law: an output that runs over behind forecasts in range, in the model's own last operations, is rejected too."""
    model = Model(0, 1.0, normed=(), last=lambda x: (x.float().mean((1, 2), keepdim=True) * 6500).half().expand_as(x))
    bare = loop(model)
    assert all(truth.isfinite().all() for truth in bare)
    outputs, report = driven(model, policy)
    assert all(output.isfinite().all() for output in outputs)
    if "taylorseer" in policy and "output" not in policy:
        assert any("not finite" in outcome.reason for outcome in report.outcomes), "the line runs over"


@pytest.mark.parametrize("policy", POLICIES)
def test_what_full_computation_makes_infinite_stays_so(policy: str) -> None:
    """Law: a model that breaks by itself is not made worse: what is not finite is what full computation gives, in that very step."""
    model = Model(1, 60000.0, normed=(0, 2))
    bare = loop(model)
    outputs, _ = driven(model, policy)
    assert any(not truth.isfinite().all() for truth in bare)
    for output, truth in zip(outputs, bare, strict=True):
        broken = ~output.isfinite().flatten(1).all(1)
        torch.testing.assert_close(output[broken], truth[broken], equal_nan=True)


@given(values=st.lists(st.floats(-65504, 65504, width=16), min_size=6, max_size=6), interval=st.integers(2, 4), order=st.integers(0, 3))
@settings(max_examples=60)
def test_whatever_a_feature_does_in_float16_the_output_is_finite(values: list[float], interval: int, order: int) -> None:
    """Law: for any course of a feature that is finite itself."""
    course = torch.tensor(values, dtype=torch.float16)

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
            self.step = 0

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    model = Line().half().requires_grad_(False)
    for block in model.blocks:
        block.weight.data.fill_(1)
        block.bias.data.fill_(0)
    policy: Any = f"taylorseer:interval={interval},max_order={order},warmup_steps=2,target=last_block"
    with torch.no_grad(), foreseer.attach(model, parse_policy(policy)) as attached, attached.run(num_steps=6):
        outputs = [model(value.reshape(1, 1)) for value in course]
    assert all(output.isfinite().all() for output in outputs)
