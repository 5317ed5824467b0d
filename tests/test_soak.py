"""Many runs on one pipeline, several pipelines at once, and threads: nothing grows, and nobody gets what belongs to another."""

import contextlib
import copy
import gc
import itertools
import math
import sys
import threading

import diffusers
import pytest
import torch
from tiny import TINY

import foreseer

FLUX = TINY["FluxPipeline"]
POLICIES = [
    "none",
    "reuse:interval=2",
    "taylorseer:interval=2",
    "taylorseer:interval=2,target=last_block",
    "taylorseer:interval=2,target=output",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=0.5,threshold_decay=1,warmup_steps=2",
    "speca:threshold=0.5,threshold_decay=1,warmup_steps=2,target=last_block",
]
KINDS = [{"batch": batch, "size": size, "steps": 2 + (batch + (size is None)) % 3} for batch in (1, 2, 3, 4) for size in (None, "large")]
"""Eight kinds of call, more than an attachment remembers, of 2 to 4 steps."""


class Cancelled(Exception):  # noqa: N818
    """What a user's callback raises to stop a pipeline."""


def attach(target, text):
    return foreseer.attach(target, foreseer.registry.parse_policy(text))


def cancel_after(last):
    def callback(_pipe, step, _time, values):
        if step == last:
            raise Cancelled
        return values

    return callback


def use(pipe, kind, *, cancelled):
    """One call; None where it is cancelled after its second step."""
    if not cancelled:
        return FLUX.call(pipe, **kind)
    with pytest.raises(Cancelled):
        FLUX.call(pipe, **kind, callback_on_step_end=cancel_after(1))
    return None


