"""Laws of models that are changed while a policy is attached to them: between runs and in the middle of one."""

import copy
import os
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from counting import counted
from model_changes import (
    CACHED,
    CHANGES,
    MODELS,
    STEPS,
    Subject,
    autocast,
    checkpoint_gradients,
    choose_a_backend,
    compile_a_block,
    go_to_16_bits,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import foreseer
from foreseer import Report
from foreseer.registry import parse_policy

OUTPUT_ALONE = "taylorseer:interval=2,target=output"
"""Of a model that calls its blocks several times in an evaluation."""
POLICIES = [
    "taylorseer:interval=3,max_order=1",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "taylorseer:interval=3,max_order=1,target=last_block",
    "speca:threshold=0.3,threshold_decay=1,max_order=1,warmup_steps=2",
    "none",
    OUTPUT_ALONE,
    "speca:threshold=0.3,threshold_decay=1,max_order=1,warmup_steps=2,target=last_block",
]
ALL = bool(os.environ.get("FORESEER_ALL"))
"""Every model with every change, and not each with some, in turn."""
SHARE = 5
AT = 2
"""The step before which a model is changed in the middle of a run."""
THEIRS = ("should be kept in float32", "In CPU autocast", "Already found a `peft_config`", "Mismatch dtype")
pytestmark = [pytest.mark.filterwarnings(f"ignore:.*{theirs}") for theirs in THEIRS]


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> tuple[Subject, nn.Module, nn.Module]:
    """A model's calls, the model, and one like it."""
    found = Subject.of(request.param)
    return found, found.build(), found.build()


def same(one: Any, other: Any) -> bool:
    ours, theirs = tree_leaves(one), tree_leaves(other)
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, Tensor))


def in_turn() -> list[Any]:
    """Model, change and policy."""
    found = []
    for i, name in enumerate(MODELS):
        for j, change in enumerate(CHANGES):
            policy = OUTPUT_ALONE if "recycling" in name else POLICIES[(i + j) % len(POLICIES)]
            if (i % 13 == 0) if change is compile_a_block else ALL or (i + j) % SHARE == 0:  # compiling takes long
                found.append(pytest.param(name, change, policy, id=f"{name}-{change.__name__}-{policy}"))
    return found


CASES = pytest.mark.parametrize(("subject", "change", "policy"), in_turn(), indirect=["subject"], scope="module")


def bare(subject: Subject, model: nn.Module, change: Callable[[Any], Any], *, at: int = -1) -> list[Any]:
    """What a changed model gives.

    The test is skipped where it has nothing to change, or cannot run then.
    """
    undo: list[Any] = []

    def apply(model: nn.Module) -> None:
        undo.append(change(model))
        if undo[0] is None:
            pytest.skip("nothing to change")

    try:
        if at < 0:
            apply(model)
        return subject.run(model, change=apply, at=at)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"the model itself cannot run like that: {error}")
    finally:
        if undo and undo[0] is not None:
            undo[0]()


def fresh(subject: Subject, model: nn.Module, policy: str) -> list[Any]:
    with foreseer.attach(model, parse_policy(policy)) as attached, attached.run(num_steps=STEPS):
        return subject.run(model)


@CASES
def test_a_model_changed_between_runs_gives_what_a_fresh_attachment_gives(
    subject: tuple[Subject, nn.Module, nn.Module], change: Callable[[Any], Any], policy: str
) -> None:
    """Law: bit for bit, when it was changed and when it was changed back; under `none` what the model itself gives."""
    calls, model, mirror = subject
    plain = bare(calls, mirror, change)
    before = fresh(calls, mirror, policy)
    undo = change(mirror)
    try:
        wanted = fresh(calls, mirror, policy)
    finally:
        undo()
    with foreseer.attach(model, parse_policy(policy)) as attached:
        with attached.run(num_steps=STEPS):
            calls.run(model)
        undo = change(model)
        try:
            with attached.run(num_steps=STEPS):
                changed = calls.run(model)
        finally:
            undo()
        with attached.run(num_steps=STEPS):
            back = calls.run(model)
    assert same(changed, wanted)
    assert same(back, before)
    assert policy != "none" or same(changed, plain)


