"""Laws of what is shared, copied or wrapped while a policy is attached: each works as if it had been made before attaching."""

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import TINY
from tiny.common import accepted

import foreseer
from foreseer.registry import parse_policy

POLICIES = ["reuse:interval=2", "taylorseer:interval=2,target=output", "cg_taylor:threshold=0.5,warmup_steps=2", "speca:threshold=0.5,target=last_block"]
MIXED = [(name, POLICIES[at % len(POLICIES)]) for at, name in enumerate(TINY)]
BY_SCHEDULER = list({type(TINY[name].build().scheduler).__name__: name for name in reversed(TINY)}.values())
"""A pipeline for each class of schedulers."""
STEPS = 4


@functools.cache
def alone(name: str, policy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the bare pipeline gives, and what it gives with the policy."""
    pipe = TINY[name].build()
    bare = TINY[name].call(pipe, steps=STEPS)
    with foreseer.attach(pipe, parse_policy(policy)):
        return bare, TINY[name].call(pipe, steps=STEPS)


def saved(what: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def with_scheduler(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A view of a pipeline that has a scheduler of its own, as servers make one for each request."""

    def view(pipe: Any) -> Any:
        other = copy.copy(pipe)
        other.scheduler = of(pipe.scheduler)
        return other

    return view


def rebuilt(pipe: Any) -> Any:
    with accepted():
        other = pipe.__class__(**pipe.components)
    other.set_progress_bar_config(disable=True)
    return other


def configured(scheduler: Any) -> Any:
    with accepted():
        return type(scheduler).from_config(scheduler.config)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.copy(pipe)": copy.copy,
    "pipe.__class__(**pipe.components)": rebuilt,
    "copy.copy(scheduler)": with_scheduler(copy.copy),
    "copy.deepcopy(scheduler)": with_scheduler(copy.deepcopy),
    "from_config": with_scheduler(configured),
    "pickle": with_scheduler(lambda scheduler: pickle.loads(pickle.dumps(scheduler))),
    "torch.save": with_scheduler(saved),
}


@pytest.mark.parametrize(("name", "policy", "how"), [(*case, list(COPIES)[at % len(COPIES)]) for at, case in enumerate(MIXED)])
def test_a_view_or_copy_made_while_attached_is_that_of_a_bare_pipeline(name: str, policy: str, how: str) -> None:
    """Law: what is made from an attached pipeline computes as if nobody were attached, during and after, and what is attached stays so."""
    tiny = TINY[name]
    bare, driven = alone(name, policy)
    pipe = tiny.build()
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        before = COPIES[how](pipe)
        assert torch.equal(tiny.call(before, steps=STEPS), bare), "made before a run"
        assert torch.equal(tiny.call(pipe, steps=STEPS), driven)
        full = attached.report.full_steps if attached.reports else []
        after = COPIES[how](pipe)
        assert torch.equal(tiny.call(after, steps=STEPS), bare), "made behind a run"
        assert torch.equal(tiny.call(pipe, steps=STEPS), driven)
        assert not attached.reports or attached.report.full_steps == full
    for each in (pipe, before, after):
        assert torch.equal(tiny.call(each, steps=STEPS), bare), "detached"
        with foreseer.attach(each, parse_policy(policy)):
            assert torch.equal(tiny.call(each, steps=STEPS), driven)