def live_tensors():
    """How many tensors are alive, and how many bytes their storages take. Fake tensors, which torch.compile keeps from other tests, have no storage."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter) and found.device.type == "cpu"]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return len(tensors), sum(storages.values())


def attributes_of(pipe):
    """The names of all instance attributes of the pipeline, its scheduler, and every module in it."""
    names = {"pipe": set(vars(pipe)), "scheduler": set(vars(pipe.scheduler))}
    for part, model in pipe.components.items():
        if isinstance(model, torch.nn.Module):
            names |= {f"{part}.{path}": set(vars(module)) for path, module in model.named_modules()}
    return names


def sizes_in(thing, seen=None):
    """The lengths of all containers that an attachment holds, at any depth inside of foreseer."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, (dict, list, set, tuple)):
        inside = [len(thing), *(sizes_in(entry, seen) for entry in (thing.values() if isinstance(thing, dict) else thing))]
        return [entry for entry in inside if entry != []]
    if not type(thing).__module__.startswith("foreseer"):
        return []
    names = [*getattr(thing, "__dict__", ()), *(name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__weakref__")]
    inside = [sizes_in(getattr(thing, name), seen) for name in names if hasattr(thing, name)]
    return [entry for entry in inside if entry != []]


def test_300_runs_of_all_policies_in_turn_on_one_pipeline_leave_nothing_behind():
    pipe = FLUX.build()
    turns = itertools.cycle(enumerate(KINDS))
    known = {}

    def round_of_runs():
        for text in POLICIES:
            with attach(pipe, text) as attached:
                for _ in range(5):
                    number, kind = next(turns)
                    output = use(pipe, kind, cancelled=number % 3 == 1 and kind["steps"] > 2)
                    assert attached.report.outcomes
                    if output is not None:
                        assert torch.equal(output, known.setdefault((text, number), output)), (text, kind)

    round_of_runs()
    first = live_tensors(), attributes_of(pipe)
    rounds = math.ceil(300 / (5 * len(POLICIES)))
    for _ in range(rounds - 1):
        round_of_runs()
    assert (live_tensors(), attributes_of(pipe)) == first
    fresh = FLUX.build()
    FLUX.call(fresh)
    assert attributes_of(pipe) == attributes_of(fresh), "an attachment leaves no attribute that a plain call would not"
    assert torch.equal(FLUX.call(pipe), FLUX.call(fresh))


@pytest.mark.parametrize("text", [POLICIES[2], POLICIES[5], POLICIES[6]])
def test_120_runs_of_one_long_lived_attachment_hold_no_more_than_the_first_few(text):
    pipe, known = FLUX.build(), {}
    FLUX.call(pipe)
    bare = live_tensors()[1]

    def round_of_runs():
        for number, kind in enumerate(KINDS * 3):
            output = use(pipe, kind, cancelled=number % 5 == 2 and kind["steps"] > 2)
            if output is not None:
                assert torch.equal(output, known.setdefault(number % len(KINDS), output)), kind

    with attach(pipe, text) as attached:
        round_of_runs()
        first = live_tensors(), attributes_of(pipe), sizes_in(attached)
        assert len(str(first[2])) > 100, "the attachment's own containers are found"
        for _ in range(4):
            round_of_runs()
        assert (live_tensors(), attributes_of(pipe), sizes_in(attached)) == first
        kept = sum(output.nbytes for output in known.values())
        assert live_tensors()[1] <= bare + kept, "the end of a run lets go of its features"


def test_dead_pipeline_takes_its_attachment_along():
    pipe = FLUX.build()
    before = live_tensors()
    other = FLUX.build()
    attached = attach(other, POLICIES[2])
    FLUX.call(other)
    attached.detach()
    del other, attached
    assert live_tensors() == before
    assert torch.equal(FLUX.call(pipe), FLUX.call(FLUX.build()))


# Several pipelines


def expected(text, **ask):
    pipe = FLUX.build()
    with attach(pipe, text) as attached:
        output = FLUX.call(pipe, **ask)
    return output, attached.report.full_steps


PAIRS = list(zip(POLICIES, POLICIES[3:] + POLICIES[:3], strict=True))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_pipelines_interleaved_step_by_step_get_what_each_gets_alone(one, other):
    """Each runs in a thread of its own, and hands the baton to the other in its callback: one step here, one step there."""
    batons = [threading.Semaphore(1), threading.Semaphore(0)]
    pipes, outputs, order = [FLUX.build(), FLUX.build()], {}, []
    arguments = [arguments_of(steps=4), arguments_of(steps=4, seed=1)]

    def run(me):
        def hand_over(_pipe, _step, _time, values):
            order.append(me)
            batons[1 - me].release()
            batons[me].acquire(timeout=60)
            return values

        batons[me].acquire(timeout=60)
        outputs[me] = call(pipes[me], arguments[me], callback_on_step_end=hand_over)
        batons[1 - me].release()

    with attach(pipes[0], one) as first, attach(pipes[1], other) as second:
        together(lambda: run(0), lambda: run(1))
        assert order == [0, 1] * 4
        for me, (text, attached) in enumerate(((one, first), (other, second))):
            output, full_steps = expected(text, steps=4, seed=me)
            assert torch.equal(outputs[me], output)
            assert attached.report.full_steps == full_steps


def test_pipeline_called_in_the_callback_of_another_disturbs_neither():
    outer, inner = FLUX.build(), FLUX.build()
    found = []

    def call_the_other(_pipe, step, _time, values):
        found.append(FLUX.call(inner, steps=3, seed=step))
        return values

    with attach(outer, POLICIES[2]), attach(inner, POLICIES[5]):
        output = FLUX.call(outer, steps=4, callback_on_step_end=call_the_other)
    assert torch.equal(output, expected(POLICIES[2], steps=4)[0])
    for step in range(4):
        assert torch.equal(found[step], expected(POLICIES[5], steps=3, seed=step)[0])


def with_a_scheduler_of_its_own(pipe):
    return diffusers.FluxPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})


def sharing_everything(pipe):
    return diffusers.FluxPipeline.from_pipe(pipe)


