"""What is done where a policy is named, and not again: its first plugins are built, its files are read."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import Needs, OptionError, Plan, PolicySpec, Session, hookimpl
from foreseer.adapters import ArrayBackbone
from foreseer.bench.gpu.lanes import forced
from foreseer.policies import taylor
from foreseer.presets import Measured, Preset
from foreseer.reading import Written, reads
from foreseer.registry import build_observers, parse_policy
from foreseer.schedule_plan import Budget, SchedulePlan
from foreseer.signature import Signature

STEPS = 10


class Counting:
    """A schedule that computes every other step, and knows how many sessions it was in."""

    def __init__(self) -> None:
        self.sessions = 0

    @hookimpl
    def setup(self, run: Any) -> Needs:
        self.sessions += 1
        self.last = foreseer.Site(run.depth - 1)
        return Needs(sites=(self.last,))

    @hookimpl
    def before_step(self, step: Any) -> Plan:
        return Plan(forecast=() if step.index % 2 == 0 else (self.last,))


@pytest.fixture
def built() -> list[Counting]:
    return []


@pytest.fixture
def factory(built: list[Counting]) -> Any:
    def counting() -> tuple[object, ...]:
        built.append(Counting())
        return built[-1], taylor(max_order=1)

    return counting


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Every session that begins."""
    found, begin = [], Session.__init__

    def noted(self: Session, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Session, "__init__", noted)
    return found


def host() -> ArrayBackbone:
    return ArrayBackbone(lambda site, t: np.full((2, 3), float(t)), depth=3)


def shape(**of_run: Any) -> foreseer.Run:
    return foreseer.Run(depth=3, rows=2, groups=(0, 1), num_steps=STEPS, sites=host().sites, **of_run)


def run(spec: PolicySpec) -> foreseer.Report:
    session = Session(host(), spec, shape())
    for index in range(STEPS):
        session.evaluate(index)
    return session.finish()


def steps_of(spec: PolicySpec) -> list[int]:
    return run(spec).full_steps


# --- plugins


@given(st.lists(st.sampled_from(["look", "run", "copy", "hooks"]), max_size=6))
def test_a_factory_is_called_once_for_each_session(acts: list[str]) -> None:
    """Law: whoever looks at a spec, copies it, or registers what it looks at, takes and builds no plugins."""
    built: list[Counting] = []

    def counting() -> tuple[object, ...]:
        built.append(Counting())
        return built[-1], taylor(max_order=1)

    spec = foreseer.policy(counting)
    for act in acts:
        if act == "run":
            run(spec)
        elif act == "copy":
            assert copy.deepcopy(spec).look() == ()
        else:
            looked = spec.look()
            assert looked == () or looked[0] is built[-1]
            if act == "hooks" and looked:
                foreseer.plugins.policy_hooks(looked)
    assert len(built) == max(1, acts.count("run"))
    assert all(plugin.sessions <= 1 for plugin in built)


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_attached_a_factory_is_called_once_for_each_session(
    factory: Any,
    built: list[Counting],
    sessions: list[Session],
    tiny_dit: Any,
    runs: int,
) -> None:
    """Law: also where the first computed step finds out more about the model, and its session begins anew."""
    spec = foreseer.policy(factory)
    for _ in range(2):
        with foreseer.attach(tiny_dit, spec) as attached:
            for _ in range(runs):
                with attached.run(num_steps=4), torch.no_grad():
                    for t in range(4):
                        tiny_dit(torch.zeros(1, 1, 4, 4), torch.tensor([t]), class_labels=torch.tensor([1]))
    assert len(sessions) >= 2 * runs
    assert len(built) == max(1, len(sessions))
    assert all(plugin.sessions <= 1 for plugin in built)


@pytest.mark.parametrize("named", [False, True])
def test_sampled_a_factory_is_called_once_for_each_session(
    factory: Any,
    built: list[Counting],
    sessions: list[Session],
    named: bool,
) -> None:
    policy = foreseer.policy(factory) if named else factory
    for count in (1, 2):
        foreseer.sample(
            host(),
            None,
            range(STEPS),
            policy=policy,
            inputs=lambda x, t: t,
            update=lambda x, output, index: x,
        )
        assert len(built) == len(sessions) == count


def test_a_lambda_is_called_once_too(built: list[Counting]) -> None:
    def new() -> Counting:
        built.append(Counting())
        return built[-1]

    spec = foreseer.policy(lambda: (new(), taylor(max_order=1)))
    assert spec.name == "Counting+LinearPredictor"
    run(spec)
    assert len(built) == 1


def test_an_observer_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foreseer.workbench import ledger

    calls: list[Any] = []
    begin = ledger.Ledger.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(self)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(ledger.Ledger, "__init__", noted)
    build_observers([f"ledger:path={tmp_path / 'ledger.jsonl'}"])
    assert len(calls) == 1


def test_sessions_that_begin_at_once_share_no_plugin(factory: Any, built: list[Counting]) -> None:
    """Law: of threads that ask at one moment one is given what waits, the others what is built for them."""
    for _ in range(50):
        spec, before = foreseer.policy(factory), len(built) - 1
        gate, taken = threading.Barrier(4), []

        def ask(spec: PolicySpec = spec, gate: threading.Barrier = gate, taken: list[Any] = taken) -> None:
            gate.wait()
            taken.append(spec()[0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(plugin) for plugin in taken}) == 4
        assert len(built) == before + 4


