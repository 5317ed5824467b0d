"""The policy `planned`: it computes what was planned, and refuses runs that the plan is not for; alone and under a gate."""

import hashlib
import json
import math

import attrs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError, Site
from foreseer.adapters import ArrayBackbone
from foreseer.document import plain
from foreseer.policies import planned
from foreseer.policies._planned import GatedSchedule, read_gate
from foreseer.policies.timetable import timetable_from
from foreseer.schedule_plan import Budget, SchedulePlan, stretched
from foreseer.signature import Signature

DENSE = "0+1+3+5+8+11/14"


def plan_of(*schedules, num_steps=10, **signature):
    budgets = {len(steps): Budget(steps=steps, error=1.0 / len(steps)) for steps in schedules}
    return SchedulePlan(signature=Signature(num_steps=num_steps, **signature), budgets=budgets, chosen=len(schedules[0]))


def run(policy, num_steps=10, depth=3, known=True, **of_run):
    """Lines in three rows; returns the report."""
    rows = np.arange(1.0, 4.0)[:, None]
    host = ArrayBackbone(lambda site, t: np.broadcast_to(rows + t, (3, 4)).copy(), depth=depth, parts=("attn", "mlp"))
    shape = foreseer.Run(depth=depth, rows=3, groups=(0, 1, 2), num_steps=num_steps if known else None, sites=host.sites, **of_run)
    session = foreseer.Session(host, foreseer.registry.parse_policy(policy) if isinstance(policy, str) else policy, shape)
    for index in range(num_steps):
        session.evaluate(index)
    return session.finish()


def computed(report):
    return tuple(np.flatnonzero(report.computed.all(axis=1)))


@st.composite
def schedules(draw, longest=30):
    length = draw(st.integers(1, longest))
    later = draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
    return (0, *sorted(later)), length


@given(schedules(), st.sampled_from(["last_block", "modules", "output"]))
def test_it_computes_the_planned_steps_and_no_others(case, target):
    steps, length = case
    report = run(foreseer.policy("planned", schedule=plan_of(steps, num_steps=length), target=target), num_steps=length)
    assert computed(report) == steps
    assert not [sentence for sentence in report.warnings if "planned" in sentence or "schedule" in sentence.partition("(")[0]]


@given(schedules(), st.integers(1, 40))
@example(((0, 8, 9), 10), 3)
@example(((0, 1), 2), 10)
def test_stretching_keeps_the_first_step_and_the_count(case, after):
    steps, before = case
    found = stretched(steps, before, after)
    assert found[0] == 0
    assert len(found) == min(len(steps), after)
    assert list(found) == sorted(set(found))
    assert found[-1] < after
    assert stretched(steps, before, before) == steps
    if steps[-1] == before - 1 and len(steps) > 1 and after > 1:
        assert found[-1] == after - 1


def test_a_stretched_plan_says_so():
    report = run(f"planned:schedule={DENSE},interpolate=True", num_steps=28)
    assert computed(report) == stretched((0, 1, 3, 5, 8, 11), 14, 28)
    assert any("14 steps and is stretched to 28" in sentence for sentence in report.warnings)


def test_a_list_is_a_schedule_too(tmp_path):
    assert computed(run("planned:schedule=0+1+4+7")) == (0, 1, 4, 7)
    assert computed(run("planned:schedule=[0,1,4,7]")) == (0, 1, 4, 7)
    assert computed(run("planned:schedule=0/10")) == (0,)
    path = plan_of((0, 3, 6), (0, 5)).save(tmp_path / "plan.json")
    assert computed(run(f"planned:schedule={path}")) == (0, 3, 6)
    assert computed(run(f"planned:schedule={path},budget=2")) == (0, 5)


def test_without_a_schedule_everything_is_computed_and_the_report_says_so():
    report = run("planned")
    assert len(computed(report)) == 10
    assert any("no schedule" in sentence for sentence in report.warnings)


def test_a_run_of_unknown_length_is_refused():
    with pytest.raises(OptionError, match="num_steps"):
        run("planned:schedule=0+1+4+7", known=False)


