"""Laws of timetables: which steps they compute in a run, how long they forecast, and which runs and lists they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError
from foreseer.policies.timetable import Timetable, read_schedule, timetable_from
from foreseer.schedule_plan import Budget, SchedulePlan, stretched
from foreseer.signature import Signature


def of(schedule: Any, budget: int | None = None, *, interpolate: bool = False, any_model: bool = False) -> Timetable:
    return timetable_from(schedule, budget, interpolate=interpolate, any_model=any_model)


def a_run(num_steps: int | None, start: int = 0, **known: Any) -> foreseer.Run:
    return foreseer.Run(depth=2, rows=1, groups=(0,), num_steps=num_steps, start=start, **known)


def forecasts_in_a_row(computed: Any, length: int) -> int:
    return max(map(len, "".join("c" if step in computed else "f" for step in range(length)).split("c")))


@st.composite
def lists(draw: Any) -> tuple[tuple[int, ...], int]:
    length = draw(st.integers(1, 20))
    return (0, *sorted(draw(st.sets(st.integers(1, length - 1))) if length > 1 else ())), length


@given(case=lists(), others=st.integers(1, 30), start=st.integers(0, 12))
def test_steps_and_longest_forecast_follow_from_the_list(case: Any, others: int, start: int) -> None:
    """Law: of a list with its length; stretched to other lengths where that is asked for; of the rest of a sampling the rest."""
    steps, length = case
    text = "+".join(map(str, steps)) + f"/{length}"
    table = of(text)
    assert table.for_run(a_run(length)) == (frozenset(steps), ())
    assert table.longest(None) == table.longest(a_run(length)) == forecasts_in_a_row(steps, length)
    if start < length:
        assert table.for_run(a_run(length - start, start))[0] == {step - start for step in steps if step >= start}
    if others != length:
        with pytest.raises(OptionError, match=f"is for {length} steps and the run has {others}; plan again, or write interpolate=True"):
            table.for_run(a_run(others))
    table = of(text, interpolate=True)
    longer = stretched(steps, length, others)
    computed, notes = table.for_run(a_run(others))
    assert (computed, len(notes)) == (frozenset(longer), int(others != length))
    assert table.longest(a_run(others)) == forecasts_in_a_row(longer, others)
    assert table.longest(None) is table.longest(a_run(None)) is None
    if start < others:
        rest = a_run(others - start, start)
        assert table.for_run(rest) == (frozenset(step - start for step in longer if step >= start), notes)
        assert table.longest(rest) == forecasts_in_a_row(longer, others)


@given(case=lists())
def test_a_list_without_a_length_may_end_as_early_as_its_longest_gap(case: Any) -> None:
    """Law: what ends earlier was written for a shorter run, and would forecast all the rest."""
    steps, _ = case
    table, text = of(list(steps)), "+".join(map(str, steps))
    longest, last = forecasts_in_a_row(steps, steps[-1] + 1), steps[-1]
    assert table.longest(None) == longest
    for num_steps in (last + 1, last + 1 + longest):
        assert table.for_run(a_run(num_steps)) == (frozenset(steps), ())
    for num_steps in {last + 2 + longest, max(last, 1), max(last - 1, 1)} - {last + 1}:
        with pytest.raises(OptionError) as refused:
            table.for_run(a_run(num_steps))
        assert f"schedule={text} ends at step {last} and the run has {num_steps}; if that is meant write schedule={text}/{num_steps}" in str(refused.value)


def test_of_no_schedule_everything_is_computed() -> None:
    table = of(None)
    assert table.longest(None) == 0
    for run in (a_run(3), a_run(None), a_run(3, start=2)):
        computed, notes = table.for_run(run)
        assert computed is None
        assert "planned has no schedule" in notes[0]


@pytest.mark.parametrize(
    ("schedule", "steps", "length"), [(0, (0,), None), ((0, 2), (0, 2), None), (" 0 + 2 / 5 ", (0, 2), 5), ("0+2/3", (0, 2), 3), ("0", (0,), None)]
)
def test_how_a_list_is_written(schedule: Any, steps: Any, length: Any) -> None:
    table = of(schedule)
    assert (table.steps, table.num_steps, table.plan, table.interpolate) == (steps, length, None, False)
    assert of(schedule, any_model=True).any_model


@pytest.mark.parametrize(
    ("schedule", "options", "words"),
    [
        (text, {}, "is no schedule; write the computed steps")
        for text in ("1+2", "0+4+4", "0+", "0,1-2", "", (), 1, 0.5, True, (0, True), (0, 1.5), (0, 2, 1), (0, "2"))
    ]
    + [
        ("0+5/5", {}, "computes step 5 of a run whose steps are 0 to 4; write the number of steps behind /"),
        ("0+4", {"budget": 2}, "budget=2 chooses among the schedules of a plan, and schedule='0+4' is a list; leave it out"),
        ((0, 2, 4), {"interpolate": True}, "write schedule=0+2+4/5"),
    ],
)
def test_what_is_no_list_is_refused(schedule: Any, options: Any, words: str) -> None:
    with pytest.raises(OptionError) as refused:
        of(schedule, **options)
    assert words in str(refused.value)


def test_a_plan_is_read_once_and_a_list_is_no_file(tmp_path: Any) -> None:
    budgets = {2: Budget(steps=(0, 5), error=0.5, uniform=1.0), 3: Budget(steps=(0, 3, 6), error=0.2, uniform=1.0)}
    plan = SchedulePlan(signature=Signature(num_steps=10, model="A"), budgets=budgets, chosen=3)
    path = plan.save(tmp_path / "plan.json")
    for named in (path, str(path)):
        read = read_schedule(named)
        assert (read, read.value.budgets, read_schedule(read)) == (str(path), plan.budgets, read)
        assert (of(read).steps, of(named, 2).steps) == ((0, 3, 6), (0, 5))
    for same in ("0+1", " 0 + 1/4 ", "0,1", [0, 1], None, plan):
        assert read_schedule(same) is same
    table = of(plan, any_model=True)
    assert (table.num_steps, table.plan, table.any_model) == (10, plan, True)


@pytest.mark.parametrize("any_model", [False, True])
@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("num_steps", [10, 12])
@pytest.mark.parametrize("model", ["A", "B"])
def test_a_plan_is_for_its_model_and_its_steps_unless_others_are_allowed(model: str, num_steps: int, interpolate: bool, any_model: bool) -> None:
    """Law: it is refused exactly where something differs that is not allowed, and the options that would help are named."""
    plan = SchedulePlan(signature=Signature(num_steps=10, model="A"), budgets={2: Budget(steps=(0, 5), error=0.5)}, chosen=2)
    table, run = of(plan, interpolate=interpolate, any_model=any_model), a_run(num_steps, model=model)
    helps = ["interpolate=True"] * (num_steps != 10 and not interpolate) + ["any_model=True"] * (model != "A" and not any_model)
    if not helps:
        assert table.for_run(run)[0] == frozenset(stretched((0, 5), 10, num_steps))
        return
    with pytest.raises(OptionError) as refused:
        table.for_run(run)
    assert str(refused.value).endswith(f"; plan again for this one, or write {' and '.join(helps)}")
