"""Planning: the best schedules are those of brute force, predictions are what a run does, and more steps are never worse."""

import itertools
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError
from foreseer.adapters import ArrayBackbone
from foreseer.policies import taylor_weights
from foreseer.schedule_plan import SchedulePlan
from foreseer.signature import Signature
from foreseer.types import OUTPUT, Site
from foreseer.workbench.limits import Limits
from foreseer.workbench.planner import (
    best_schedules,
    plan,
    predicted_errors,
    uniform_steps,
    until_next,
)
from foreseer.workbench.trace import Trace

LAST = Site(1)


def features_of(steps, samples=3, width=40, seed=0, rough=0.02):
    """``(S, T, width)``: smooth curves that bend at places of their own, and a little noise."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 1, steps)
    waves = [np.sin(2 * np.pi * (f * time[:, None] ** 2 + random.random(width))) * random.random(width) for f in (0.3, 1.0, 2.0)]
    return np.stack([sum(random.random() * wave for wave in waves) + rough * random.standard_normal((steps, width)) for _ in range(samples)])


def trace_of(features, *, sensitivity=None, labels=None):
    samples, steps, width = features.shape
    gram = np.einsum("sid,sjd->sij", features, features)
    return Trace(
        signature=Signature(num_steps=steps, timesteps=tuple(range(steps, 0, -1))),
        depth=2,
        labels=labels or tuple(map(str, range(samples))),
        grams={("", LAST): gram},
        target=LAST,
        sensitivity=np.full((samples, steps), 0.5) * np.linspace(1, 3, steps) if sensitivity is None else sensitivity,
        measured=tuple(range(steps)),
        final_norm=np.arange(1.0, samples + 1),
        final_size=width,
    )


def by_hand(features, trace, steps, order, objective="sum"):
    """A schedule's predicted error of each sample, from the tensors; of "gaps" and "squares" before the root."""
    total, gap = np.zeros(len(features)), np.zeros(len(features))
    for k in range(features.shape[1]):
        if k in steps:
            total, gap = total + gap**2, np.zeros(len(features))
        else:
            anchors = [a for a in reversed(steps) if a < k]
            weights = taylor_weights(tuple(map(float, anchors)), float(k), max_order=order)
            forecast = sum(w * features[:, a] for w, a in zip(weights, anchors, strict=False))
            error = np.linalg.norm(forecast - features[:, k], axis=1) * trace.sensitivity[:, k] / trace.final_norm
            gap = gap + error if objective == "gaps" else gap
            total = total + (error**2 if objective == "squares" else error if objective == "sum" else 0)
    return total + gap**2


@settings(max_examples=12)
@given(st.integers(2, 8), st.integers(0, 2), st.integers(0, 99), st.sampled_from(["gaps", "sum", "squares"]), st.integers(1, 2), st.integers(0, 1))
def test_the_best_schedule_is_that_of_brute_force(steps, order, seed, objective, first, last):
    features = features_of(steps, seed=seed)
    trace = trace_of(features)
    limits = Limits(first=first, last=min(last, steps - first))
    found = plan(trace, predictor=f"taylor:max_order={order}", objective=objective, limits=limits)
    forced = {k for k in range(steps) if k < limits.first or k >= steps - limits.last}
    best: dict[int, float] = {}
    for count in range(1, steps + 1):
        for rest in itertools.combinations(range(1, steps), count - 1):
            if forced <= {0, *rest}:
                cost = by_hand(features, trace, (0, *rest), order, objective).mean()
                best[count] = min(best.get(count, np.inf), cost)
    assert found.budgets.keys() == best.keys()
    for count, budget in found.budgets.items():
        expected = best[count] ** (1.0 if objective == "sum" else 0.5)
        assert budget.error == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert forced <= set(budget.steps)


@settings(max_examples=10)
@given(st.integers(2, 24), st.integers(0, 2), st.integers(0, 99), st.sampled_from(["mean", "worst"]))
def test_more_steps_are_never_worse_and_never_worse_than_an_even_interval(steps, order, seed, over):
    found = plan(trace_of(features_of(steps, seed=seed)), predictor=f"taylor:max_order={order}", over=over)
    assert sorted(found.budgets) == list(range(1, steps + 1))
    errors = [found.budgets[count].error for count in range(1, steps + 1)]
    slack = 1e-9 * (1 + max(errors))
    assert all(b <= a + slack for a, b in itertools.pairwise(errors))
    assert all(budget.error <= budget.uniform + slack for budget in found.budgets.values())
    assert errors[-1] == 0