@pytest.mark.parametrize("options", ["schedule=0+-1", "schedule=missing.json", "schedule=0+4,gate=taylorseer", "schedule=0+4,gate=cg_taylor,target=modules"])
def test_what_is_no_schedule_is_refused_where_it_is_named(options):
    with pytest.raises(OptionError, match=r"write|leave it out"):
        foreseer.registry.parse_policy(f"planned:{options}")


def test_a_plan_for_another_model_or_scheduler_is_refused_with_what_differs():
    plan = plan_of((0, 4), model="A-1", scheduler="S-1")
    assert computed(run(foreseer.policy("planned", schedule=plan), model="A-1", scheduler="S-1")) == (0, 4)
    for other, words in (({"model": "B-2"}, "model A-1 before, B-2 now"), ({"scheduler": "S-2"}, "scheduler S-1 before, S-2 now")):
        with pytest.raises(OptionError, match=words):
            run(foreseer.policy("planned", schedule=plan), **other)
        assert computed(run(foreseer.policy("planned", schedule=plan, any_model=True), **other)) == (0, 4)
    with pytest.raises(OptionError, match=r"10 steps before, 12 now.*interpolate=True"):
        run(foreseer.policy("planned", schedule=plan), num_steps=12)
    with pytest.raises(OptionError, match="10 steps before, 12 now"):
        run(foreseer.policy("planned", schedule=plan, any_model=True), num_steps=12)


def test_a_gate_of_block_outputs_runs_under_a_plan_for_modules_and_the_report_says_so():
    plan = attrs.evolve(plan_of((0, 1, 4, 7)), target="modules")
    report = run(foreseer.policy("planned", schedule=plan, gate="cg_taylor:threshold=1000000"))
    assert {0, 1, 4, 7} <= set(computed(report)) < set(range(10))
    assert any("does not forecast the plan's modules; the last block is forecast" in sentence for sentence in report.warnings)
    assert not run(foreseer.policy("planned", schedule=plan, gate="speca:threshold=9")).warnings
    with pytest.raises(OptionError, match="target='modules' is out of range"):
        foreseer.policy("planned", schedule=plan, gate="cg_taylor:threshold=1000000", target="modules")()


def test_to_interpolate_is_no_leave_to_use_other_timesteps():
    """Law: with as many steps as planned nothing is stretched, and timesteps count."""
    plan = plan_of((0, 4), timesteps=tuple(range(10, 0, -1)))
    spec = foreseer.policy("planned", schedule=plan, interpolate=True)
    assert computed(run(spec, timesteps=tuple(map(float, range(10, 0, -1))))) == (0, 4)
    with pytest.raises(OptionError, match=r"timesteps that differ.*or write any_model=True\n"):
        run(spec, timesteps=tuple(float(t) ** 2 for t in range(10, 0, -1)))


def test_another_predictor_than_the_plans_is_told():
    plan = plan_of((0, 4))
    assert any("taylor of order 2" in s for s in run(foreseer.policy("planned", schedule=plan, max_order=2)).warnings)
    assert not run(foreseer.policy("planned", schedule=plan, max_order=1)).warnings


def test_a_gate_computes_the_schedule_and_what_it_rejects():
    strict = run("planned:schedule=0+1+4+7,gate=(cg_taylor:threshold=0)")
    assert len(computed(strict)) == 10
    loose = run("planned:schedule=0+1+4+7,gate=(cg_taylor:threshold=1e9)")
    assert computed(loose) == (0, 1, 4, 7, 9), "cg_taylor computes the last step"
    assert computed(run("planned:schedule=0+1+4+7,gate=(speca:threshold=1e9)")) == (0, 1, 4, 7)
    assert [(o.accept, o.reason) for o in loose.outcomes if o.step.index == 4] == [(None, "scheduled")]
    none = run("planned:gate=(cg_taylor:threshold=1e9)")
    assert none.reasons == ["computed"] * 10


