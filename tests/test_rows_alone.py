"""Laws of rows that are computed without the others of their batch: never unchecked, and never at the price of what a row gets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer
from foreseer import Needs, Plan, Site, hookimpl
from foreseer.adapters.arguments import are_cut
from foreseer.policies import taylor

STEPS, WIDTH = 12, 8


class Block(nn.Module):
    """A block that hands its input on, changed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + 0.3 * self.inner(x).tanh() * (1 + t / 10)


class Model(nn.Module):
    """Four blocks. ``mixed`` makes rows depend on one another: their mean is taken off, or they are counted."""

    def __init__(self, mixed: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.mixed = nn.ModuleList(Block() for _ in range(4)), mixed
        self.rows_seen: list[int] = []
        self.eval().requires_grad_(False)

    def forward(self, hidden_states: Tensor, t: Tensor) -> Tensor:
        x = hidden_states
        self.rows_seen.append(len(x))
        if self.mixed == "cannot be cut" and len(x) != 3:
            raise RuntimeError("this model takes three rows")
        if self.mixed == "mean":
            x = x - x.mean(0)
        for block in self.blocks:
            x = block(x, t)
        return x * len(x) if self.mixed == "count" else x


class FirstRow:
    """Computes the first row in every step and forecasts the others from the third step on; it judges nothing."""

    @hookimpl
    def setup(self, run: foreseer.Run) -> Needs:
        self.run = run
        return Needs(sites=(Site(run.depth - 1),))

    @hookimpl
    def before_step(self, step: foreseer.Step) -> Plan | None:
        compute = tuple(group == self.run.groups[0] for group in self.run.groups)
        return None if step.index < 2 else Plan(forecast=(Site(self.run.depth - 1),), compute=compute)


def first_row() -> tuple[object, ...]:
    return FirstRow(), taylor(max_order=1)


def inputs(step: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    base, drift = torch.randn(2, rows, 2, WIDTH, generator=generator)
    return base + 0.05 * step * drift, torch.tensor(float(step))


def walk(model: nn.Module, rows: int = 3) -> list[Tensor]:
    with torch.no_grad():
        return [model(*inputs(step, rows)) for step in range(STEPS)]


def driven(model: nn.Module, policy: Any, groups: Any = None) -> tuple[list[Tensor], foreseer.Report]:
    with foreseer.attach(model, policy) as attached, attached.run(num_steps=STEPS, groups=groups):
        return walk(model), attached.report


MIXED = ["", "mean", "count", "cannot be cut"]


@pytest.mark.parametrize("mixed", MIXED)
def test_a_policy_without_a_verdict_computes_rows_as_the_batch_does(mixed: str) -> None:
    """Law: what is computed is what full computation gives, whether or not rows depend on one another, and the report says which."""
    bare = walk(Model(mixed))
    outputs, report = driven(Model(mixed), first_row)
    for step in range(STEPS):
        torch.testing.assert_close(outputs[step][0], bare[step][0], rtol=1e-5, atol=1e-5)
    assert report.computed[2:].tolist() == [[True, False, False]] * (STEPS - 2)
    said = [warning for warning in report.warnings if "a rejection computes the whole batch" in warning]
    assert bool(said) == bool(mixed)


@pytest.mark.parametrize("mixed", MIXED)
def test_rows_are_compared_once_and_counted(mixed: str) -> None:
    """Law: rows alone and among the others are compared before they are used alone for the first time, and never again; block-rows are those of the passes."""
    model = Model(mixed)
    _, report = driven(model, first_row)
    whole, alone = model.rows_seen.count(3), model.rows_seen.count(1)
    steps = STEPS - 2
    speculative = 3 + steps  # two computed steps, the self-check, and the passes on forecasts
    assert whole == speculative + (1 if not mixed else steps)
    assert alone == (steps if not mixed else 1)
    assert report.computed.sum() == 2 * 3 + steps


def test_a_first_run_of_one_sample_leaves_nothing_unchecked() -> None:
    """Law: rows of one sample share one fate, so that a first run may need no row alone; the next, of three samples, compares them all the same."""
    model = Model("mean")
    bare = walk(Model("mean"))
    with foreseer.attach(model, first_row) as attached:
        with attached.run(num_steps=STEPS, groups=[0, 0, 0]):
            together = walk(model)
        with attached.run(num_steps=STEPS, groups=[0, 1, 2]):
            outputs = walk(model)
        report = attached.report
    assert all(map(torch.equal, together, bare))
    for step in range(STEPS):
        torch.testing.assert_close(outputs[step][0], bare[step][0], rtol=1e-5, atol=1e-5)
    assert any("a rejection computes the whole batch" in warning for warning in report.warnings)


@pytest.mark.parametrize("mixed", MIXED)
def test_a_forecast_that_is_not_finite_is_computed_also_where_a_batch_cannot_be_cut(mixed: str) -> None:
    """Law: the row whose forecast is NaN is computed in the same step; the others keep theirs."""

    class Poison:
        @hookimpl
        def predict_features(self, step: foreseer.Step, sites: Any, history: foreseer.History) -> dict[Site, Tensor]:
            drafts = {site: history.features(site)[0] for site in sites}
            for draft in drafts.values():
                draft[1] = torch.nan
            return drafts

    class Every:
        @hookimpl
        def setup(self, run: foreseer.Run) -> Needs:
            return Needs(sites=(Site(run.depth - 1),))

        @hookimpl
        def before_step(self, step: foreseer.Step) -> Plan | None:
            return Plan(forecast=(Site(3),)) if step.index else None

    bare = walk(Model(mixed))
    outputs, report = driven(Model(mixed), lambda: (Every(), Poison()))
    assert report.computed[1:].tolist() == [[False, True, False]] * (STEPS - 1)
    for step in range(STEPS):
        torch.testing.assert_close(outputs[step][1], bare[step][1], rtol=1e-5, atol=1e-5)
        assert outputs[step].isfinite().all()


def test_a_gate_decides_by_row_also_where_rows_depend_on_one_another() -> None:
    """Law: decisions are each sample's; what cannot be computed alone is computed with the batch, and the others keep their forecasts."""
    outputs, report = driven(Model("count"), lambda **options: foreseer.policy("cg_taylor", threshold=0.02, warmup_steps=2)())
    bare = walk(Model("count"))
    parted = [step for step, row in enumerate(report.computed.tolist()) if 0 < sum(row) < 3]
    assert parted, "the threshold parts the rows"
    for step in parted:
        for row in range(3):
            if report.computed[step, row]:
                torch.testing.assert_close(outputs[step][row], bare[step][row], rtol=1e-5, atol=1e-5)
            else:
                assert not torch.equal(outputs[step][row], bare[step][row])


@pytest.mark.parametrize(
    ("shape", "alone", "is_cut"),
    [
        ((4, 6, 8), (2, 6, 8), True),
        ((6, 4, 8), (6, 2, 8), True),
        ((12, 8), (6, 8), True),
        ((6, 8), (6, 8), True),  # what has no rows
        ((4, 6, 8), (2, 3, 8), False),  # half of the rows, and half of the tokens
        ((4, 6, 8), (2, 5, 8), False),
        ((4, 6, 8), (1, 6, 8), False),
        ((4, 6, 8), (2, 48), False),
    ],
)
def test_rows_alone_are_shorter_in_one_dimension(shape: tuple[int, ...], alone: tuple[int, ...], is_cut: bool) -> None:
    """Law: two of four rows are what they are among all, but fewer: a text that is cut to the longest of a call is another."""
    whole, part = ([(torch.Size(size), torch.float32)] for size in (shape, alone))
    assert are_cut(whole, part, 4, 2) == is_cut
    assert not are_cut(whole, [], 4, 2)


def test_a_second_run_resumes_as_the_first_did() -> None:
    """Law: that rows alone had to be compared in the first run changes nothing of what it gives: the second gives the same, bit for bit."""
    model, gate = Model(), lambda **_: foreseer.policy("cg_taylor", threshold=0.02, warmup_steps=2)()
    with foreseer.attach(model, gate) as attached:
        runs = []
        for _ in range(2):
            with attached.run(num_steps=STEPS):
                runs.append(walk(model))
                assert attached.report.block_rows
    assert all(map(torch.equal, *runs))
