"""Laws of streams that pause: a forecast reaches no further back than its policy says, and what comes back, or begins late, warms up."""

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import Run, Session, Site
from foreseer.adapters import ArrayBackbone
from foreseer.registry import parse_policy

STEPS, ROWS, DEPTH = 30, 3, 4
PAUSE = 4
"""Steps of absence that policies without a limit bridge."""
REACH = {
    "reuse:interval=2,target=output": 1,
    "reuse:interval=3": 2,
    "taylorseer:interval=3,target=last_block": 2,
    "taylorseer:interval=4,max_order=1": 3,
    "taylorseer:interval=6,warmup_steps=5,max_order=2": 5,
    "cg_taylor:threshold=100": None,
    "cg_taylor:threshold=0.01,warmup_steps=2": None,
    "cg_taylor:threshold=0.1,decide=batch": None,
    "speca:threshold=100,threshold_decay=1,max_draft_steps=None": None,
    "speca:threshold=0.5,max_draft_steps=2": 2,
    "speca:threshold=100,target=last_block,min_draft_steps=2": 5,
    "speca_released:threshold=100": 5,
    "planned:schedule=0+1+2+8+14+20+26/30": 5,
    "planned:schedule=0+1+4/10,interpolate=True": 16,
    "planned:schedule=0+1+5+9/10,interpolate=True,target=modules": 12,
    "planned:schedule=0+1+5+9/10,interpolate=True,gate=(cg_taylor:threshold=100)": 12,
}
"""policy -> the most steps that its forecasts may be behind, as its options say; None where they name no limit."""
PARTS = {"blocks": (), "parts": ("attn", "mlp")}


def world(parts: Sequence[str]) -> ArrayBackbone:
    """Smooth features whose speed grows with the row, so that gates part the rows."""

    def feature(site: Site, t: int) -> Any:
        speed = 0.03 * (1 + np.arange(ROWS))[:, None]
        return np.sin(speed * t + site.block + np.arange(5)) + 2.0 + len(site.part)

    return ArrayBackbone(feature, depth=DEPTH, parts=parts)


def whole(host: ArrayBackbone) -> Run:
    return Run(DEPTH, ROWS, tuple(range(ROWS)), STEPS, tuple(np.linspace(999.0, 0.0, STEPS)), None, host.sites)


def called(policy: str, parts: Sequence[str], steps: Sequence[int], *, start: int = 0) -> tuple[list[Any], list[foreseer.Outcome]]:
    """Drive a stream that is called in these steps of a run only. ``start`` makes it a run of its own from there on."""
    host = world(parts)
    session = Session(host, parse_policy(policy), whole(host).starting_at(start) if start else whole(host))
    outputs = [session.evaluate(step, index=step - start) for step in steps]
    return outputs, [attrs.evolve(o, step=attrs.evolve(o.step, index=o.step.index + start)) for o in session.finish().outcomes]


def distances(outcomes: Sequence[foreseer.Outcome]) -> list[int]:
    """Of each forecast of a row, how far behind the row's last computed step it is."""
    last = [-(10**6)] * len(outcomes[0].computed)
    found = []
    for outcome in outcomes:
        last = [outcome.step.index if computed else before for before, computed in zip(last, outcome.computed, strict=True)]
        found += [outcome.step.index - before for before in last if before != outcome.step.index]
    return found


calls = st.one_of(
    st.sets(st.integers(0, STEPS - 1), min_size=1).map(sorted),
    st.tuples(st.integers(0, 12), st.integers(1, 7)).map(lambda at: list(range(at[0], STEPS, at[1]))),
    st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda at: [step for step in range(STEPS) if step // at[0] % 2 == 0 or step > 30 - at[1]]),
)


@pytest.mark.parametrize("parts", list(PARTS))
@pytest.mark.parametrize("policy", list(REACH))
@settings(max_examples=8)
@given(steps=calls)
@example(steps=list(range(10, STEPS)))
@example(steps=[0, 1, 2, *range(20, STEPS)])
@example(steps=[0, 1, 2, 6, 9, 13, 17, 21, 25, 29])
def test_no_forecast_reaches_further_back_than_the_policy_says(policy: str, parts: str, steps: list[int]) -> None:
    """Law: distance is counted in steps of the run, in whatever steps the stream is called. Where no limit is named, no longer pause is bridged."""
    _, outcomes = called(policy, PARTS[parts], steps)
    reach = REACH[policy]
    assert [outcome.step.index for outcome in outcomes] == steps
    assert max(distances(outcomes), default=0) <= (STEPS if reach is None else reach)
    for before, outcome in itertools.pairwise(outcomes):
        if outcome.step.index - before.step.index - 1 > (PAUSE if reach is None else reach):
            assert all(outcome.computed)


@pytest.mark.parametrize("parts", list(PARTS))
@pytest.mark.parametrize("policy", list(REACH))
@settings(max_examples=8)
@given(steps=calls)
@example(steps=list(range(10, STEPS)))
@example(steps=[0, 1, 2, *range(20, STEPS)])
def test_a_stream_that_comes_back_or_begins_late_is_as_one_that_begins_then(policy: str, parts: str, steps: list[int]) -> None:
    """Law: after a pause that is longer than forecasts reach, and before a first step that is not step 0, nothing was: the policy warms up."""
    outputs, outcomes = called(policy, PARTS[parts], steps)
    reach = PAUSE if REACH[policy] is None else REACH[policy]
    assert reach is not None
    begins = [at for at, step in enumerate(steps) if (at == 0 and step > 0) or (at > 0 and step - steps[at - 1] - 1 > reach)]
    for at in begins:
        fresh, alike = called(policy, PARTS[parts], steps[at:], start=steps[at])
        assert [o.computed for o in outcomes[at:]] == [o.computed for o in alike]
        assert all(map(np.array_equal, outputs[at:], fresh))