@pytest.mark.parametrize("name", BY_SCHEDULER[:4])
@pytest.mark.parametrize("how", list(COPIES))
def test_a_copy_made_in_the_middle_of_a_run_is_another_ones(how: str, name: str) -> None:
    """Law: what is copied between two steps, and set up for a run of its own, changes nothing of the run."""
    tiny, policy = TINY[name], "reuse:interval=2"
    _, driven = alone(name, policy)
    pipe, made = tiny.build(), []

    def copies(*_: Any) -> None:
        if not made:
            made.append(COPIES[how](pipe))
            scheduler = made[0].scheduler
            if scheduler is not pipe.scheduler:
                scheduler.set_timesteps(2, **({"mu": 1.0} if getattr(scheduler.config, "use_dynamic_shifting", False) else {}))

    with foreseer.attach(pipe, parse_policy(policy)):
        handle = pipe.transformer.register_forward_hook(copies)
        assert torch.equal(tiny.call(pipe, steps=STEPS), driven)
        handle.remove()
    assert made


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("name", BY_SCHEDULER[:4])
def test_three_pipelines_with_one_scheduler_are_attached_and_detached_in_any_order(name: str, order: tuple[int, ...]) -> None:
    """Law: each gets what it gets alone, whoever is still attached; what is detached is bare; at the end the scheduler is as it was."""
    tiny = TINY[name]
    wanted = [alone(name, policy) for policy in POLICIES[:3]]
    pipes = [tiny.build() for _ in range(3)]
    for pipe in pipes[1:]:
        pipe.scheduler = pipes[0].scheduler
    tiny.call(pipes[0], steps=STEPS)
    before = set(vars(pipes[0].scheduler))
    attachments = [foreseer.attach(pipe, parse_policy(policy)) for pipe, policy in zip(pipes, POLICIES, strict=False)]
    gone: list[int] = []
    for which in order:
        for at, pipe in enumerate(pipes):
            assert torch.equal(tiny.call(pipe, steps=STEPS), wanted[at][at not in gone])
        attachments[which].detach()
        gone.append(which)
    assert all(torch.equal(tiny.call(pipe, steps=STEPS), wanted[0][0]) for pipe in pipes)
    assert set(vars(pipes[0].scheduler)) == before


@pytest.mark.parametrize("remove", ["never", "before detaching", "after detaching"])
@pytest.mark.parametrize("when", ["before", "while attached"])
@pytest.mark.parametrize("method", ["set_timesteps", "step"])
@pytest.mark.parametrize("name", BY_SCHEDULER[:4])
def test_somebodys_wrapper_stays_in_place_and_hears_every_call(name: str, method: str, when: str, remove: str) -> None:
    """Law: a wrapper of a scheduler's method works before, during and after, whoever comes and goes first, also where a policy is attached anew."""
    tiny, policy = TINY[name], POLICIES[0]
    bare, driven = alone(name, policy)
    pipe = tiny.build()
    heard: list[str] = []

    def wrap() -> Callable[[], None]:
        inner = getattr(pipe.scheduler, method)
        own = vars(pipe.scheduler).get(method)

        @functools.wraps(inner)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            heard.append(method)
            return inner(*args, **kwargs)

        setattr(pipe.scheduler, method, wrapper)

        def unwrap() -> None:
            delattr(pipe.scheduler, method) if own is None else setattr(pipe.scheduler, method, own)

        return unwrap

    def hears(output: torch.Tensor) -> bool:
        heard.clear()
        return torch.equal(tiny.call(pipe, steps=STEPS), output) and bool(heard)

    unwrap = wrap() if when == "before" else None
    attached = foreseer.attach(pipe, parse_policy(policy))
    unwrap = unwrap or wrap()
    assert hears(driven)
    gone = remove == "after detaching" or (remove, when) == ("before detaching", "while attached")
    if gone and remove == "before detaching":
        unwrap()
    attached.detach()
    if remove == "after detaching":
        unwrap()
    if not gone:
        assert hears(bare)
    for _ in range(2):
        with foreseer.attach(pipe, parse_policy(policy)):
            assert torch.equal(tiny.call(pipe, steps=STEPS), driven)
            if gone:  # a wrapper that is copied along steps the original, with or without us
                assert torch.equal(tiny.call(with_scheduler(copy.deepcopy)(pipe), steps=STEPS), bare)
    assert torch.equal(tiny.call(pipe, steps=STEPS), bare)


@pytest.mark.parametrize("how", [copy.deepcopy, saved, lambda what: pickle.loads(pickle.dumps(what))], ids=["deepcopy", "torch.save", "pickle"])
@pytest.mark.parametrize(("name", "policy"), MIXED[::4])
def test_a_model_that_is_copied_or_saved_while_attached_is_a_bare_one(name: str, policy: str, how: Callable[[Any], Any]) -> None:
    """Law: the copy has nothing of ours, computes as bare, and can be attached to."""
    tiny = TINY[name]
    bare, driven = alone(name, policy)
    pipe, other = tiny.build(), tiny.build()
    with foreseer.attach(pipe, parse_policy(policy)):
        tiny.call(pipe, steps=STEPS)
        for key, part in pipe.components.items():
            if key.startswith("transformer") and part is not None:
                setattr(other, key, how(part))
        assert torch.equal(tiny.call(other, steps=STEPS), bare)
        with foreseer.attach(other, parse_policy(policy)):
            assert torch.equal(tiny.call(other, steps=STEPS), driven)
            assert torch.equal(tiny.call(pipe, steps=STEPS), driven)
