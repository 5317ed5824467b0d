"""The laws of decisions that are forced to published rates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.bench.gpu.lanes import FORCED, OF, forced, lane_of
from foreseer.bench.gpu.shapes import SCALES
from foreseer.errors import OptionError
from foreseer.registry import PolicySpec
from foreseer.types import Run


@given(computed=st.integers(0, OF), policy=st.sampled_from(["cg_taylor:warmup_steps=1", "speca:warmup_steps=1,max_draft_steps=None"]), rows=st.integers(1, 3))
@settings(max_examples=25)
def test_forced_acceptance_is_the_asked_rate(computed: int, policy: str, rows: int) -> None:
    """Law: a run of ``of`` steps computes ``computed``, unless the gate's own steps (the first, CG-Taylor's last) are more. The evidence is real."""
    host = ArrayBackbone(lambda site, step: np.full((rows, 4), 2.0 + math.sin(step + site.block)), depth=3)
    run = Run(3, rows, tuple(range(rows)), OF, None, None, host.sites)
    session = foreseer.Session(host, PolicySpec("forced", forced, {"policy": policy, "computed": computed, "of": OF}), run)
    for step in range(OF):
        session.evaluate(step)
    own = 2 if policy.startswith("cg") else 1
    report = session.report
    assert len(report.full_steps) == max(computed, own)
    assert report.judged.sum() == OF - own
    assert (report.error[report.judged] > 0).any()


@pytest.mark.parametrize("name", ["cg_taylor", "speca"])
@pytest.mark.parametrize("model", list(SCALES["tiny"]))
def test_published_rates_are_reached_in_fifty_steps(name: str, model: str) -> None:
    """Law: no gate's own steps are more than the published rate lets it compute."""
    lane = lane_of(name, model)
    if lane is None:
        assert model not in FORCED[name]
        return
    host = ArrayBackbone(lambda site, step: np.full((1, 4), 1.0 + step), depth=3)
    session = foreseer.Session(host, lane.spec, Run(3, 1, (0,), OF, None, None, host.sites))
    for step in range(OF):
        session.evaluate(step)
    assert len(session.report.full_steps) == lane.spec.options["computed"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "speca", "computed": 3, "of": 2}, "computed=3 is out of range; write a whole number from 0 to of=2"),
        ({"policy": "speca", "computed": -1, "of": 2}, "computed=-1 is out of range"),
        ({"policy": "taylorseer", "computed": 1, "of": 2}, "judges nothing"),
    ],
)
def test_rates_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    """Law: as above."""
    with pytest.raises(OptionError, match=says):
        PolicySpec("forced", forced, options)