@pytest.mark.parametrize("shared", [with_a_scheduler_of_its_own, sharing_everything])
@pytest.mark.parametrize("text", POLICIES)
def test_pipeline_that_shares_an_attached_transformer_is_refused_and_computes_as_bare(text, shared):
    pipe = FLUX.build()
    second = shared(pipe)
    second.set_progress_bar_config(disable=True)
    assert second.transformer is pipe.transformer
    bare = FLUX.call(FLUX.build(), steps=4)
    with attach(pipe, text) as attached:
        with pytest.raises(foreseer.ContractError, match="attached already"):
            attach(second, "none")
        output = FLUX.call(pipe, steps=4)
        assert torch.equal(FLUX.call(second, steps=4), bare)
        assert len(attached.report.outcomes) == 4
        assert any("4 calls came outside of a run" in warning for warning in attached.report.warnings)
        assert torch.equal(FLUX.call(pipe, steps=4), output)
    assert torch.equal(output, expected(text, steps=4)[0])
    assert torch.equal(FLUX.call(pipe, steps=4), bare)


@pytest.mark.parametrize("text", POLICIES)
def test_pipeline_that_shares_an_attached_transformer_computes_as_bare_in_the_middle_of_a_run(text):
    pipe = FLUX.build()
    second, found = with_a_scheduler_of_its_own(pipe), []
    second.set_progress_bar_config(disable=True)

    def call_the_other(_pipe, step, _time, values):
        found.append(FLUX.call(second, steps=3, seed=step))
        return values

    with attach(pipe, text) as attached:
        output = FLUX.call(pipe, steps=4, callback_on_step_end=call_the_other)
        assert len(attached.report.outcomes) == 4
    assert torch.equal(output, expected(text, steps=4)[0])
    for step in range(4):
        assert torch.equal(found[step], FLUX.call(FLUX.build(), steps=3, seed=step))


# Threads


def arguments_of(**ask):
    """The keyword arguments of one call. Made in the main thread: `Tiny.call` sets seeds and warnings for the whole process."""
    caught = {}

    class Catcher:
        def __call__(self, **arguments):
            caught.update(arguments)
            raise Cancelled

    with pytest.raises(Cancelled):
        FLUX.call(Catcher(), **ask)
    return caught


@torch.no_grad()
def call(pipe, arguments, **extra):
    return pipe(**arguments, **extra)[0]


def together(*jobs):
    """Run each in a thread of its own, begun at one moment; raise what one of them raised."""
    barrier, errors = threading.Barrier(len(jobs)), []

    def run(job):
        try:
            barrier.wait(60)
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.fixture
def _eager_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_switching")
@pytest.mark.parametrize("text", POLICIES)
def test_two_threads_that_call_one_attached_pipeline_get_right_results_or_an_error(text):
    """A pipeline's scheduler is one: without us, the second thread would set back the first's. Never a wrong output, and usable afterwards."""
    pipe, results, refusals = FLUX.build(), [], []
    right = {seed: expected(text, steps=3, seed=seed)[0] for seed in (0, 1)}
    with attach(pipe, text) as attached:
        for _ in range(4):
            jobs = {seed: arguments_of(steps=3, seed=seed) for seed in (0, 1)}

            def job(seed, jobs=jobs):
                try:
                    results.append((seed, call(pipe, jobs[seed])))
                except foreseer.ContractError as error:
                    refusals.append(str(error))

            together(lambda job=job: job(0), lambda job=job: job(1))
        assert len(results) + len(refusals) == 8
        assert len(results) >= 4, "one of the two always gets through"
        for seed, output in results:
            assert torch.equal(output, right[seed])
        assert all("give each thread a pipeline" in refusal for refusal in refusals)
        assert torch.equal(FLUX.call(pipe, steps=3), right[0])
        assert attached.report.finished
    assert torch.equal(FLUX.call(pipe, steps=3), expected("none", steps=3)[0])


