"""Laws of which steps the built-in policies compute, said once more in a line each, on features that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import foreseer
from foreseer import metrics
from foreseer.adapters import ArrayBackbone
from foreseer.policies import Interval, speca


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


@st.composite
def jumping(draw: Any) -> dict[str, Any]:
    """Features of three rows of one entry, which jump so that errors are exact; and of which sampling they are the rest."""
    steps = draw(st.integers(1, 16))
    rows = st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=3, max_size=3)
    jumps = np.array(draw(st.lists(rows, min_size=steps, max_size=steps)))
    return {"values": np.repeat(jumps, draw(st.integers(1, 3)), axis=0)[:steps], "start": draw(st.sampled_from([0, 0, 5]))}


def judged_at(block: int, policy: str, values: Any, *, start: int, groups: tuple[int, ...] = (0, 1, 2), known: bool = True) -> list[foreseer.Outcome]:
    """Outcomes of a run of three blocks of which one has these values, and the others never change."""
    host = ArrayBackbone(lambda site, t: (values[t] if site.block == block else np.ones(3))[:, None], depth=3)
    shape = foreseer.Run(depth=3, rows=3, groups=groups, num_steps=len(values) if known else None, sites=host.sites, start=start)
    session = foreseer.Session(host, foreseer.policy(policy), shape)
    for step in range(len(values)):
        session.evaluate(step)
    return list(session.finish().outcomes)


def error_of(metric: str, now: Any, before: Any, groups: Any) -> Any:
    return metrics.metric(metric)(torch.tensor(now)[:, None], torch.tensor(before)[:, None], groups=groups).float().numpy()


thresholds = {"threshold": st.sampled_from([0.0, 0.5, 0.75, 1.0]), "decay": st.sampled_from([1.0, 0.25]), "floor": st.sampled_from([0.0, 0.5])}


@given(
    case=jumping(), **thresholds, warmup=st.integers(1, 3), unseen=st.integers(0, 2), most=st.sampled_from([None, 1, 2, 3]),
    metric=st.sampled_from(["relative_l1", "relative_l2", "elementwise_l1"]), decide=st.sampled_from(["row", "batch"]),
    later=st.booleans(), block=st.integers(-3, 2), groups=st.sampled_from([(0, 1, 2), (0, 0, 1)]), known=st.booleans(),
)  # fmt: skip
@example(  # the first row is computed again, and not looked at in the step after it
    case={"values": np.array([[1.0, 1, 1], [1, 1, 1], [4, 1, 1], [1, 1, 1]]), "start": 0}, threshold=0.5, decay=1.0, floor=0.0, warmup=1, unseen=1, most=None,
    metric="relative_l1", decide="row", later=False, block=2, groups=(0, 1, 2), known=True,
)  # fmt: skip
def test_speca_computes_what_its_verdicts_say(
    case: Any, threshold: float, decay: float, floor: float, warmup: int, unseen: int, most: int | None, metric: str, decide: str,
    later: bool, block: int, groups: tuple[int, ...], known: bool,
) -> None:  # fmt: skip
    """Law: the paper's method in a few lines, row by row: the threshold by k/T, unseen drafts, the longest draft, who is due later."""
    values, known = case["values"], known or decay != 1
    options = f"threshold_decay={decay},threshold_floor={floor},warmup_steps={warmup},min_draft_steps={unseen},max_draft_steps={most}"
    options += f",metric={metric},decide={decide},on_reject={'next_step' if later else 'recompute'},verify_block={block},max_order=0"
    outcomes = judged_at(block % 3, f"speca:threshold={threshold},{options}", values, start=case["start"], groups=groups, known=known)
    share = lambda flags: np.array([any(flags[np.equal(groups, group)]) for group in groups])  # noqa: E731
    computed_at, due, kept = np.full(3, -1), np.zeros(3, bool), values[0].copy()
    for step, outcome in enumerate(outcomes):
        behind, limit = step - computed_at, max(threshold * decay ** ((case["start"] + step) / (case["start"] + len(values)) if known else 0), floor)
        asked, seen = due | (most is not None and behind > (most or 0)), behind > unseen
        error = error_of(metric, values[step], kept, groups if decide == "row" else (0, 0, 0))
        computed, tried = share(asked), step >= warmup and not asked.all()
        if step < warmup:
            computed = np.ones(3, bool)
            assert outcome.reason == "warm-up"
        elif asked.all():
            assert outcome.reason == ("next step after a rejection" if due.any() else f"{most} drafts in a row")
        elif not computed.all() and not seen.any():
            assert outcome.reason.endswith(": not verified yet")
            assert outcome.accept is None
        elif not computed.all():
            assert outcome.plan.probe == foreseer.Probe(block % 3, on="draft")
            assert (outcome.threshold, outcome.error) == (limit, tuple(error))
            computed = computed if later else computed | share((error > limit) & seen)
        if tried and later:
            due = ~computed & seen & (error > limit) & (outcome.accept is not None)
        elif later:
            due = np.zeros(3, bool)
        assert outcome.computed == tuple(computed)
        computed_at[computed], kept[computed] = step, values[step][computed]


