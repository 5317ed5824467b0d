"""Laws of what a comparison says in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_family import STEPS, ToyFamily

from foreseer.bench import compare
from foreseer.bench.compare_words import aim, usual_policies
from foreseer.bench.target import Target
from foreseer.registry import parse_policy

POLICIES = ["none", "reuse:interval=2,target=last_block", "reuse:interval=5,target=last_block"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (None, None),
        (Target("speedup", 1.9), "For 1.9x by block-rows: reuse:interval=2"),
        (Target("steps_computed", 2), "For 2 computed steps: reuse:interval=5"),
        (Target("psnr", 1.0), "For 1 dB: reuse:interval=5"),
        (Target("psnr", 99.0), "Nothing here that saves steps reaches 99 dB; nearest is "),
        (Target("speedup", 7), "Nothing here that saves steps reaches 7x by block-rows; nearest is "),
        (Target("time", 1e3), "For 1000 s a sample: reuse:interval=2"),
        (Target("front"), "Not beaten in cost and PSNR: reuse:interval=2"),
    ],
    ids=str,
)
def test_a_target_names_the_policy_that_reaches_it_best(target: Target | None, said: str | None, tmp_path: Path) -> None:
    """Law: of those that reach it the closest, or the cheapest; else the nearest is named."""
    found = compare(ToyFamily(), policies=POLICIES, target=target, samples=2, batch=2, out=tmp_path, show=False)
    assert len(found.rows) > 3
    sentences = aim(found)
    assert len(sentences) == (said is not None)
    if said is not None:
        assert sentences[0].startswith(said)
        assert said.partition(":")[0] in found.page.read_text()
    assert "foreseer" in found._repr_html_() or POLICIES[1] in found._repr_html_()


@given(num_steps=st.integers(1, 100), wanted=st.integers(1, 100))
def test_what_is_compared_towards_a_number_of_steps_costs_no_more(num_steps: int, wanted: int) -> None:
    """Law: the usual policies are there, and computed as even schedules they stay at that number, if it leaves room for a warm-up."""
    names = usual_policies(Target("steps_computed", wanted), num_steps)
    schedules = [parse_policy(name) for name in names]
    assert schedules
    for spec in schedules:
        if spec.name == "agreement":
            assert spec.options["steps"] <= num_steps
            continue
        if spec.name == "planned":
            assert len(spec.options["schedule"].partition("/")[0].split("+")) == wanted
            continue
        first, interval = spec.options.get("warmup_steps", 1), spec.options["interval"]
        computed = first + -(-(num_steps - first) // interval) if spec.name != "reuse" else -(-num_steps // interval)
        assert computed <= wanted
    assert STEPS == 10