@pytest.mark.parametrize(
    ("options", "order"),
    [({}, 3), ({"max_order": 2}, 2), ({"predictor": "taylor:max_order=4"}, 4), ({"predictor": "taylor:max_order=4", "max_order": 2}, 4),
     ({"predictor": "taylor", "max_order": 2}, 2), ({"predictor": "taylor"}, 1)],
)  # fmt: skip
@pytest.mark.parametrize("gate", [None, "speca", "cg_taylor"])
def test_whose_order_is_taken(options, order, gate):
    """Law: of a predictor that is asked for its own; else the option; else the plan's; else 1. Under a gate as well."""
    plan = attrs.evolve(plan_of((0, 4)), predictor="taylor:max_order=3")
    schedule, *others = planned(schedule=plan, gate=gate, **options)
    (predictor,) = (part for part in others if hasattr(part, "predict_features"))
    last = predictor.pairs[-1][1] if gate == "cg_taylor" else predictor
    assert last.max_order == order
    assert any("the plan was made for taylor:max_order=3" in note for note in schedule.timetable.notes) == (order != 3)


def test_of_a_list_lines_are_forecast():
    assert planned(schedule="0+4")[1].max_order == 1


def test_a_gate_is_given_a_warm_up_of_one_and_no_limit_unless_it_says_otherwise():
    gate = planned(schedule="0+4", gate="speca:threshold=0.3")[0].gate
    assert (gate.warmup_steps, gate.max_draft_steps, gate.target, gate.threshold) == (1, None, "last_block", 0.3)
    gate = planned(schedule="0+4", gate="speca:warmup_steps=2,max_draft_steps=3", target="modules")[0].gate
    assert (gate.warmup_steps, gate.max_draft_steps, gate.target) == (2, 3, "modules")


def test_a_gate_counts_scheduled_steps_and_knows_its_options():
    assert computed(run("planned:schedule=0+4,gate=(speca:threshold=9,max_draft_steps=2)", num_steps=8)) == (0, 3, 4, 7)
    with pytest.raises(OptionError, match="nonsense"):
        planned(schedule="0+4", gate="speca:nonsense=1")


@pytest.mark.parametrize("gate", [None, "speca"])
def test_how_many_steps_are_forecast_in_a_row_is_known_once_the_run_is(gate):
    schedule = planned(schedule="0+4/10", interpolate=True, gate=gate)[0]
    assert schedule.max_draft_steps is None
    schedule.setup(foreseer.Run(depth=2, rows=1, groups=(0,), num_steps=20, sites=(Site(0), Site(1))))
    assert schedule.max_draft_steps == 11
    assert planned(schedule="0+4", gate=gate)[0].max_draft_steps == 3


class PlansAlone:
    @foreseer.hookimpl
    def before_step(self):
        return None


def test_what_a_gate_does_not_say_is_not_claimed_for_it():
    schedule = GatedSchedule(timetable_from("0+4", None, interpolate=False, any_model=False), PlansAlone())
    assert (schedule.verified, schedule.decide, schedule.max_draft_steps) == (False, "row", 3)
    for spec, verified, decide in (("speca", True, "row"), ("speca:min_draft_steps=1,decide=batch", False, "batch")):
        schedule = planned(schedule="0+4", gate=spec)[0]
        assert (schedule.verified, schedule.decide) == (verified, decide)


def test_a_gate_is_read_once():
    read = read_gate("speca:threshold=0.3")
    assert (read, read.value) == ("speca:threshold=0.3", ("speca", foreseer.policies.speca, {"threshold": 0.3}))
    assert read_gate(read) is read
    assert read_gate(None) is None


def test_a_plan_survives_its_file(tmp_path):
    plan = plan_of((0, 3, 6), (0, 5), model="A-1", guidance=1.5, timesteps=tuple(range(10, 0, -1)))
    plan = attrs.evolve(plan, budgets={**plan.budgets, 1: Budget(steps=(0,), error=2.0, psnr=12.5, uniform=2.0)}, note="n", objective="sum, mean")
    again = SchedulePlan.load(plan.save(tmp_path / "plan.json"))
    assert plain(again) == plain(plan)
    assert again.budget(1) == plan.budget(1)
    assert again.cheapest(1.0) == 2


