"""Laws of requests in one batch: each gets what it would get alone, whatever is beside it."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import weakref
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
import torch
from batched import DEPTH, TIMES, Model, Sampling, Traffic, decisions
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import foreseer
from foreseer.adapters.batching import Batch
from foreseer.adapters.requests import Request
from foreseer.errors import ContractError, OptionError

POLICIES = ("none", "taylorseer:interval=3,target=last_block", "reuse:interval=2", "cg_taylor:threshold=0.05", "agreement", "speca:threshold=0.05")

MANY = 10_000 if os.environ.get("FORESEER_ALL") else 400


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    return Sampling(
        draw(st.sampled_from(POLICIES)),
        seed=draw(st.integers(0, 50)),
        samples=draw(st.integers(1, 3)),
        tokens=draw(st.sampled_from((3, 3, 4))),
        texts=draw(st.integers(1, 2)),
        steps=draw(st.integers(1, 12)),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(samplings(), st.integers(0, 8)), min_size=1, max_size=6), st.sampled_from((None, 1, 3, 8)))
def test_each_request_gets_what_it_gets_alone(drawn: list[tuple[Sampling, int]], max_rows: int | None) -> None:
    """Law: to the bit where the model's arithmetic does not depend on the batch, and so with every decision; at whatever steps they are, and
    however few rows a call may have."""
    model = Model()
    with Batch(model, max_rows=max_rows) as batch:
        traffic = Traffic(batch, [sampling for sampling, _ in drawn], [joins for _, joins in drawn]).run()
    for index, (sampling, _) in enumerate(drawn):
        states, reports = sampling.alone(Model())
        assert same(traffic.states[index], states)
        assert decisions(traffic.reports[index]) == decisions(reports)
        assert [report.block_rows for report in traffic.reports[index].values()] == [report.block_rows for report in reports.values()]


def test_a_tick_is_two_calls_of_the_model_and_computes_no_row_for_nothing() -> None:
    """Law: one speculative call and one that computes, for all policies together; the blocks evaluate the rows that the reports say."""
    model, counted = Model(), list[tuple[int, int]]()
    with Batch(model) as batch:
        Traffic(batch, [Sampling(policy, seed=i, samples=2) for i, policy in enumerate(POLICIES)], [0] * len(POLICIES)).run()
        model.took()  # by now the model is known
        traffic = Traffic(batch, [Sampling(policy, seed=i, samples=2) for i, policy in enumerate(POLICIES)], [0, 1, 2, 3, 4, 5])
        traffic.run(lambda tick: counted.append(model.took()))
    assert max(calls for calls, _ in counted) == 2
    said = sum(report.block_rows + report.check_block_rows for reports in traffic.reports.values() for report in reports.values())
    assert sum(rows for _, rows in counted) == said < DEPTH * 2 * len(TIMES) * len(POLICIES)


def test_what_happens_to_one_is_nothing_to_the_others() -> None:
    """Law: NaN, infinity and leaving stay with their request."""
    quiet = [Sampling(policy, seed=i) for i, policy in enumerate(POLICIES)]
    wrong = [
        Sampling("taylorseer:interval=3,target=last_block", seed=20, spoil=lambda step, x: x * (float("nan") if step > 4 else 1)),
        Sampling("cg_taylor:threshold=0.05", seed=21, spoil=lambda step, x: x * (float("inf") if step > 5 else 1)),
        Sampling("reuse:interval=2", seed=22),
    ]
    everyone = quiet + wrong
    with Batch(Model()) as batch:
        traffic = Traffic(batch, everyone, [i % 3 for i in range(len(everyone))], leaves={len(everyone) - 1: 5}).run()
        assert not traffic.errors
    for index, sampling in enumerate(quiet):
        assert same(traffic.states[index], sampling.alone(Model())[0])
    assert len(traffic.states[len(everyone) - 1]) == 5


@pytest.mark.parametrize("hook", ["before_step", "predict_features", "verify", "commit"])
def test_a_policy_that_raises_fails_its_own_request(hook: str) -> None:
    """Law: its future has the exception; what the others get is what they get alone."""
    failing = failing_in(hook)
    everyone = [Sampling("cg_taylor:threshold=0.05", seed=1), Sampling(failing, seed=2), Sampling("taylorseer:interval=3,target=last_block", seed=3)]
    with Batch(Model()) as batch:
        traffic = Traffic(batch, everyone, [0, 1, 2]).run()
        assert not batch.requests
    assert list(traffic.errors) == [1]
    assert isinstance(traffic.errors[1], ZeroDivisionError)
    assert len(traffic.states[1]) == 6
    for index in (0, 2):
        assert same(traffic.states[index], everyone[index].alone(Model())[0])


class Failing:
    """Forecasts the last block from the third step on, judged by the first, and raises in one hook at step 6."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def _fails(self, hook: str, step: foreseer.Step) -> None:
        if hook == self.hook and step.index == 6:
            raise ZeroDivisionError(hook)

    @foreseer.hookimpl
    def setup(self, run: foreseer.Run) -> foreseer.Needs:
        self.last = foreseer.Site(run.depth - 1)
        return foreseer.Needs(sites=(foreseer.Site(0), self.last))

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
        self._fails("before_step", step)
        return foreseer.Plan(forecast=(foreseer.Site(0), self.last), probe=foreseer.Probe(block=0, on="input")) if step.index > 1 else None

    @foreseer.hookimpl
    def predict_features(self, step: foreseer.Step, sites: tuple[foreseer.Site, ...], history: foreseer.History) -> Any:
        self._fails("predict_features", step)
        return {site: history.features(site)[0] for site in sites}

    @foreseer.hookimpl
    def verify(self, step: foreseer.Step, evidence: foreseer.Evidence) -> foreseer.Verdict:
        self._fails("verify", step)
        error = (evidence.computed - evidence.forecast).abs().flatten(1).mean(1) if evidence.forecast is not None else torch.zeros(len(evidence.computed))
        return foreseer.Verdict(error, error < 10.0, 10.0)

    @foreseer.hookimpl
    def commit(self, step: foreseer.Step, outcome: foreseer.Outcome) -> None:
        self._fails("commit", step)