@given(
    case=jumping(), **thresholds, warmup=st.integers(1, 4), unseen=st.integers(0, 3), most=st.integers(1, 4),
    metric=st.sampled_from(["elementwise_l1", "elementwise_l2"])
)  # fmt: skip
@example(  # an error that is the threshold is not above it
    case={"values": np.array([[1.0] * 3] * 2 + [[2.0] * 3] * 4), "start": 0}, threshold=0.5, decay=1.0, floor=0.0, warmup=1, unseen=0, most=4,
    metric="elementwise_l1",
)  # fmt: skip
@example(case={"values": np.ones((6, 3)), "start": 5}, threshold=1.0, decay=0.25, floor=0.0, warmup=1, unseen=0, most=4, metric="elementwise_l1")
def test_speca_as_released_computes_the_step_after_its_verdict(
    case: Any, threshold: float, decay: float, floor: float, warmup: int, unseen: int, most: int, metric: str
) -> None:
    """Law: the released schedule, branch by branch, for the whole batch; the threshold is by (k + 1)/T."""
    values = case["values"]
    options = f"threshold_decay={decay},threshold_floor={floor},warmup_steps={warmup},min_draft_steps={unseen},max_draft_steps={most},metric={metric}"
    outcomes = judged_at(2, f"speca_released:threshold={threshold},{options},max_order=0", values, start=case["start"])
    drafted, after_full, error, kept = 0, False, None, values[0]
    for step, outcome in enumerate(outcomes):
        limit = max(threshold * decay ** ((case["start"] + step + 1) / (case["start"] + len(values))), floor)
        high = drafted >= unseen and error is not None and error > limit
        full, reason = not after_full and (step < warmup or drafted >= most or high), "forecast: not verified yet"
        if after_full:
            reason = "forecast: the step after a full one"
        elif full:
            by_limit = f"error {error or 0:.3g} of the step before, threshold {limit:.3g}"
            reason = "warm-up" if step < warmup else f"{most} drafts in a row" if drafted >= most else by_limit
        elif drafted >= unseen:
            error = error_of(metric, values[step], kept, (0, 0, 0))[0]
            reason = f"accepted: error {error:.3g}, threshold {limit:.3g}"
            assert outcome.plan.probe == foreseer.Probe(2, on="draft")
            assert (outcome.threshold, outcome.error) == (limit, (error,) * 3)
        assert (outcome.full, outcome.reason, outcome.plan.forecast) == (full, reason, () if full else (foreseer.Site(1), foreseer.Site(2)))
        drafted, after_full = 0 if full else drafted + 1, full
        error, kept = (None, values[step]) if full else (error, kept)


def test_speca_as_released_takes_a_batch_of_one() -> None:
    _, report = run("speca_released:max_draft_steps=9", lambda t: 2.0, steps=8, rows=1)
    assert report.full_steps == [0, 2]


def test_speca_judges_at_a_block_that_there_is_and_says_what_it_leaves_unseen() -> None:
    values = np.ones((4, 3))
    for block in (-4, 3):
        with pytest.raises(foreseer.OptionError, match=f"verify_block={block} is out of range; this model has blocks -3 to 2"):
            judged_at(0, f"speca:verify_block={block}", values, start=0)
    with pytest.raises(foreseer.OptionError, match="threshold decays over the run"):
        judged_at(0, "speca:threshold_decay=0.5", values, start=0, known=False)
    for unseen, later in ((0, False), (1, False), (0, True)):
        gate, _ = speca(min_draft_steps=unseen, on_reject="next_step" if later else "recompute")
        assert gate.verified == (not unseen and not later)


@pytest.mark.parametrize("policy", ["cg_taylor", "speca", "speca_released"])
def test_a_policy_that_must_know_the_last_step_refuses_a_run_without_end(policy: str) -> None:
    host = ArrayBackbone(lambda site, t: np.zeros((1, 2)), depth=2)
    shape = foreseer.Run(depth=2, rows=1, groups=(0,), sites=host.sites)
    with pytest.raises(foreseer.OptionError, match=r"give the run timesteps= or num_steps="):
        foreseer.Session(host, foreseer.policy(policy), shape)
