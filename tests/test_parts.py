"""Laws of plugins that delegate, and of what several plugins need together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import Needs, Part, Plan, Run, Site, Step, hookimpl
from foreseer.contract import features_to_keep, needs_from
from foreseer.errors import AnswerError, PluginError

SITES = tuple(Site(block) for block in range(4))
RUN = Run(depth=4, rows=2, groups=(0, 1), num_steps=50, sites=SITES)

some_sites = st.lists(st.sampled_from(SITES), unique=True).map(tuple)
numbers = st.integers(1, 9)
needs = st.one_of(
    st.builds(Needs, sites=some_sites, anchors=numbers, note=st.sampled_from(["", "a", ("b", "c")])),
    st.builds(Needs, anchors=st.dictionaries(st.sampled_from(SITES), numbers, min_size=1), note=st.sampled_from(["", "d"])),
)


def wanted(several: Sequence[Needs], site: Site) -> int:
    """How many features of a site somebody asks for, said once more in other words."""
    found = [1]
    for one in several:
        if isinstance(one.anchors, int):
            found += [one.anchors] if not one.sites or site in one.sites else []
        else:
            found += [number for named, number in one.anchors.items() if named == site]
    return max(found)


@given(st.lists(needs, max_size=4))
def test_several_needs_are_one(several: list[Needs]) -> None:
    """Law: every site that one names is recorded, with as many features as the most that anybody asks for there; every note is kept."""
    whole = needs_from([tuple(several), None])
    assert features_to_keep(whole, RUN) == {site: wanted(several, site) for one in several for site in one.sites}
    assert whole.notes == tuple(note for one in several for note in one.notes)
    assert whole == needs_from([whole])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Needs(anchors={Site(0): 0}), r"Needs\(anchors=0\) keeps nothing; write a whole number >= 1"),
        (Needs(anchors=True), r"Needs\(anchors=True\) keeps nothing"),
        ([3], r"setup gave 3; give a foreseer\.Needs"),
        (Needs(sites="all"), r"setup gave Needs\(sites='all'"),  # type: ignore[arg-type]
    ],
)
def test_what_keeps_nothing_is_refused(answer: Any, says: str) -> None:
    with pytest.raises(AnswerError, match=says):
        needs_from([answer])


def test_no_more_is_kept_than_the_run_has_steps_and_no_site_that_is_not_there() -> None:
    assert features_to_keep(Needs(anchors={Site(0): 99}), RUN) == {Site(0): 50}
    assert features_to_keep(Needs(anchors=3), RUN) == {}
    with pytest.raises(AnswerError, match=r"asks to record Site\(block=7.*it has 0\.block, 1\.block"):
        features_to_keep(Needs(sites=(Site(7),)), RUN)


class Half:
    """Plans, and counts with half of the arguments."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    @hookimpl
    def before_step(self) -> Plan:
        return Plan(reason="half")

    @hookimpl
    def commit(self, step: Step) -> None:
        self.steps.append(step.index)


def test_a_part_is_asked_as_a_session_asks() -> None:
    """Law: each hook with the arguments that it names; what is not implemented answers None, and needs nothing."""
    plugin = Half()
    part = Part(plugin)
    assert part.plugin is plugin
    assert [hook for hook in ("setup", "before_step", "predict_features", "verify", "commit") if part.implements(hook)] == ["before_step", "commit"]
    assert part.before_step(Step(0)) == Plan(reason="half")
    history: Any = None
    assert part.setup(RUN) == Needs()
    assert part.predict_features(Step(0), (), history) is None
    assert part.verify(Step(0), history) is None
    part.commit(Step(3), history)
    assert plugin.steps == [3]
    with pytest.raises(PluginError, match="is a class"):
        Part(Half)


@attrs.define(eq=False)
class EveryOther:
    """A gate or schedule within, and every other of its steps computed whatever it says: the example of the documentation."""

    inner: Part

    @hookimpl
    def setup(self, run: Run) -> Needs:
        return self.inner.setup(run)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        return None if step.index % 2 == 0 else self.inner.before_step(step)

    @hookimpl
    def commit(self, step: Step, outcome: foreseer.Outcome) -> None:
        self.inner.commit(step, outcome)


def test_a_schedule_within_another_runs() -> None:
    """Law: what delegates is a plugin like any other, and the kit holds it to the laws."""
    from foreseer.policies import Interval, taylor
    from foreseer.testing import check_policy

    def every_other() -> tuple[object, ...]:
        return EveryOther(Part(Interval(interval=9, warmup_steps=1, target="last_block"))), taylor()

    failed = [result for result in check_policy(every_other) if result.status == "failed"]
    assert not failed
