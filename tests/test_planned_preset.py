"""A plan as a preset: it needs no other file, says what it was measured on, and is refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

import foreseer
from foreseer.bench.workload import Workload, load_workload
from foreseer.errors import OptionError
from foreseer.presets import Preset
from foreseer.schedule_plan import SchedulePlan, Target
from foreseer.types import Site
from foreseer.workbench import Signature, Trace
from foreseer.workbench.planned_preset import planned_preset
from foreseer.workbench.planner import plan

STEPS = 5


def a_plan(target: Target = "modules", **signature: str) -> SchedulePlan:
    time = np.linspace(0, 1, STEPS)
    features = np.stack([np.sin(3 * time[:, None] ** 2 + np.arange(8) + sample) for sample in range(2)])
    grams = {("", site): np.einsum("sid,sjd->sij", features, features) for site in (Site(0), Site(0, since=-1))}
    trace = Trace(signature=Signature(num_steps=STEPS, **signature), depth=1, labels=("0", "1"), grams=grams, target=Site(0))
    return plan(trace, budget=3, target=target)


@pytest.fixture(scope="module")
def flux() -> Workload:
    return load_workload("flux", device="cpu", dtype="float32")


@pytest.mark.parametrize("target", ["modules", "residual"])
def test_it_runs_what_was_planned_and_was_measured_on_other_samples_too(target: Target, flux: Workload, tmp_path: Path) -> None:
    found = a_plan(target)
    preset = Preset.load(planned_preset(found, flux, name="flux_test", samples=1).save(tmp_path / "flux_test.json"))
    assert preset.held_out is not None
    assert (preset.tuned.seed, preset.held_out.seed) == (0, 1)
    assert preset.held_out.steps_computed == preset.tuned.steps_computed == 3
    assert preset.tuned.block_rows_ratio == pytest.approx(3 / STEPS)
    assert str(foreseer.policy(preset)) == preset.policy
    with foreseer.attach(flux.pipeline, preset) as attached:
        flux.draw([0], seed=3, num_steps=STEPS, guidance=3.5)
    assert tuple(attached.report.full_steps) == found.budget().steps
    assert {site.since for site in attached.report.bytes_held} == {-1 if target == "residual" else None}


def test_a_plan_of_another_model_makes_no_preset(flux: Workload) -> None:
    with pytest.raises(OptionError, match="another model: model Other-123"):
        planned_preset(a_plan(model="Other-123"), flux, name="no", samples=1)


def test_the_samples_that_are_held_out_are_not_those_of_the_trace(flux: Workload) -> None:
    """Law: whatever seed was recorded, and no more samples count as recorded than were."""
    for recorded, held_out in ((7, 1), (1, 2)):
        preset = planned_preset(attrs.evolve(a_plan(), seed=recorded, samples=1), flux, name="p", samples=2)
        assert preset.held_out is not None
        assert (preset.tuned.seed, preset.held_out.seed) == (recorded, held_out)
        assert preset.tuned.samples == 1
