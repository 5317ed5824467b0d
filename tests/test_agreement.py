"""Laws of `agreement`, held against a loop over tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError, hookimpl, sample
from foreseer.policies import agreement
from foreseer.testing.worlds import DEPTH, ROWS, World, exponential, mixed
from foreseer.types import Site

STEPS = 20


def run(spec: str, world: World, steps: int = STEPS, groups: Any = None) -> foreseer.Report:
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: output}
    return sample(world, None, list(range(steps)), policy=spec, groups=groups, **given)[1]


def by_hand(world: World, row: int, *, tolerance: float, warmup: int = 3, steps: int = STEPS) -> list[int]:
    """Computed steps of one row: sum ||F1 - F0|| / ||F1|| since the last of them, tensor by tensor."""
    site = Site(DEPTH - 1, since=-1)
    computed: list[int] = []
    kept: list[torch.Tensor] = []
    total = 0.0
    for k in range(steps):
        forecast = k >= warmup and k < steps - 1
        if forecast:
            c, p = computed[-1], computed[-2]
            line = kept[-1] + (kept[-1] - kept[-2]) * (k - c) / (c - p)
            total += float((line - kept[-1]).norm() / line.norm())
        if not forecast or total > tolerance:
            computed.append(k)
            kept.append(world.forward(k, substitute={}, record=(site,)).features[site][row])
            total = 0.0
    return computed


@pytest.mark.parametrize("tolerance", [0.0, 0.003, 0.02, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("feature", [mixed, exponential])
def test_every_row_computes_where_its_disagreements_exceed_the_tolerance(feature: Any, tolerance: float) -> None:
    """Law: the gaps that a small matrix decides in advance are those that sums over tensors give, row by row."""
    world = World(feature)
    report = run(f"agreement:tolerance={tolerance}", world)
    for row in range(ROWS):
        assert [k for k, outcome in enumerate(report.outcomes) if outcome.computed[row]] == by_hand(world, row, tolerance=tolerance)


def test_rows_decide_alone_and_samples_together() -> None:
    """Law: a row computes what it would alone; rows of one sample what their sum says; a batch one sum."""
    spec = "agreement:tolerance=0.05"
    report = run(spec, World(mixed))
    for row in range(ROWS):
        assert [o.computed[0] for o in run(spec, World(mixed, labels=[row])).outcomes] == [o.computed[row] for o in report.outcomes]
    pooled, batch = run(spec, World(mixed), groups=(0, 1, 1)), run(spec + ",decide=batch", World(mixed))
    assert all(o.computed[1] == o.computed[2] for o in pooled.outcomes)
    assert [o.computed[0] for o in pooled.outcomes] == [o.computed[0] for o in report.outcomes]
    assert all(len(set(o.computed)) == 1 for o in batch.outcomes)


@given(steps=st.integers(2, STEPS), high=st.integers(1, 3), total=st.integers(5, 40))
def test_a_number_of_steps_is_met_by_every_sample(steps: int, high: int, total: int) -> None:
    """Law: with `steps`, each sample computes so many, the first and the last among them, whatever its features do."""
    report = run(f"agreement:steps={steps},max_order={high}", World(mixed), steps=total)
    for row in range(ROWS):
        assert sum(outcome.computed[row] for outcome in report.outcomes) == min(steps, total)
        assert report.outcomes[-1].computed[row]


def test_a_given_number_of_steps_goes_where_forecasts_disagree() -> None:
    """Law: of the same number of steps, more lie where the features bend."""

    def bend(site: Site, step: float) -> torch.Tensor:
        return exponential(site, 0.0) * (1 + 0.02 * step + 3 * (step / 50) ** 7)

    report = run("agreement:steps=14", World(bend), steps=50)
    late = sum(outcome.computed[0] for outcome in report.outcomes[25:])
    assert late >= 8


def test_sensitivities_weigh_steps() -> None:
    """Law: where a disagreement weighs nothing, nothing but the end is computed; doubling all weights is halving the tolerance."""
    first = [outcome.computed for outcome in run("agreement:tolerance=0.05", World(mixed)).outcomes]
    spec = foreseer.policy(agreement, tolerance=0.1, sensitivities=(2.0, 2.0))
    assert [outcome.computed for outcome in run(spec, World(mixed)).outcomes] == first  # type: ignore[arg-type]
    spec = foreseer.policy(agreement, sensitivities=(0.0, 0.0))
    assert sum(outcome.full for outcome in run(spec, World(mixed)).outcomes) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("options", ["tolerance=0.5", "steps=9", "tolerance=0.5,decide=batch"])
def test_a_computed_step_is_waited_for_once_and_a_forecast_step_never(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: all inner products come in one transfer, whatever the rows. Reading a tensor on the host is counted; on an accelerator each would be a sync."""
    read, steps = [0], list[tuple[bool, int]]()

    class Host(World):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            done = super().forward(*args, **kwargs)
            read[0] = 0  # what the host reads is its own
            return done

    class Counts:
        @hookimpl
        def on_step(self, outcome: foreseer.Outcome) -> None:
            steps.append((any(outcome.computed), read[0]))

    def counting(original: Any) -> Any:
        def counted(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            read[0] += 1
            return original(self, *args, **kwargs)

        return counted

    for name in ("tolist", "item", "cpu", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    monkeypatch.setattr("foreseer.trial.broken_rows", lambda tensor: set())  # what is looked at on a CPU alone
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: output, "observers": (Counts(),)}
    sample(Host(exponential), None, list(range(STEPS)), policy=f"agreement:{options}", **given)
    assert {computed for computed, _ in steps} == {True, False}
    assert all(reads == (1 if computed else 0) for computed, reads in steps)


def test_no_forecast_step_looks_at_anything() -> None:
    report = run("agreement:tolerance=0.1", World(exponential))
    assert all(outcome.plan.probe is None for outcome in report.outcomes)
    assert all(outcome.block_rows == DEPTH * sum(outcome.computed) for outcome in report.outcomes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_order": 1, "low_order": 1}, "not above"),
        ({"steps": 1}, "steps"),
        ({"sensitivities": (1.0,)}, "at least two"),
        ({"sensitivities": (1.0, -1.0)}, ">= 0"),
        ({"tolerance": -0.1}, "tolerance"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        agreement(**options)
