"""Laws of models whose blocks are known in part: a target that leaves most of the work running falls back to blocks, and says so."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import foreseer
from foreseer.adapters.parts import covered, parts_of
from foreseer.registry import parse_policy

WIDTH, STEPS = 8, 12
POLICIES = ["reuse:interval=3", "taylorseer:interval=3,max_order=1", "speca:threshold=100,threshold_decay=1,max_order=1,warmup_steps=2"]


class Inline(nn.Module):
    """A block that writes its attention out in its own forward, beside a feed-forward that has a name, or not even that."""

    def __init__(self, attention: int, named: int) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(attention))
        self.norm = nn.LayerNorm(WIDTH)
        if named:
            self.ff = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(named)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.qkv:
            x = x + 0.1 * layer(self.norm(x)).tanh()
        return x + 0.1 * self.ff(self.norm(x)) if hasattr(self, "ff") else x


class Model(nn.Module):
    """Blocks of two lists, as in FLUX."""

    def __init__(self, double: tuple[int, int], single: tuple[int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.double_blocks = nn.ModuleList(Inline(*double) for _ in range(2))
        self.single_blocks = nn.ModuleList(Inline(*single) for _ in range(3))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.double_blocks, *self.single_blocks):
            x = block(x)
        return x


@contextmanager
def layers_run(model: nn.Module) -> Iterator[list[int]]:
    """Counts calls of linear layers."""
    count = [0]

    def hook(*_: object) -> None:
        count[0] += 1

    handles = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, nn.Linear)]
    yield count
    for handle in handles:
        handle.remove()


def driven(model: nn.Module, policy: str) -> tuple[list[int], foreseer.Report]:
    """How many layers ran in each step, and the report."""
    x, per_step = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1)), []
    with layers_run(model) as count, torch.no_grad(), foreseer.attach(model, parse_policy(policy)) as attached, attached.run(num_steps=STEPS):
        for step in range(STEPS):
            before = count[0]
            model(x + 0.01 * step)
            per_step.append(count[0] - before)
    return per_step, attached.report


def whole(per_step: list[int], report: foreseer.Report) -> int:
    """Layers of a computed step behind the first, which is examined."""
    return per_step[next(step for step in report.full_steps if step and not report.rejected[step].any())]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("double", "single", "share"), [((4, 2), (3, 0), 4 / 21), ((1, 4), (3, 0), 8 / 19), ((1, 4), (0, 4), 20 / 22), ((0, 4), (0, 4), 1.0)])
def test_most_of_the_work_is_saved_or_the_report_says_so(policy: str, double: tuple[int, int], single: tuple[int, int], share: float) -> None:
    """Law: a forecast step of a target that knows less than half of the work runs no block but one that judges; one that knows most runs the rest."""
    model = Model(double, single)
    blocks = [*model.double_blocks, *model.single_blocks]
    assert covered(blocks, [parts_of(block) for block in blocks]) == pytest.approx(share)
    per_step, report = driven(model, policy)
    total = whole(per_step, report)
    forecast = [ran for ran, outcome in zip(per_step, report.outcomes, strict=True) if not any(outcome.computed)]
    assert forecast
    judged = "speca" in policy
    if share < 0.5:
        one_block = len([layer for layer in blocks[-1].modules() if isinstance(layer, nn.Linear)])
        assert max(forecast) == (one_block if judged else 0)
        assert any("the last block's output is forecast instead" in warning for warning in report.warnings)
    else:
        rest = total - round(share * total)
        assert max(forecast) == rest + (len(blocks[-1].ff) if judged else 0)
        assert any("the rest runs in every step" in warning for warning in report.warnings) == (share < 0.9)


@given(double=st.tuples(st.integers(0, 4), st.integers(0, 4)), single=st.tuples(st.integers(0, 4), st.integers(0, 4)), policy=st.sampled_from(POLICIES))
@settings(max_examples=25)
def test_a_forecast_step_leaves_at_most_half_of_the_work(double: tuple[int, int], single: tuple[int, int], policy: str) -> None:
    """Law: whatever is known of the blocks, and whoever judges: one block more where a draft is verified."""
    if not sum(double) or not sum(single):
        return
    per_step, report = driven(Model(double, single), policy)
    forecast = [ran for ran, outcome in zip(per_step, report.outcomes, strict=True) if not any(outcome.computed)]
    assert forecast
    assert max(forecast) <= whole(per_step, report) / 2 + ("speca" in policy) * sum(single)
