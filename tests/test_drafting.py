"""Laws of the parts that schedules and gates share: which sites a draft forecasts, and how long each row was drafted."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foreseer import OUTPUT, Outcome, Plan, Run, Site, Step
from foreseer.policies import DraftCounter, draft_needs

BLOCKS = tuple(Site(block) for block in range(4))
PARTS = tuple(Site(block, part) for block in range(4) for part in ("attn", "mlp"))


def run(*sites: Site) -> Run:
    return Run(depth=4, rows=1, groups=(0,), num_steps=9, sites=sites)


@pytest.mark.parametrize(
    ("target", "verify", "sites", "found"),
    [
        ("output", None, BLOCKS, (OUTPUT,)),
        ("last_block", None, (*PARTS, *BLOCKS), (Site(3),)),
        ("last_block", 0, BLOCKS, (Site(0), Site(3))),
        ("last_block", 2, BLOCKS, (Site(1), Site(2), Site(3))),
        ("modules", None, (*PARTS, *BLOCKS), PARTS),
        ("modules", 3, (*PARTS, *BLOCKS), PARTS),
        ("modules", 3, BLOCKS, (Site(2), Site(3))),
    ],
)
def test_a_draft_forecasts_what_is_asked_for(target, verify, sites, found) -> None:
    """Law: the sites of the target, and the blocks around one that is verified; a note where the model has no parts."""
    needs = draft_needs(run(*sites), target, verify_block=verify)
    assert needs.sites == found
    assert bool(needs.notes) == (target == "modules" and not set(PARTS) & set(sites))


@example([], 1)
@given(st.lists(st.tuples(st.integers(1, 3), st.tuples(st.booleans(), st.booleans())), max_size=12), st.integers(0, 6))
def test_rows_are_counted_in_steps_since_they_were_computed(steps: list[tuple[int, tuple[bool, bool]]], most: int) -> None:
    """Law: exhausted is who was not computed in that many steps before; steps in which the stream was not called count."""
    counter, index, last = DraftCounter(2), -1, [-1, -1]
    for gap, computed in steps:
        index += gap
        nothing = (math.nan,) * 2
        counter.commit(Outcome(Step(index), Plan(), computed, nothing, None, math.nan, 0, 0.0, ""))
        last = [index if c else was for c, was in zip(computed, last, strict=True)]
    assert counter.exhausted(most) == tuple(index + 1 - was > most for was in last)
    assert counter.exhausted(most, Step(index + 4)) == tuple(index + 4 - was > most for was in last)
