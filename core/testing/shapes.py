"""Shapes: what a policy returns looks as the contract says, for any model, batch, dtype and memory layout."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.errors import ContractError, OptionError
from foreseer.testing.check import broken, law, plans, policies, predicts, verifies
from foreseer.testing.plays import Play, never_changed, play, run_of, some_rejected, stage_of
from foreseer.testing.subject import Subject
from foreseer.testing.waiting import waits_noted
from foreseer.testing.worlds import MANY, PARTS, World, mixed
from foreseer.trial import check_verdict
from foreseer.types import OUTPUT, Plan, Run, Weights

DEVICE = (
    "Make tensors with device=evidence.computed.device, or of one that you were given: error.new_tensor(...). Read none of their numbers: no .item(), "
    ".tolist(), .cpu(), .numpy(), and no `if` of a tensor; the session does it once, and commit is told everything on the host"
)

ALL, ONE = (0, 1, 2), (1,)
TENSORS: tuple[tuple[torch.dtype, tuple[int, ...], bool, int | None], ...] = (
    (torch.float64, ALL, True, None),
    (torch.float32, ALL, False, 6),
    (torch.bfloat16, ALL, True, 3),
    (torch.float32, ONE, True, 6),
    (torch.float32, MANY, True, 6),
)
"""Dtypes, rows, whether contiguous, and tokens that are tried: as many as rows, and another number than there
are rows or channels.
"""


def _worlds() -> list[tuple[str, World]]:
    worlds = []
    for dtype, labels, contiguous, tokens in TENSORS:
        world = World(mixed, labels=labels, dtype=dtype, contiguous=contiguous, tokens=tokens)
        name = f"features {str(dtype).removeprefix('torch.')} {tuple(world.output(0).shape)}{'' if contiguous else ', not contiguous'}"
        worlds.append((name, world))
    return worlds


def _plays(subject: Subject) -> Iterator[tuple[str, Play]]:
    """In words, and the run. The session refuses what it cannot use."""
    for name, world in _worlds():
        try:
            yield name, play(subject, world, tamper=some_rejected(world.labels), steps=12)
        except ContractError as refusal:
            refusal.add_note(f"with {name}")
            raise


@law("shapes", predicts, "{} forecasts")
def check_forecast_signature(subject: Subject) -> int:
    """There is a forecast for every requested site, of the recorded shape and dtype.

    Weights are float64 ``(rows, anchors)``, finite, and 0 where a row has no anchor. Tried in float64,
    float32 and bfloat16, with features ``(rows, channels)`` and ``(rows, tokens, channels)``, with one row,
    three and nine, and with features that are not contiguous.

    Why: a forecast in another dtype changes the dtype of everything behind it, or its precision; one of
    another shape may broadcast.

    Would have caught: cache-dit 1.5.3 with another batch size inside one context: the residual of one row is
    broadcast onto two, without an error.
    """
    seen = 0
    for name, done in _plays(subject):
        for forecast in done.spy.forecasts:
            for site, draft in (forecast.answer or {}).items():
                where = f"at step {forecast.step} ({name}) predict_features gave"
                values = draft.values if isinstance(draft, Weights) else np.zeros(1)
                if not np.isfinite(values).all():
                    broken(
                        f"{where} weights that are not finite for {site}: {values.tolist()}",
                        "Return None, or reuse, where there are too few anchors",
                    )
                if isinstance(draft, Weights) and (values[np.isnan(forecast.anchors)] != 0).any():
                    broken(
                        f"{where} weight to anchors that are not there, for {site}: {values.tolist()}",
                        "Give 0 where anchors are NaN",
                    )
                seen += site in forecast.sites
    return seen


@law("shapes", verifies, "{} verdicts")
def check_verdict_signature(subject: Subject) -> int:
    """A verdict is one error and one answer per row: ``error (R,)`` float32, ``accept (R,)`` bool, and a
    threshold that is a number.

    Why: a single number for a batch is what keeps a method from deciding row by row; an answer that is not a
    tensor makes the host wait for the device once more than it has to.

    Would have caught: diffusers' first-block cache decides by ``.item()`` of one mean, once a batch, and
    stops the host at every step.
    """
    seen = 0
    for name, done in _plays(subject):
        for judgement in done.spy.judgements:
            if judgement.answer is None:
                continue
            where = f"at step {judgement.step} ({name})"
            try:
                verdict = check_verdict(judgement.answer, len(done.world.labels))
            except ContractError as refusal:
                broken(f"{where} {refusal}", "Return Verdict(error, accept, threshold), or None")
            if verdict.error.dtype != torch.float32:
                broken(f"{where} verify gave error as {verdict.error.dtype}", "Give float32: error.float()")
            if any(e < 0 for e in judgement.error):
                broken(f"{where} verify gave a negative error: {judgement.error}", "Errors are distances: non-negative")
            if not isinstance(verdict.threshold, (int, float)):
                kind = type(verdict.threshold).__name__
                broken(f"{where} verify gave a threshold that is a {kind}", "Give a float: it is for the report")
            seen += 1
    return seen


@law("shapes", plans)
def check_plan_valid(subject: Subject) -> str:
    """A plan can be carried out, whatever the model: its sites are recorded, its probe is a block that there
    is, ``compute`` has R entries or none.

    Tried on models of one, two and six blocks, with and without module parts, with one row, three and nine,
    and on one that shows nothing in front of its blocks. A policy may refuse a model in ``setup``, with an
    error of foreseer's that says why; where it asks for a place that is not shown, the session refuses.

    Why: a policy meets models that its author has never seen.

    Would have caught: the released TaylorSeer and SpeCa code has a depth of 28 and ``activated_steps = [49]``
    written into it. cache-dit's default of eight first blocks exceeds the blocks of FLUX.2-klein, and with
    four and four of six blocks it computes eight, silently wrong.
    """
    seen, refused = 0, []
    most = max(6, stage_of(subject)[1])
    shapes: tuple[tuple[int, tuple[str, ...], tuple[int, ...], bool], ...] = (
        (1, (), (0,), True),
        (1, PARTS, ALL, True),
        (2, (), ALL, True),
        (most, PARTS, ALL, True),
        (most, PARTS, MANY, True),
        (most, PARTS, ALL, False),
    )
    for depth, parts, labels, front in shapes:
        world = World(mixed, depth=depth, parts=parts, labels=labels, front=front)
        where = f"{depth} blocks, parts {parts or 'none'}, {len(labels)} rows{'' if front else ', nothing shown in front of them'}"
        run, done = run_of(world), None
        try:
            done = play(subject, world, run=run, steps=None)
            done.go()
        except (OptionError, ContractError) as error:
            unshown = done is None and not front
            if not unshown and not any("in setup of" in note for note in getattr(error, "__notes__", ())):
                broken(f"on a model of {where}: {error}", "Take depth, sites and rows from the run that setup is given; refuse a model there if you must")
            refused.append(where)
            continue
        for step, plan in done.spy.plans:
            if plan is not None:
                _see_plan(plan, f"on a model of {where}, the plan of step {step.index}", run)
        seen += len(done.spy.plans)
    return f"{seen} plans" + (f"; refuses {', '.join(refused)}" if refused else "")


def _see_plan(plan: Plan, where: str, run: Run) -> None:
    if not all(isinstance(flag, (bool, np.bool_)) for flag in plan.compute):
        broken(f"{where} has compute={plan.compute}", f"Give {run.rows} bools, or none")
    if plan.probe is not None and plan.forecast and plan.probe.block > max(run.depth if site.end == OUTPUT else site.block for site in plan.forecast):
        broken(f"{where} probes block {plan.probe.block}, behind everything that is forecast", "Probe a block whose output is forecast")
    if not isinstance(plan.reason, str):
        broken(f"{where} has a reason that is a {type(plan.reason).__name__}", "Say why in a few words")


@law("shapes", policies, "nothing was written to")
def check_no_mutation(subject: Subject) -> None:
    """What a policy is shown stays as it is, and so does what it has answered.

    The evidence, the history and its anchors are compared before and after; so are the `Weights` that it
    gave, which the session keeps by identity.

    Why: the probed block's output is the model's own tensor. Whoever writes to it writes into the image, and
    into the history.

    Would have caught: cache-dit never skipped a step on MiniMax-H3, because in-place fused kernels destroyed
    the input that it had kept (sglang #33827).
    """
    done = play(subject, World(mixed), tamper=some_rejected())
    if done.spy.written:
        more = f" and {len(done.spy.written) - 1} more" if done.spy.written[1:] else ""
        broken(
            f"it wrote to {done.spy.written[0]}{more}",
            "Work on a copy (tensor.clone(), and no method that ends in an underscore), and build new Weights for each answer",
        )


@law("shapes", policies, "asked {} times")
def check_device(subject: Subject) -> int:
    """Answers live where the evidence and the features live, and no hook makes the host wait for the device.

    A run is made on the device "meta", where tensors have a shape and no numbers: as on a GPU, they cannot be
    mixed with tensors of the CPU; and whoever reads a number fails, in whichever hook, and is noted where it
    passes over the failure. Whoever synchronizes is noted too. Verdicts are given in the policy's stead, and
    inner products as of features that never change.

    Why: the kit runs on a CPU, the model does not. A tensor made without ``device=`` fails in the first
    judged step of the first user, and each ``.item()`` stops the host until the device has done all that it
    was given.

    Would have caught: diffusers' first-block cache decides by ``.item()`` in every step; TeaCache's scripts
    call ``.cpu().item()`` there.
    """
    tamper = attrs.evolve(some_rejected(), outcome=never_changed)
    done = play(subject, World(mixed, tokens=6, device="meta"), tamper=tamper, steps=None)
    try:
        with waits_noted() as waits:
            done.go()
    except Exception as error:
        where = next((note for note in getattr(error, "__notes__", ()) if "of Spy (" not in note), "")
        if isinstance(error, ContractError) or " of " not in where:
            raise
        hook = where.removeprefix("in ").split(" of ")[0]
        broken(f"{hook} of tensors that are not on the CPU (here: meta) raised {type(error).__name__}: {str(error).splitlines()[0][:200]}", DEVICE)
    if waits:
        broken(f"it made the host wait for the device, by {waits[0]}", DEVICE)
    for judgement in done.spy.judgements:
        for name in ("error", "accept"):
            answer = getattr(judgement.answer, name, None)
            if isinstance(answer, Tensor) and answer.device.type != "meta":
                broken(f"verify gave {name} on {answer.device}, of tensors that are on meta", DEVICE)
    return len(done.spy.plans) + len(done.spy.judgements) + len(done.spy.forecasts)