def failing_in(hook: str) -> Any:
    return lambda: (Failing(hook),)


class Forecasts:
    """Forecasts a residual in every second step, by what arrives there; in step 5 it fails where it is to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    @foreseer.hookimpl
    def setup(self, run: foreseer.Run) -> foreseer.Needs:
        self.site = foreseer.Site(run.depth - 1, since=0)
        return foreseer.Needs(sites=(self.site,))

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
        if self.fails and step.index == 5:
            raise ValueError("step 5")
        return foreseer.Plan(forecast=(self.site,)) if step.index % 2 else None

    @foreseer.hookimpl
    def predict_features(self, step: foreseer.Step, sites: tuple[foreseer.Site, ...], history: foreseer.History) -> Any:
        last = history.features(self.site)[0]
        return {self.site: foreseer.Late(lambda live: last * live.input.abs().mean().clamp(0.9, 1.1))}


class Shadows:
    """Has every forecast step computed as well, and notes how far off it was."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    @foreseer.hookimpl
    def shadow(self, run: foreseer.Run, step: foreseer.Step) -> bool:
        return True

    @foreseer.hookimpl
    def on_shadow(self, step: foreseer.Step, output: torch.Tensor, computed: torch.Tensor) -> None:
        self.seen.append((step.index, float((output - computed).abs().sum())))