def test_a_predicted_error_is_what_a_run_does():
    """The policy runs the plan on the tensors themselves; its forecasts are compared with what is there."""
    features = features_of(14, samples=3)
    trace = trace_of(features)
    found = plan(trace, predictor="taylor:max_order=2", budget=5, objective="sum")
    host = ArrayBackbone(lambda site, k: np.ascontiguousarray(features[:, k]), depth=2)
    run = foreseer.Run(depth=2, rows=3, groups=(0, 1, 2), num_steps=14, timesteps=trace.signature.timesteps, sites=host.sites)
    session = foreseer.Session(host, foreseer.policy("planned", schedule=found), run)
    apart = np.zeros(3)
    for k in range(14):
        out = session.evaluate(k)
        apart += np.linalg.norm(out - features[:, k], axis=1) * trace.sensitivity[:, k] / trace.final_norm
    assert apart.mean() == pytest.approx(found.budget().error, rel=1e-5)
    assert session.report.computed.all(axis=1).nonzero()[0].tolist() == list(found.budget().steps)


def test_what_is_added_is_planned_from_its_own_errors_and_a_run_does_what_was_predicted():
    """Law: a plan for a residual is that for a block whose output is what was added, and adds its forecast to the live stream."""
    features, entering = features_of(14), features_of(14, seed=5, rough=0.5)
    residual, alone = Site(1, since=-1), trace_of(features)
    both = trace_of(features + entering)
    trace = attrs.evolve(both, grams={**both.grams, ("", residual): alone.gram(LAST)})
    found = plan(trace, predictor="taylor:max_order=1", target="residual", budget=5, objective="sum")
    assert (found.target, found.site) == ("residual", "1.block since -1")
    assert found.budgets == plan(alone, budget=5, objective="sum").budgets
    assert plan(trace, budget=5).budgets == plan(both, budget=5).budgets
    assert plan(attrs.evolve(trace, target=residual), budget=5).site == "1.block"
    host = ArrayBackbone(lambda site, k: (features + entering)[:, k], depth=2, stream=lambda k: entering[:, k])
    run = foreseer.Run(depth=2, rows=3, groups=(0, 1, 2), num_steps=14, timesteps=trace.signature.timesteps, sites=host.sites, places=host.places)
    session = foreseer.Session(host, foreseer.policy("planned", schedule=found), run)
    apart = np.zeros(3)
    for k in range(14):
        apart += np.linalg.norm(session.evaluate(k) - (features + entering)[:, k], axis=1) * trace.sensitivity[:, k] / trace.final_norm
    assert apart.mean() == pytest.approx(found.budget().error, rel=1e-5)
    assert session.report.computed.all(axis=1).nonzero()[0].tolist() == list(found.budget().steps)


def test_a_residual_that_was_not_recorded_or_ends_elsewhere_is_not_planned():
    with pytest.raises(OptionError, match=r"'1.block since 0' was not recorded; .*--sites"):
        plan(trace_of(features_of(6)), target="residual_after_first")
    with pytest.raises(OptionError, match=r"target='residual' ends at 1.block, and sensitivities were measured at output"):
        plan(attrs.evolve(trace_of(features_of(6)), target=OUTPUT), target="residual")


def test_no_gap_is_longer_than_asked():
    found = plan(trace_of(features_of(20)), limits=Limits(max_gap=4))
    assert min(found.budgets) == 5
    for budget in found.budgets.values():
        assert max(b - a for a, b in itertools.pairwise((*budget.steps, 20))) <= 4


def test_a_plan_per_sample_is_at_least_as_good_for_it():
    features = features_of(16, samples=4)
    trace = trace_of(features)
    errors, alike = predicted_errors(trace), plan(trace)
    for sample, own in enumerate([plan(trace, samples=[s], errors=errors) for s in range(4)]):
        for count, budget in own.budgets.items():
            shared = errors.weighted[sample, errors.places(alike.budgets[count].steps)].sum()
            assert budget.error <= shared + 1e-9
    mates = plan(trace, samples=[0, 2], objective="sum")
    for count, budget in mates.budgets.items():
        places = errors.places(alike.budgets[count].steps)
        assert budget.error <= errors.weighted[[0, 2]][:, places].sum(axis=1).mean() + 1e-9


def test_a_predictor_that_looks_further_back_is_truncated_and_the_plan_says_so():
    trace = trace_of(features_of(8))
    found = plan(trace, predictor="taylor:max_order=4")
    assert "looks at 5 anchors; planned with the newest 3" in found.note
    assert found.budget(4).error == pytest.approx(plan(trace, predictor="taylor:max_order=2").budget(4).error)
    assert not plan(trace).note


def test_without_sensitivities_the_plan_says_so():
    assert "no sensitivities" in plan(trace_of(features_of(8), sensitivity=np.zeros((3, 0)))).note


def test_sensitivities_between_measured_steps_are_continued_and_a_last_step_that_counts_for_nothing_spreads_no_further():
    features = features_of(9)
    sparse = np.full((3, 9), np.nan)
    sparse[:, [2, 6, 8]] = 1.0, 4.0, 0.01
    dense = np.tile(2.0 ** (np.clip(np.arange(9), 2, 6) / 2 - 1), (3, 1))
    dense[:, 8] = 0.01
    some = attrs.evolve(trace_of(features, sensitivity=sparse), measured=(2, 6, 8))
    assert plan(some).budget(3).error == pytest.approx(plan(trace_of(features, sensitivity=dense)).budget(3).error)


