"""The headroom of a comparison: lanes planned on the compared samples compute what was planned, and stand in the table as what they are."""

from __future__ import annotations

import functools
import html
import math
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import foreseer
from foreseer import OptionError, PolicySpec
from foreseer.__main__ import app
from foreseer.adapters import ArrayBackbone
from foreseer.bench.compared import CompareSettings
from foreseer.bench.comparison import run_comparison as compare
from foreseer.bench.families import DiTFamily
from foreseer.bench.workload import HERE
from foreseer.policies import taylor
from foreseer.policies.drafting import Whole
from foreseer.signature import Signature
from foreseer.types import Site
from foreseer.workbench.headroom import EachItsOwn, headroom, headroom_lanes
from foreseer.workbench.trace import Trace
from foreseer.zoo.dit import CONFIG, build


@pytest.fixture(scope="module", autouse=True)
def tiny_model() -> Any:
    """A random model in place of the trained one."""
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}).eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HERE, "dit", lambda device, dtype: DiTFamily(model=model))
        yield model


def trace_of(samples: int, steps: int) -> Trace:
    time = np.linspace(0, 1, steps)
    features = np.stack([np.sin((2 + s) * time[:, None] ** 2 + np.arange(6)) for s in range(samples)])
    return Trace(
        signature=Signature(num_steps=steps),
        depth=2,
        labels=tuple(map(str, range(samples))),
        grams={("", Site(1)): np.einsum("sid,sjd->sij", features, features)},
        target=Site(1),
        sensitivity=np.ones((samples, steps)),
        measured=tuple(range(steps)),
        final_norm=np.ones(samples),
        final_size=6,
    )


def test_each_sample_computes_its_own_schedule() -> None:
    """Rows r and r + 2 are one sample."""
    schedules = (frozenset({0, 1, 4}), frozenset({0, 3}))
    host = ArrayBackbone(lambda site, k: np.full((4, 3), float(k)), depth=2)
    run = foreseer.Run(depth=2, rows=4, groups=(0, 1, 0, 1), num_steps=6, sites=host.sites)
    session = foreseer.Session(host, PolicySpec("own", lambda: (EachItsOwn(schedules), taylor(max_order=1))), run)
    for k in range(6):
        session.evaluate(k)
    computed = session.report.computed
    for row, group in enumerate(run.groups):
        assert set(np.flatnonzero(computed[:, row])) == schedules[group]


def test_schedules_for_another_number_of_samples_are_refused() -> None:
    host = ArrayBackbone(lambda site, k: np.zeros((4, 3)), depth=2)
    run = foreseer.Run(depth=2, rows=4, groups=(0, 1, 0, 1), num_steps=6, sites=host.sites)
    with pytest.raises(OptionError, match="schedules for 1 samples and the run has 2"):
        foreseer.Session(host, PolicySpec("own", lambda: (EachItsOwn((frozenset({0}),)), taylor(max_order=1))), run)


def test_lanes_are_planned_for_each_number_of_steps() -> None:
    lanes = headroom_lanes(trace_of(3, 12), [4, 6])
    assert [lane.name for lane in lanes] == [
        "best static (4 steps)",
        "best per sample, hindsight (4 steps)",
        "best static (6 steps)",
        "best per sample, hindsight (6 steps)",
    ]
    assert [lane.kind for lane in lanes] == ["static", "hindsight"] * 2


def test_samples_that_share_a_class_have_a_lane_of_its_schedule() -> None:
    """Law: a class's samples compute the same steps; where every sample is a class of its own there is no such lane."""
    trace = attrs.evolve(trace_of(4, 12), labels=("a", "b", "a", "b"))
    lanes = headroom_lanes(trace, [4])
    assert [lane.name for lane in lanes] == [f"best {what} (4 steps)" for what in ("static", "per class, hindsight", "per sample, hindsight")]
    plugin = lanes[1].of(range(4))()[0]
    assert plugin.schedules[0] == plugin.schedules[2]
    assert plugin.schedules[1] == plugin.schedules[3]
    assert {len(schedule) for schedule in plugin.schedules} == {4}


def test_a_comparison_that_is_interrupted_in_its_headroom_keeps_what_was_compared(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: page and table are written, and the recording goes on where it was."""
    from foreseer.workbench.taking import Taking

    settings = CompareSettings(policies=("taylorseer:interval=3",), samples=3, batch=2, steps=8, out=tmp_path)
    forecast, calls = Taking.forecast, []

    def stop(self: Any, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forecast(self, *args)

    monkeypatch.setattr(Taking, "forecast", stop)
    found = compare(settings, show=False, afterwards=headroom)
    assert found.interrupted
    assert {row.lane.kind for row in found.rows} == {"full", "policy", "fewer"}
    assert (tmp_path / "index.html").exists()
    whole = compare(settings, show=False, afterwards=headroom)
    assert not whole.interrupted
    assert {"static", "hindsight"} <= {row.lane.kind for row in whole.rows}
    in_all = 2 * 7  # two batches, of which each step but the first is measured
    assert len(calls) == in_all + 1, "only the one that was interrupted was measured twice"


@pytest.mark.parametrize("target", ["last_block", "residual"])
def test_a_comparison_with_headroom_has_both_rows_at_the_policys_cost(target: Whole, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CompareSettings(policies=("taylorseer:interval=3",), samples=3, batch=2, steps=8, out=tmp_path)
    found = compare(settings, show=False, afterwards=functools.partial(headroom, target=target))
    assert Trace.load(tmp_path / "headroom.safetensors").sites == (Site(1, since=-1 if target == "residual" else None),)
    policy = found.row("taylorseer:interval=3")
    count = round(policy.steps)
    rows = [row for row in found.rows if row.lane.kind in ("static", "hindsight")]
    assert [row.lane.kind for row in rows] == ["static", "hindsight"]
    for row in rows:
        assert f"({count} steps)" in row.lane.name
        assert set(row.lane.steps) == {count}
        assert not math.isnan(row.gain)
    page = (tmp_path / "index.html").read_text()
    assert all(row.lane.name in html.unescape(page.replace("<wbr>", "")) for row in rows)
    assert "They bound schedules of that predictor" in page


def test_a_target_that_is_none_is_told_before_anything_is_loaded() -> None:
    done = CliRunner().invoke(app, ["compare", "--headroom", "--headroom-target", "attic"], env={"COLUMNS": "160"})
    assert done.exit_code == 2
    assert "headroom_target='attic' is unknown; write one of last_block, residual, residual_after_first, output" in done.stderr