def test_whatever_a_request_asks_for_it_gets_as_alone() -> None:
    """Law: samples of several rows, late drafts, a policy that fails and is excused, shadow steps, other places to keep features."""
    watchers = [(Shadows(), Shadows()) for _ in range(2)]

    def everyone(which: int) -> list[Sampling]:
        return [
            Sampling("cg_taylor:threshold=0.05", 1, 4, groups=2),
            Sampling("speca:threshold=0.05", 2, 4, groups=(0, 0, 1, 1)),
            Sampling(lambda: (Forecasts(),), 3, 2),
            Sampling(lambda: (Forecasts(fails=True),), 4, how={"on_error": "compute"}),
            Sampling("taylorseer:interval=3,target=last_block", 5, how={"observers": [watchers[0][which]]}),
            Sampling("cg_taylor:threshold=0.05", 6, 2, how={"observers": [watchers[1][which]]}),
            Sampling("taylorseer:interval=2,target=residual", 7, how={"storage": foreseer.Storage(dtype=torch.float32)}),
            Sampling("taylorseer:interval=2,target=output", 8),
        ]

    with Batch(Model()) as batch:
        traffic = Traffic(batch, everyone(0), [0, 1, 0, 2, 0, 1, 0, 1]).run()
        assert not traffic.errors
    for index, sampling in enumerate(everyone(1)):
        states, reports = sampling.alone(Model())
        assert same(traffic.states[index], states)
        assert decisions(traffic.reports[index]) == decisions(reports)
    assert all(first.seen == second.seen and first.seen for first, second in watchers)


def test_arguments_that_the_model_refuses_fail_their_own_future_alone() -> None:
    """Law: the others of the call are evaluated all the same, and may go on being joined."""
    model = Model()
    with Batch(model) as batch:
        Traffic(batch, [Sampling("none", seed=i) for i in range(2)], [0, 0]).run()
        fine, wrong = Sampling("taylorseer:interval=3,target=last_block", seed=1), Sampling("none", seed=2, texts=4)  # label 9 is the last
        wrong.texts = 5
        traffic = Traffic(batch, [fine, wrong, fine], [0, 1, 2]).run()
        assert isinstance(traffic.errors.pop(1), IndexError)
        assert not traffic.errors
        model.took()
        Traffic(batch, [fine, fine], [0, 0]).run(lambda tick: model.calls)
        assert model.took()[0] == len(TIMES)
    assert same(traffic.states[0], fine.alone(Model())[0])
    assert same(traffic.states[2], fine.alone(Model())[0])


@pytest.mark.parametrize(
    ("mixed", "why"),
    [
        ("mean", "differs from the same row alone"),
        ("first time", "differs from the same row alone"),
        ("largest", "differs from the same row alone"),
        ("of a class", "return, a Held, which may hold rows"),
    ],
)
def test_a_model_whose_rows_cannot_be_told_apart_is_called_for_each_alone(mixed: str, why: str) -> None:
    """Law: what beside others would differ is not done, and the report says so, whatever the first request is."""
    everyone = [Sampling("none", seed=9, spoil=lambda step, x: x * (float("nan") if step < 2 else 1))]
    everyone += [Sampling("taylorseer:interval=3,target=last_block", seed=i) for i in range(3)]
    if mixed == "of a class":
        everyone = [Sampling("none", seed=i) for i in range(3)]
    with Batch(Model(mixed)) as batch:
        traffic = Traffic(batch, everyone, [0, 0, 1, 2][: len(everyone)]).run()
    for index, sampling in enumerate(everyone):
        states = sampling.alone(Model(mixed))[0]
        assert len(states) == len(traffic.states[index])
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(traffic.states[index], states, strict=True))
    said = {warning for reports in traffic.reports.values() for report in reports.values() for warning in report.warnings if "one by one" in warning}
    assert said
    assert all(why in warning for warning in said)


def test_what_tells_nothing_is_seldom_compared() -> None:
    """Law: a model that returns zeros cannot be seen to keep rows apart; finding that out again and again costs little."""
    everyone = [Sampling("none", seed=i, spoil=lambda step, x: x * 0) for i in range(4)]
    model = Model()
    with Batch(model) as batch:
        Traffic(batch, everyone, [0] * 4).run()
    assert model.took()[0] <= 4 * len(TIMES) + 2 * 8