def computed(reports: dict[str, Report]) -> set[int]:
    """The steps that were computed for all rows. Arguments of another dtype make a stream of their own, behind the first."""
    outcomes = [outcome for report in reports.values() for outcome in report.outcomes]
    assert len(outcomes) == STEPS
    return {step for step, outcome in enumerate(outcomes) if outcome.full}


UNSEEN = (autocast, checkpoint_gradients, choose_a_backend, go_to_16_bits)
"""What leaves modules, hooks and flags as they are; what comes of it is seen by its dtype, or is nothing."""


def begins_anew(change: Callable[[Any], Any], reports: dict[str, Report]) -> bool:
    """Whether what was changed is what a policy has a history of."""
    return change not in UNSEEN and any(report.bytes_held for report in reports.values())


@CASES
def test_a_model_changed_in_the_middle_of_a_run_is_computed_as_it_is(
    subject: tuple[Subject, nn.Module, nn.Module], change: Callable[[Any], Any], policy: str
) -> None:
    """Law: no exception, computed steps are the bare model's before and after, and block calls are the report's.

    Where modules, hooks or flags were changed the report says so.
    """
    calls, model, mirror = subject
    plain = bare(calls, mirror, change, at=AT)
    undo: list[Any] = []
    with counted(model) as count, foreseer.attach(model, parse_policy(policy)) as attached:
        try:
            with attached.run(num_steps=STEPS):
                outputs = calls.run(model, change=lambda model: undo.append(change(model)), at=AT)
            reports = attached.reports
        finally:
            for back in undo:
                back()
    assert count[0] == sum(report.block_rows + report.check_block_rows for report in reports.values())
    steps = computed(reports)
    assert policy != "none" or len(steps) == STEPS
    wrong = [step for step in steps if not same(outputs[step], plain[step])]
    assert not wrong, [report.warnings for report in reports.values()]
    if begins_anew(change, reports):
        assert any("began anew" in warning for report in reports.values() for warning in report.warnings)


CACHES: list[Callable[[], Any]] = [
    lambda: diffusers.FirstBlockCacheConfig(threshold=10.0),
    lambda: diffusers.PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500),
    lambda: diffusers.TaylorSeerCacheConfig(),
    lambda: diffusers.MagCacheConfig(calibrate=True, num_inference_steps=STEPS),
    lambda: diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        current_timestep_callback=lambda: 500,
        is_guidance_distilled=True,
        attention_weight_callback=lambda _: 0.5,
        tensor_format="BCFHW",
    ),
]
"""Those of diffusers."""


def taken(model: Any, first: int) -> Callable[[], Any]:
    """The first of diffusers' caches, from one on, that it has for a model."""
    for i in range(len(CACHES)):
        cache = CACHES[(first + i) % len(CACHES)]
        try:
            copy.deepcopy(model).enable_cache(cache())
            return cache
        except ValueError as error:
            assert "not registered" in str(error)  # noqa: PT017
    raise AssertionError


@pytest.mark.parametrize(
    ("subject", "first", "policy"),
    [(name, i % len(CACHES), POLICIES[i % len(POLICIES)]) for i, name in enumerate(CACHED)],
    indirect=["subject"],
    scope="module",
)
def test_a_cache_that_is_enabled_meanwhile_is_refused(subject: tuple[Subject, nn.Module, nn.Module], first: int, policy: str) -> None:
    """Law: at the next call, in words that say what to do, in the middle of a run too; and when that is done all is as before."""
    calls, model, mirror = subject
    wanted, cache = fresh(calls, mirror, policy), taken(mirror, first)
    with foreseer.attach(model, parse_policy(policy)) as attached:
        with attached.run(num_steps=STEPS):
            assert same(calls.run(model), wanted)
        for at in (0, AT):
            try:
                with (
                    pytest.raises(foreseer.UnsupportedModelError, match=r"disable_cache\(\)"),
                    attached.run(num_steps=STEPS),
                ):
                    calls.run(model, change=lambda model: model.enable_cache(cache()), at=at)
            finally:
                model.disable_cache()
            with attached.run(num_steps=STEPS):
                assert same(calls.run(model), wanted)