def test_two_threads_run_with_plugins_of_their_own(factory: Any, built: list[Counting]) -> None:
    spec, gate = foreseer.policy(factory), threading.Barrier(2)

    def begin() -> None:
        gate.wait()
        run(spec)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [plugin.sessions for plugin in built] == [1, 1]


def test_a_copy_of_a_spec_shares_no_plugin() -> None:
    spec = parse_policy("taylorseer:interval=3")
    for other in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert other == spec
    assert spec.look() == spec() != spec()
    assert copy.copy(spec).look() == ()


def test_what_cannot_be_registered_is_refused_where_it_is_attached(tiny_dit: Any) -> None:
    with pytest.raises(foreseer.PluginError, match="implements no hook"):
        foreseer.attach(tiny_dit, lambda: object())


# --- files


def save(path: Path, *steps: int, **more: Any) -> Path:
    every = {1: Budget(steps=(0,), error=2.0), len(steps): Budget(steps=steps, error=1.0)}
    signature = Signature(num_steps=STEPS, **more)
    return SchedulePlan(signature=signature, budgets=every, chosen=len(steps)).save(path)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan's file, by a path that is right only from here."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "plan.json", 0, 3, 6)
    return Path("plan.json")


def spoil(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is another now, and its path is wrong."""
    save(plan, 0, 1)
    (plan.parent / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")


INNER = "planned:schedule=plan.json,gate"
NAMED = {
    "text": lambda: parse_policy("planned:schedule=plan.json"),
    "keyword": lambda: foreseer.policy("planned", schedule="plan.json"),
    "path": lambda: foreseer.policy("planned", schedule=Path("plan.json")),
    "gate": lambda: parse_policy("planned:schedule=plan.json,gate=(cg_taylor:threshold=1e9)"),
    "inner gate": lambda: parse_policy(f"planned:schedule=0/{STEPS},gate=({INNER}=(speca:threshold=1e9))"),
    "forced": lambda: PolicySpec("forced", forced, {"policy": f"{INNER}=speca", "computed": 0, "of": STEPS}),
    "preset": lambda: foreseer.policy(preset("planned:schedule=plan.json")),
    "preset elsewhere": lambda: foreseer.policy(preset("planned:schedule=plan.json"), any_model=True),
}


def preset(policy: str) -> Preset:
    figures = {"block_rows_ratio": 0.5, "steps_computed": 3.0, "psnr_mean": 30.0, "psnr_worst": 30.0}
    measured = Measured(samples=1, first=0, seed=0, **figures)
    return Preset(name="p", policy=policy, signature=Signature(num_steps=STEPS), tuned=measured)


@pytest.mark.parametrize("how", NAMED)
def test_a_plan_is_read_where_it_is_named(how: str, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: neither another file of the name nor another folder changes what a named policy does."""
    spec = NAMED[how]()
    spoil(plan, monkeypatch)
    for _ in range(3):
        assert set(steps_of(spec)) - {9} == {0, 3, 6}  # cg_taylor computes the last step


@pytest.mark.parametrize("how", NAMED)
def test_it_is_printed_as_it_was_written(how: str, plan: Path) -> None:
    spec = NAMED[how]()
    assert "schedule=plan.json" in str(spec)
    if "forced" not in how:
        assert str(parse_policy(str(spec))) == str(spec)
    json.dumps(dict(spec.options))


def test_with_more_options_it_is_not_read_again(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_policy("planned:schedule=plan.json")
    spoil(plan, monkeypatch)
    more = foreseer.policy(spec, target="output")
    assert str(more) == "planned:schedule=plan.json,target=output"
    assert steps_of(more) == steps_of(foreseer.policy(spec, interpolate=True)) == [0, 3, 6]
    assert steps_of(foreseer.policy(spec, budget=1)) == [0]
    assert steps_of(attrs.evolve(spec, name="other")) == [0, 3, 6]
    with pytest.raises(OptionError, match=r"'plan.json' cannot be read"):
        foreseer.policy(spec, schedule="plan.json")


@pytest.mark.parametrize("by", ["name", "preset"])
def test_a_live_attachment_keeps_its_plan(
    by: str,
    plan: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_dit: Any,
) -> None:
    text = f"planned:schedule={plan}"
    with foreseer.attach(tiny_dit, preset(text) if by == "preset" else parse_policy(text)) as attached:
        spoil(plan, monkeypatch)
        for _ in range(2):
            with attached.run(num_steps=STEPS), torch.no_grad():
                for t in range(STEPS):
                    tiny_dit(torch.zeros(1, 1, 4, 4), torch.tensor([t]), class_labels=torch.tensor([1]))
            assert attached.report.full_steps == [0, 3, 6]


def test_what_was_read_is_the_text_for_everybody_else() -> None:
    text = Written("plan.json", [1])
    for other in (text, copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (other, str(other), json.dumps(other), hash(other)) == (
            "plan.json",
            "plan.json",
            '"plan.json"',
            hash("plan.json"),
        )
        assert other.value == [1]


def test_any_factory_may_say_what_it_reads(tmp_path: Path) -> None:
    """Law: a reader is called once, where the policy is named, whatever the order of decorators."""
    calls = []

    def reader(value: str) -> Written:
        calls.append(value)
        return Written(value, 7)

    @reads(table=reader)
    @foreseer.options.checked
    def tabled(*, table: str = "", size: int = 1) -> Counting:
        assert isinstance(table, Written)
        assert table.value == 7
        return Counting()

    spec = foreseer.policy(tabled, table="t.csv")
    spec(), spec()
    assert calls == ["t.csv"]
    assert spec.options == {"table": "t.csv"}
