"""Laws of which steps the built-in policies compute, said once more in a line each, on features that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.policies import Interval


def run(policy: str, feature: Any, *, steps: int, depth: int = 3, rows: int = 2) -> tuple[list[float], foreseer.Report]:
    """The first row's output at each step, and the report."""
    host, outputs = ArrayBackbone(lambda site, t: np.full((rows, 2), feature(t)), depth=depth), list[float]()
    how: Any = {"inputs": lambda x, t: t, "update": lambda x, output, index: outputs.append(float(output[0, 0]))}
    _, report = foreseer.sample(host, None, range(steps), policy=policy, **how)
    return outputs, report


def at_intervals(steps: int, interval: int, warmup: int) -> list[int]:
    found = list(range(min(warmup, steps)))
    while found and found[-1] + interval < steps:
        found.append(found[-1] + interval)
    return found


@given(steps=st.integers(1, 24), interval=st.integers(1, 7), warmup=st.integers(1, 5))
def test_taylorseer_and_reuse_compute_at_an_interval(steps: int, interval: int, warmup: int) -> None:
    """Law: the first W steps, then every N-th; reuse repeats the last computed feature, a line is forecast exactly."""
    computed = at_intervals(steps, interval, warmup)
    outputs, report = run(f"reuse:interval={interval},warmup_steps={warmup}", lambda t: 3.0 + t, steps=steps)
    assert report.full_steps == computed
    assert outputs == [3.0 + max(c for c in computed if c <= step) for step in range(steps)]
    assert set(report.reasons[warmup:]) <= {f"interval of {interval}", "forecast"}
    outputs, report = run(f"taylorseer:interval={interval},warmup_steps={warmup},max_order=1", lambda t: 3.0 + t, steps=steps)
    assert report.full_steps == computed
    exact = [step for step in range(steps) if step in computed or sum(c < step for c in computed) > max(warmup, 2)]
    assert [outputs[step] for step in exact] == pytest.approx([3.0 + step for step in exact])
    assert Interval(interval=interval, warmup_steps=warmup, target="last_block").max_draft_steps == interval - 1


@given(steps=st.integers(2, 14), warmup=st.integers(1, 5), depth=st.integers(1, 3))
def test_cg_taylor_computes_its_warm_up_and_the_last_step(steps: int, warmup: int, depth: int) -> None:
    """Law: of features that stay, nothing else; of one block it says that judging costs a step."""
    _, report = run(f"cg_taylor:threshold=0.1,warmup_steps={warmup}", lambda t: 2.0, steps=steps, depth=depth)
    assert report.full_steps == sorted({*range(min(warmup, steps)), steps - 1})
    reasons = ["warm-up"] * min(warmup, steps) + ["last step"] * (warmup < steps)
    assert [report.reasons[step] for step in report.full_steps] == reasons
    assert any("has one block" in warning for warning in report.warnings) == (depth == 1)


def test_cg_taylor_accepts_below_its_threshold_and_not_at_it() -> None:
    """Law: strictly, by block 0, alike for a batch; what is refused is computed."""
    jumps = lambda t: 1.0 if t < 6 else 2.0  # noqa: E731
    for threshold, computed in ((0.5, [0, 1, 2, 6, 11]), (0.51, [0, 1, 2, 11])):
        for decide in ("row", "batch"):
            spec = f"cg_taylor:threshold={threshold},warmup_steps=3,first_order=0,last_order=0,decide={decide}"
            _, report = run(spec, jumps, steps=12)
            assert report.full_steps == computed
            assert len({tuple(o.computed) for o in report.outcomes if o.step.index == 6}) == 1


@pytest.mark.parametrize("policy", ["cg_taylor", "speca", "speca_released"])
def test_a_policy_that_must_know_the_last_step_refuses_a_run_without_end(policy: str) -> None:
    host = ArrayBackbone(lambda site, t: np.zeros((1, 2)), depth=2)
    shape = foreseer.Run(depth=2, rows=1, groups=(0,), sites=host.sites)
    with pytest.raises(foreseer.OptionError, match=r"give the run timesteps= or num_steps="):
        foreseer.Session(host, foreseer.policy(policy), shape)