def test_steps_that_matter_more_are_computed():
    features = features_of(20, rough=0.2)
    sensitivity = np.where(np.arange(20) >= 14, 50.0, 1.0) * np.ones((3, 1))
    steps = plan(trace_of(features, sensitivity=sensitivity)).budget(8).steps
    assert set(range(14, 20)) <= set(steps)


def test_an_even_interval_is_what_taylorseer_does():
    assert uniform_steps(10, 50) == tuple(range(0, 50, 5))
    assert all(len(set(uniform_steps(n, 50))) == n for n in range(1, 51))


def test_a_step_that_must_not_be_forecast_is_computed():
    costs = np.ones((6, 5))
    costs[:, 3] = np.inf
    found = best_schedules(until_next(costs))
    assert 3 in found[2][0]
    assert 1 not in found


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(OptionError, match="budget=9 is not in this plan"):
        plan(trace_of(features_of(6)), budget=9)


def call(*words):
    from typer.testing import CliRunner

    from foreseer.__main__ import app

    return CliRunner().invoke(app, [*words], env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return trace_of(features_of(20)).save(tmp_path_factory.mktemp("trace") / "t.safetensors")


def test_the_command_prints_the_front_and_writes_the_plan(recorded, tmp_path):
    out = tmp_path / "plan.json"
    done = call("plan", str(recorded), "--budget", "6", "--out", str(out))
    assert done.exit_code == 0, done.output
    written = SchedulePlan.load(out)
    assert written.chosen == 6
    assert "+".join(map(str, written.budget().steps)) in done.stdout
    assert sum(line.strip().split(" ")[0].isdigit() for line in done.stdout.splitlines()) >= 20


def test_the_command_chooses_by_cost_or_by_error(recorded, tmp_path):
    out = tmp_path / "plan.json"
    assert call("plan", str(recorded), "--block-rows", "0.3", "--out", str(out)).exit_code == 0
    assert SchedulePlan.load(out).chosen == 6
    error = SchedulePlan.load(out).budget(9).error
    assert call("plan", str(recorded), "--target-error", f"{error * 1.0001}", "--out", str(out)).exit_code == 0
    assert SchedulePlan.load(out).chosen == 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", "3", "--block-rows", "0.2"), "write one of them"),
        (("--budget", "99"), "budget=99"),
        (("--block-rows", "1.5"), "block_rows=1.5"),
        (("--objective", "max"), "objective='max'"),
        (("--first", "0"), "first=0"),
        (("--out", "plan.txt"), "ends in .json"),
        (("--predictor", "speca"), "speca"),
    ],
)
def test_the_command_refuses_what_is_wrong(recorded, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("plan", str(recorded), *words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not list(Path(tmp_path).iterdir())


def test_a_plan_is_read_without_torch():
    import subprocess
    import sys

    loaded = "print('torch' in sys.modules, 'safetensors' in sys.modules)"
    script = f"import sys; from foreseer.schedule_plan import SchedulePlan; {loaded}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_traces_of_one_step_are_planned():
    trace = trace_of(features_of(1))
    assert plan(trace).budgets.keys() == {1}
    assert attrs.asdict(plan(trace).budget(1))["error"] == 0


def test_limits_that_no_run_can_keep_are_refused():
    with pytest.raises(OptionError, match="first=4 and last=3 are more than the 6 steps there are"):
        plan(trace_of(features_of(6)), limits=Limits(first=4, last=3))


@pytest.mark.parametrize(
    ("given_options", "says"),
    [
        ({"objective": "nope"}, "objective='nope' is unknown; write one of gaps, sum, squares"),
        ({"over": "median"}, "over='median' is unknown; write one of mean, worst"),
        ({"target": "blocks"}, "target='blocks' is unknown; write one of modules, last_block, residual, residual_after_first, output"),
        ({"samples": []}, r"samples=\[\] cannot be planned for; write some of 0 to 2"),
        ({"samples": [0, 99]}, r"samples=\[0, 99\] cannot be planned for"),
        ({"samples": [-1]}, r"samples=\[-1\] cannot be planned for"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(given_options, says):
    with pytest.raises(OptionError, match=says):
        plan(trace_of(features_of(6)), **given_options)


def test_a_plan_is_for_modules_where_nothing_is_said():
    assert plan(trace_of(features_of(6))).target == "modules"


@pytest.mark.parametrize("error", [-1.0, float("nan"), float("inf")])
def test_an_error_that_cannot_be_is_no_target(error):
    with pytest.raises(OptionError, match=r"target_error=.* is out of range; write a number >= 0"):
        plan(trace_of(features_of(6))).cheapest(error)
