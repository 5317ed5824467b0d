"""Lifetime: a run begins with nothing, leaves nothing, and holds no more at its end than at its beginning."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch

from foreseer.testing.check import broken, law, policies
from foreseer.testing.plays import STEPS, Play, play, run_of
from foreseer.testing.process import bytes_held, changed_since, runs_elsewhere, snapshot
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import Interrupted, World, mixed, noise
from foreseer.types import Site

IN_THE_PLUGIN = "Keep what changes in attributes of the plugin, made in setup or __init__: none in the module, the class, the factory, or a mutable default"


def _where_they_part(first: Play, second: Play) -> str:
    for a, b in zip(first.spy.outcomes, second.spy.outcomes, strict=False):
        if a.computed != b.computed:
            return f"at step {a.step.index} it computed the rows {a.computed}, and now {b.computed}"
    for index in first.outputs:
        if index in second.outputs and not torch.equal(first.outputs[index].nan_to_num(), second.outputs[index].nan_to_num()):
            return f"the output of step {index} is another one, by up to {(first.outputs[index] - second.outputs[index]).abs().max():.3g}"
    return "the errors, answers, thresholds or costs are other ones"


@law("lifetime", policies, "{} pairs of runs are equal")
def check_fresh_sessions(subject: Subject) -> int:
    """Two sessions of one policy do not meet: run step by step in turn, they give what they give one after
    the other.

    Why: guidance branches, threads and a server's requests are sessions side by side.

    Would have caught: cache-dit patches the class: running a second pipeline of the class overwrites the
    first one's statistics, and disabling both leaves every later one raising AttributeError. With true
    guidance on Flux, both branches share one context and nothing is ever skipped.
    """
    worlds = World(mixed), World(noise)
    apart = [play(subject, world) for world in worlds]
    together = [play(subject, world, steps=None) for world in worlds]
    for index in range(STEPS):
        for session in together:
            session.step(index)
    for alone, beside in zip(apart, together, strict=True):
        beside.session.finish()
        if alone.trace() != beside.trace():
            broken(f"beside another session of the same policy, {_where_they_part(alone, beside)}", IN_THE_PLUGIN)
    return 2


@law("lifetime", policies, "{} runs after an interrupted one are equal")
def check_aborted_run(subject: Subject) -> int:
    """A run that was interrupted leaves nothing behind: the next one is as if it had never been.

    Interrupted in the middle of the model, at several steps.

    Why: users press stop, and servers cancel requests.

    Would have caught: in cache-dit's transformer-only mode an exception in a callback leaks the state into
    the next run, which then computes the steps [1,0,0,0,1,1,0,0] of eight instead of the mask. vllm-omni
    #5882: "without the refresh, cache state leaks across requests".
    """
    before = play(subject, World(mixed))
    for at in (1, 5, STEPS - 2):
        with contextlib.suppress(Interrupted):
            play(subject, World(mixed, fails_at=at))
        after = play(subject, World(mixed))
        if before.trace() != after.trace():
            broken(f"after a run that was interrupted at step {at}, {_where_they_part(before, after)}", IN_THE_PLUGIN)
    return 3


CLOCKS = ("time", "monotonic", "perf_counter", "process_time")


@contextlib.contextmanager
def _leaping_clocks() -> Iterator[None]:
    """Every reading of a clock is a day later than the one before."""
    days = itertools.count(1)
    with contextlib.ExitStack() as stack:
        for name in CLOCKS:
            now = getattr(time, name)()
            stack.enter_context(mock.patch.object(time, name, lambda now=now: now + 86_400.0 * next(days)))
            stack.enter_context(mock.patch.object(time, f"{name}_ns", lambda now=now: int(1e9 * now) + 86_400_000_000_000 * next(days)))
        yield


@contextlib.contextmanager
def sets_in_another_order(salt: int) -> Iterator[None]:
    """Sites hash otherwise, as they do in another process: sets of them are gone through in another order."""
    with mock.patch.object(Site, "__hash__", lambda site: hash((salt, site.block, site.part, site.since))):
        yield


@law("lifetime", policies, "the same bits")
def check_deterministic(subject: Subject) -> str | None:
    """The same inputs give the same bits, whatever the global random numbers, the clocks and the hash seed
    say.

    The second run has other seeds, and clocks that leap a day with every reading, so that every step seems to
    take days. In further ones sites hash otherwise, and a factory that can be imported is run in two
    processes, of two hash seeds.

    Why: what depends on how fast the machine is can be neither repeated nor compared.

    Would have caught: a context of cache-dit's transformer-only mode lives nine calls of an eight-step run,
    so that requests drift by one step each: the same request is 0.4% off the first time and 1.2% the fourth.
    """
    runs = []
    for seed, clocks in ((1, contextlib.nullcontext()), (2, _leaping_clocks())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with clocks:
            runs.append(play(subject, World(mixed)))
    if runs[0].trace() != runs[1].trace():
        broken(
            f"run a second time, with other global random numbers and clocks, {_where_they_part(*runs)}",
            f"{IN_THE_PLUGIN}. Draw from a generator of your own, seeded by an option, and decide by steps rather than by seconds",
        )
    for salt in range(6):
        with sets_in_another_order(salt):
            runs.append(play(subject, World(mixed)))
        if runs[0].trace() != runs[-1].trace():
            broken(f"where sites hash otherwise, as in another process, {_where_they_part(runs[0], runs[-1])}", SORTED)
    told = runs_elsewhere(subject.spec, (1, 2)) if subject.first else []
    if len(set(told)) > 1:
        broken("in two processes, of two hash seeds, it decided differently", SORTED)
    return "the same bits, in other processes too" if told else None


SORTED = "Choose from tuples and dicts, which keep their order, or sort: sets of texts and sites have another order in every process"


@law("lifetime", policies, "nothing that the process shares was changed")
def check_process_untouched(subject: Subject) -> None:
    """A run changes nothing that the whole process shares: no global random number is drawn, no switch of
    torch is left, nor a variable of the environment.

    Why: a policy that draws from the global generator changes the image even where it decides nothing, and a
    comparison with the bare model compares two different noises. One that switches gradients off ends
    somebody's training.

    Would have caught: ToCa's released code draws the scores of its ``random`` mode from the global generator
    (``torch.rand``), between those of the sampler. In transformers, gradients that were switched off in one
    place stayed off, and tests of the Trainer failed (transformers #13257).
    """
    torch.set_grad_enabled(True)
    before = snapshot()
    play(subject, World(mixed))
    changed = changed_since(before)
    if changed:
        broken(
            f"a run changed {'; '.join(changed)}",
            "Use a generator of your own, made in setup with a seed that is an option, and switch only within a with statement: with torch.no_grad()",
        )


@law("lifetime", policies)
def check_bounded_memory(subject: Subject) -> str:
    """A policy holds no more after 80 steps than after 20.

    What counts are the tensors and arrays that can be reached from its plugins, their classes, their modules
    and the caches in them.

    Why: features are large. What grows by one feature a step is out of memory before the run is over, and the
    session's byte limit does not see it.

    Would have caught: cache-dit keeps a transformer alive after ``del pipe``: three rebuilds leave three
    models, their wrappers nested. TaylorSeer, which keeps every module's features, ran out of memory on four
    80 GB GPUs (HunyuanVideo #255).
    """
    world, sizes = World(mixed), {}
    session = play(subject, world, run=run_of(world, num_steps=80), steps=None)
    for index in range(80):
        session.step(index)
        sizes[index + 1] = bytes_held(session.spy.plugins)
    session.session.finish()
    if sizes[80] > sizes[20]:
        broken(f"it held {sizes[20]} bytes of tensors and arrays after 20 steps, and {sizes[80]} after 80", "Keep nothing from step to step but counters")
    return f"{sizes[80]} bytes after 80 steps"