@pytest.mark.parametrize("text", POLICIES)
def test_second_thread_in_the_middle_of_a_run_is_refused_and_the_first_goes_on(text):
    pipe, refusals = FLUX.build(), []
    arguments = arguments_of(steps=4, seed=1)

    def intrude():
        try:
            call(pipe, arguments)
        except foreseer.ContractError as error:
            refusals.append(str(error))

    def let_another_in(_pipe, step, _time, values):
        if step == 1:
            together(intrude)
        return values

    with attach(pipe, text):
        output = FLUX.call(pipe, steps=4, callback_on_step_end=let_another_in)
    assert torch.equal(output, expected(text, steps=4)[0])
    assert len(refusals) == 1
    assert "another thread is inside of a call of this pipeline" in refusals[0]


def test_run_that_died_in_one_thread_does_not_lock_the_others_out():
    pipe, outputs = FLUX.build(), []
    arguments = arguments_of(steps=4)

    def die():
        with contextlib.suppress(Cancelled):
            call(pipe, arguments_dying, callback_on_step_end=cancel_after(1))

    with attach(pipe, POLICIES[2]):
        arguments_dying = arguments_of(steps=4)
        together(die)
        together(lambda: outputs.append(call(pipe, arguments)))
    assert torch.equal(outputs[0], expected(POLICIES[2], steps=4)[0])


@pytest.mark.usefixtures("_eager_switching")
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_threads_on_two_pipelines_are_right(one, other):
    texts, pipes = (one, other), (FLUX.build(), FLUX.build())
    right = [expected(text, steps=3, seed=seed)[0] for seed, text in enumerate(texts)]
    outputs = {0: [], 1: []}
    jobs = {me: [arguments_of(steps=3, seed=me) for _ in range(4)] for me in (0, 1)}

    def run(me):
        for arguments in jobs[me]:
            with attach(pipes[me], texts[me]):
                outputs[me].append(call(pipes[me], arguments))

    together(lambda: run(0), lambda: run(1))
    for me in (0, 1):
        assert len(outputs[me]) == 4
        assert all(torch.equal(output, right[me]) for output in outputs[me])


@pytest.mark.usefixtures("_eager_switching")
@pytest.mark.parametrize("text", [POLICIES[2], POLICIES[5]])
def test_thread_on_a_pipeline_that_shares_an_attached_transformer_computes_as_bare(text):
    pipe = FLUX.build()
    second = with_a_scheduler_of_its_own(pipe)
    second.set_progress_bar_config(disable=True)
    mine, theirs = [], []
    jobs = [(arguments_of(steps=4), arguments_of(steps=4)) for _ in range(4)]
    with attach(pipe, text):
        together(
            lambda: mine.extend(call(pipe, first) for first, _ in jobs),
            lambda: theirs.extend(call(second, other) for _, other in jobs),
        )
    assert all(torch.equal(output, expected(text, steps=4)[0]) for output in mine)
    assert all(torch.equal(output, expected("none", steps=4)[0]) for output in theirs)


def test_context_that_another_thread_leaves_is_not_taken_from_the_one_inside(monkeypatch):
    """Both pipelines name their calls by `cache_context` of the one transformer; a name lost in the middle would begin a second stream."""
    pipe = FLUX.build()
    entered, leave, model, own = threading.Event(), threading.Event(), pipe.transformer, type(pipe.transformer).cache_context
    main = threading.get_ident()

    @contextlib.contextmanager
    def slow(self, name):
        with own(self, name):
            if threading.get_ident() == main and other.is_alive():
                leave.set()
                other.join(60)
            yield

    def come_and_go():
        with model.cache_context("uncond"):
            entered.set()
            leave.wait(60)

    monkeypatch.setattr(type(model), "cache_context", slow)
    other = threading.Thread(target=come_and_go)
    with attach(pipe, POLICIES[2]) as attached:
        other.start()
        assert entered.wait(60)
        output = FLUX.call(pipe, steps=4)
        assert list(attached.reports) == ["cond"]
    assert leave.is_set()
    assert torch.equal(output, expected(POLICIES[2], steps=4)[0])