def test_a_damaged_or_foreign_file_is_refused_with_what_differs(tmp_path):
    path = plan_of((0, 3, 6)).save(tmp_path / "plan.json")
    whole = path.read_text()
    for text, words in (
        (whole[:-40], "is not JSON"),
        (whole.replace('"chosen": 3', '"chosen": 2'), "was changed since"),
        (whole.replace("plan 1", "plan 9"), "says it is 'foreseer plan 9'"),
        ("{}", "says it is 'nothing'"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=words):
            SchedulePlan.load(path)


def test_a_plan_of_an_earlier_version_is_read(tmp_path):
    """Law: it had a level more, and the PSNR of what changes nothing was infinite, and so not known."""
    values = {"signature": {"num_steps": 2}, "target": "output", "chosen": 1}
    values["budgets"] = {
        "1": {"steps": [0], "error": 0.5, "psnr": 20.5, "uniform": None},
        "2": {"steps": [0, 1], "error": 0.0, "psnr": None, "uniform": 0.0},
    }
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    whole = {"format": "foreseer plan 1", "sha256": seal, "plan": values}
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    plan = SchedulePlan.load(tmp_path / "plan.json")
    assert (plan.num_steps, plan.target, plan.chosen, set(plan.budgets)) == (2, "output", 1, {1, 2})
    assert (plan.budget(1).psnr, plan.budget(2).psnr) == (20.5, 100.0)
    assert math.isnan(plan.budget(1).uniform)
    assert plan.budget(2).uniform == 0.0


def test_budgets_are_asked_for_by_number_or_by_error():
    plan = plan_of((0, 3, 6), (0, 5), (0, 2, 4, 6))
    with pytest.raises(OptionError, match=r"2 to 4; write budget=4"):
        plan.budget(7)
    assert [plan.cheapest(error) for error in (1.0, 0.5, 1 / 3, 0.3)] == [2, 2, 3, 4]
    assert plan_of((0, 1), num_steps=2).cheapest(0.5) == 2
    with pytest.raises(OptionError, match=r"target_error=0.1 is below what this plan reaches, 0.25"):
        plan.cheapest(0.1)
    with pytest.raises(OptionError, match=r"target_error=0 is below"):
        plan.cheapest(0.0)
    for error in (-0.5, float("inf"), float("nan")):
        with pytest.raises(OptionError, match="is out of range"):
            plan.cheapest(error)


@pytest.mark.parametrize("steps", [(), (1, 2), (0, 2, 2), (0, 2, 1)])
def test_a_budget_is_a_schedule(steps):
    with pytest.raises(OptionError, match="is no schedule"):
        Budget(steps=steps, error=0.0)


def test_a_budget_without_error_is_as_good_as_can_be_counted_unless_it_says_otherwise():
    assert Budget(steps=(0,), error=0.0).psnr == 100.0
    assert Budget(steps=(0,), error=0.0, psnr=90.0).psnr == 90.0
    assert Budget(steps=(0,), error=0.1).psnr is None


def test_a_plan_holds_schedules_of_its_length_under_their_numbers():
    assert plan_of((0, 9)).budget().steps == (0, 9)
    with pytest.raises(OptionError, match="budget 2 of a plan for 9 steps"):
        plan_of((0, 9), num_steps=9)
    with pytest.raises(OptionError, match="budget 3 of a plan for 10 steps"):
        SchedulePlan(signature=Signature(num_steps=10), budgets={3: Budget(steps=(0, 1), error=0.0)}, chosen=3)
    with pytest.raises(OptionError, match="budget=1 is not in this plan, which is empty; plan again"):
        SchedulePlan(signature=Signature(num_steps=10), budgets={}, chosen=1)
    with pytest.raises(OptionError, match="target='all' is unknown; write one of modules, last_block, "):
        attrs.evolve(plan_of((0, 9)), target="all")