def test_a_bad_request_that_is_the_first_ends_nothing_for_the_others() -> None:
    """Law: what one request's arguments do to a call is no reason to call the model for each alone."""
    fine, wrong = Sampling("none", seed=1), Sampling("none", seed=2, texts=5)
    model = Model()
    with Batch(model) as batch:
        traffic = Traffic(batch, [wrong, fine, fine, fine], [0] * 4).run()
        assert list(traffic.errors) == [0]
        model.took()
        Traffic(batch, [fine] * 3, [0] * 3).run()
        assert model.took()[0] == len(TIMES)


def test_who_calls_under_autocast_gets_what_autocast_gives() -> None:
    """Law: autocast is the caller's, whichever thread evaluates."""

    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.requires_grad_(False)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                hidden_states = block(hidden_states)
            return hidden_states

    model, x = Casts(), torch.randn(2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model(x)
    with Batch(model) as batch:
        cast, plain = batch.join("none"), batch.join("none")
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                first = cast(hidden_states=x)
            second = plain(hidden_states=x)
            batch.tick()
            assert torch.equal(first.result(0), wanted)
            assert torch.equal(second.result(0), model(x))


def test_where_memory_is_short_calls_are_of_half_as_many() -> None:
    """Law: a call that runs out of memory is made in halves; nobody notices."""
    everyone = [Sampling("reuse:interval=2", seed=i) for i in range(6)]
    with Batch(Model(most=3)) as batch:
        traffic = Traffic(batch, everyone, [0] * 6).run()
        assert not traffic.errors
    for index, sampling in enumerate(everyone):
        assert same(traffic.states[index], sampling.alone(Model())[0])


class Waits:
    """Computes every step, and takes long for it: sleeps once, and then waits for somebody."""

    def __init__(self, go: threading.Event) -> None:
        self.go = go

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
        if step.index == 1:
            threading.Event().wait(0.06)
        if step.index > 1:
            assert self.go.wait(60)
        return None


def test_a_slow_policy_is_waited_for_once() -> None:
    """Law: then it is evaluated in a thread of its own, the others go on, and it gets what it gets alone."""
    go = threading.Event()
    slow, quick = Sampling(lambda: (Waits(go),), seed=1), Sampling("reuse:interval=2", seed=2)
    model = Model()
    with Batch(model, patience=0.05) as batch:
        Traffic(batch, [quick], [0]).run()
        request, x = batch.join(slow.policy, timesteps=TIMES), slow.start()
        states = []
        for step in range(3):
            future = request(**slow.calls(step, x)[0])
            if step == 2:
                assert batch.tick() == 0
                traffic = Traffic(batch, [quick, quick], [0, 1]).run()  # while it waits
                assert not future.done()
                go.set()
            else:
                batch.tick()
            x = slow.update(x, [future.result(60)])
            states.append(x)
        request.leave()
        assert "a thread of its own" in request.report.warnings[-1]
    assert same(states, slow.alone(Model())[0][:3])
    assert same(traffic.states[0], quick.alone(Model())[0])


def test_who_leaves_takes_his_features_along_and_the_model_is_as_it_was() -> None:
    """Law: a request's features are let go when it leaves, whatever it still wants; closing restores the model, and nothing keeps it alive."""
    model = Model()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    batch = Batch(model)
    held: list[weakref.ref[Any]] = []

    class Watches:
        @foreseer.hookimpl
        def features_wanted(self, run: foreseer.Run) -> tuple[foreseer.Site, ...]:
            return (foreseer.Site(0),)

        @foreseer.hookimpl
        def on_features(self, run: Any, step: Any, rows: Any, features: Any) -> None:
            held.extend(weakref.ref(tensor) for tensor in features.values())

    sampling = Sampling("taylorseer:interval=3,target=last_block")
    request = batch.join(sampling.policy, timesteps=TIMES, observers=[Watches()])
    future = request(**sampling.calls(0, sampling.start())[0])
    batch.tick()
    del future
    waiting = request(**sampling.calls(1, sampling.start())[0])
    request.leave()
    request.leave()
    assert waiting.cancelled()
    assert held
    assert batch.tick() == 0
    with pytest.raises(ContractError, match="has left"):
        request(**sampling.calls(1, sampling.start())[0])
    assert len(request.reports) == 1
    gone = weakref.ref(request)
    del request, waiting
    gc.collect()
    assert gone() is None
    assert not [ref for ref in held if ref() is not None]
    batch.close()
    batch.close()
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    foreseer.attach(model, "none").detach()
    closed = weakref.ref(batch)
    del batch
    gc.collect()
    assert closed() is None


def test_cancelling_one_evaluation_is_a_step_that_was_skipped() -> None:
    """Law: who cancels a future gets nothing for it, and may go on."""
    sampling = Sampling("reuse:interval=2")
    with Batch(Model()) as batch:
        request, x = batch.join(sampling.policy, timesteps=TIMES), sampling.start()
        first = request(**sampling.calls(0, x)[0])
        batch.tick()
        cancelled = request(**sampling.calls(1, x)[0])
        assert cancelled.cancel()
        assert batch.tick() == 0
        again = request(**sampling.calls(2, x)[0])
        batch.tick()
        assert first.done()
        assert again.result().shape == x.shape
        with pytest.raises(CancelledError):
            cancelled.result()
        waiting = [request(**sampling.calls(3, x)[0])]
        waiting[0].add_done_callback(lambda future: waiting.append(batch.join("none")(**sampling.calls(0, x)[0])))
        request.leave()
        assert not wait(waiting[:1], 5).not_done
        assert batch.tick() == 1  # what the callback wanted


def test_requests_come_from_tasks_and_threads() -> None:
    """Law: whoever asks where, one worker ticks; who lingers makes fewer calls."""
    everyone = [Sampling(POLICIES[i % len(POLICIES)], seed=i) for i in range(8)]
    model = Model()

    async def sample(batch: Batch, sampling: Sampling) -> list[torch.Tensor]:
        x, states = sampling.start(), []
        with batch.join(sampling.policy, timesteps=TIMES) as request:
            for step in range(sampling.steps):
                x = sampling.update(x, [await asyncio.wrap_future(request(**call)) for call in sampling.calls(step, x)])
                states.append(x)
        return states

    async def serve() -> list[list[torch.Tensor]]:
        with Batch(model, linger=1.0) as batch:
            over = threading.Event()

            def ticks() -> None:
                while not over.is_set():
                    batch.tick(wait=0.05)

            worker = asyncio.create_task(asyncio.to_thread(ticks))
            found = await asyncio.gather(*(sample(batch, sampling) for sampling in everyone))
            over.set()
            await worker
            return found

    found = asyncio.run(serve())
    for sampling, states in zip(everyone, found, strict=True):
        assert same(states, sampling.alone(Model())[0])


def test_a_model_that_is_changed_meanwhile_is_looked_at_anew() -> None:
    """Law: a hook that comes while requests are under way is followed, as it is for each alone."""
    sampling = Sampling("taylorseer:interval=3,target=last_block", seed=4)
    model = Model()

    def change(tick: int) -> None:
        if tick == 4:
            model.blocks[1].register_forward_hook(lambda module, args, output: output * 1.5)

    with Batch(model) as batch:
        traffic = Traffic(batch, [sampling, sampling], [0, 2]).run(change)
        later = Traffic(batch, [sampling], [0]).run()
    changed = Model()
    changed.blocks[1].register_forward_hook(lambda module, args, output: output * 1.5)
    assert same(later.states[0], sampling.alone(changed)[0])
    assert not same(traffic.states[0], traffic.states[1])
    assert any("began anew" in warning for warning in traffic.reports[0]["model"].warnings)


def test_who_interrupts_a_tick_interrupts_what_is_under_way_in_it() -> None:
    """Law: an interrupt comes through, and no future is left without an answer."""

    class Interrupts:
        @foreseer.hookimpl
        def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
            if step.index == 1:
                raise KeyboardInterrupt
            return None

    samplings = [Sampling("none", seed=1), Sampling(lambda: (Interrupts(),), seed=2)]
    with Batch(Model()) as batch:
        requests = [batch.join(sampling.policy, timesteps=TIMES) for sampling in samplings]
        for step in range(2):
            futures = [request(**sampling.calls(step, sampling.start())[0]) for request, sampling in zip(requests, samplings, strict=True)]
            if step == 1:
                with pytest.raises(KeyboardInterrupt):
                    batch.tick()
            else:
                batch.tick()
        assert all(future.done() for future in futures)
        after = requests[0](**samplings[0].calls(2, samplings[0].start())[0])
        assert batch.tick() == 1
        assert after.result() is not None


def test_bad_input_is_refused_at_once() -> None:
    """Law: an error names what was given and what to write."""
    model = Model()
    for name, value in (("max_rows", 0), ("max_rows", True), ("linger", -1), ("patience", float("nan"))):
        with pytest.raises(OptionError, match=f"{name}={value}"):
            Batch(model, **{name: value})
    with Batch(model) as batch:
        with pytest.raises(ContractError, match="attached already"):
            Batch(model)
        with pytest.raises(ContractError, match="attached already"):
            foreseer.attach(model, "none")
        for wrong in ({"on_error": "no"}, {"storage": 3}, {"num_steps": 0}, {"nothing": 1}):
            with pytest.raises(OptionError, match=next(iter(wrong))):
                batch.join("taylorseer", **wrong)
        request = batch.join("none")
        with pytest.raises(ContractError, match="nothing was evaluated"):
            _ = request.report
        assert batch.tick() == 0
    for late in (lambda: batch.join("none"), batch.tick):
        with pytest.raises(ContractError, match="closed"):
            late()


def test_who_closes_or_ticks_from_inside_of_a_tick_is_told() -> None:
    """Law: nothing hangs: a policy that does it raises, and a callback, which runs when the tick has ended, may."""
    batch = Batch(Model())

    class Closes:
        @foreseer.hookimpl
        def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
            (batch.close, batch.tick)[step.index]()
            return None

    sampling = Sampling(lambda: (Closes(),))
    with batch.join(sampling.policy, timesteps=TIMES) as request:
        for step in range(2):
            future = request(**sampling.calls(step, sampling.start())[0])
            batch.tick()
            with pytest.raises(ContractError, match="tick"):
                future.result(0)
    request = batch.join("none")
    request(**sampling.calls(0, sampling.start())[0]).add_done_callback(lambda future: batch.close())
    assert batch.tick() == 1
    with pytest.raises(ContractError, match="closed"):
        batch.tick()


def test_however_many_requests_there_were_memory_is_flat_and_none_is_lost() -> None:
    """Law: what is held depends on who is under way, and not on who was; each ends as it wants to."""
    counts, model, chance = [], Model(), random.Random(0)
    with Batch(model, max_rows=12) as batch:
        under_way: list[tuple[Request, Sampling, list[torch.Tensor]]] = []
        begun = ended = 0
        while begun < MANY or under_way:
            while begun < MANY and len(under_way) < 8:
                sampling = Sampling(chance.choice(POLICIES), begun, chance.choice((1, 2)), texts=chance.choice((1, 2)), steps=chance.choice((2, 4, 6)))
                under_way.append((batch.join(sampling.policy, timesteps=TIMES), sampling, [sampling.start()]))
                begun += 1
                if begun in (MANY // 2, MANY):
                    model.took()
                    gc.collect()
                    counts.append(len(gc.get_objects()))
            asked = [[request(**call) for call in sampling.calls(len(states) - 1, states[-1])] for request, sampling, states in under_way]
            batch.tick()
            for (_, sampling, states), futures in zip(under_way, asked, strict=True):
                states.append(sampling.update(states[-1], [future.result(0) for future in futures]))
            for request, sampling, states in under_way:
                if len(states) > sampling.steps:
                    assert request.reports
                    request.leave()
                    ended += 1
            under_way = [each for each in under_way if not each[0].left]
        assert not batch.requests
    assert ended == MANY
    assert counts[1] < counts[0] + 4000  # other eight are under way
