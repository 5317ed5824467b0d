"""Safety: nothing is forecast out of nothing, nothing that is not a number is accepted, and no row is
forecast for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.errors import ContractError, OptionError
from foreseer.testing.check import broken, law, only, plans, policies, verifies
from foreseer.testing.plays import STEPS, Play, accept_all, noise_at, play, run_of, some_rejected
from foreseer.testing.spy import Tamper, altered
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import Feature, World, constant, exponential, mixed, noise
from foreseer.types import Evidence, Step

LONGEST = 16
"""Forecasts in a row, of features that cannot be forecast, that no policy needs."""


@law("safety", plans, "the first step is computed")
def check_first_step_computed(subject: Subject) -> None:
    """Nothing is planned to be forecast before something was computed.

    Why: there is nothing to forecast from. The session computes such a row whatever the plan says, so that
    the plan, its reason and the policy's own counters tell something else than what happened.

    Would have caught: cache-dit 1.5.3 in its documented transformer-only mode counts a context one call too
    long. From the second request on its first step reuses the residual of the request before, and its summary
    goes on reporting the steps of the mask.
    """
    worlds: tuple[Feature, ...] = (mixed, constant)
    for feature in worlds:
        done = play(subject, World(feature), steps=3)
        step, plan = done.spy.plans[0]
        if plan is not None and plan.forecast and not all(plan.compute or (False,)):
            broken(
                f"the plan of step {step.index}, before anything was computed, forecasts {len(plan.forecast)} sites",
                "Plan None in the first step",
            )


def _poisoned(computed: float | None, other: float | None, columns: slice) -> Tamper:
    """Show the policy evidence whose row 1 holds these values in every verdict: what was computed, and all
    that it may be compared with.
    """

    def filled(tensor: Tensor, value: float | None) -> Tensor:
        tensor = tensor.clone()
        if value is not None:
            tensor[1, columns] = value
        return tensor

    def evidence(_: Step, shown: Evidence) -> Evidence:
        return altered(shown, lambda now: filled(now, computed), lambda then, _: filled(then, other))

    return Tamper(evidence=evidence, verdict=accept_all().verdict)


def _far_from_nothing() -> Tamper:
    """Show the policy evidence whose row 1 is a million, where relative errors divide by zeros."""
    draft, moved = _poisoned(0.0, 1e6, slice(None)), _poisoned(1e6, 0.0, slice(None))

    def evidence(step: Step, shown: Evidence) -> Evidence:
        chosen = moved.evidence if shown.forecast is None else draft.evidence
        assert chosen is not None
        return chosen(step, shown)

    return attrs.evolve(draft, evidence=evidence)


@law("safety", verifies, "{} verdicts on bad evidence")
def check_nan_rejected(subject: Subject) -> int:
    """What is not a number is never accepted: where evidence is NaN or infinite, ``accept`` is False or the
    error is not finite.

    One row of the evidence holds NaN or infinity, wholly or in one entry: what was computed, or what it is
    held against (the forecast, ``before``, ``anchor``), or both; or what a relative error divides by is all
    zero.

    Why: NaN compares False with everything. ``reject = error > threshold`` therefore accepts it, and one bad
    row spoils every step that follows.

    Would have caught: diffusers' first-block cache tests ``diff > threshold``: a residual that is NaN is
    accepted, and so is 0/0.
    """
    cases = [
        (f"{name} in {part} of {side}", _poisoned(values[0], values[1], columns))
        for name, bad in (("NaN", math.nan), ("infinity", math.inf))
        for part, columns in (("one entry", slice(0, 1)), ("every entry", slice(None)))
        for side, values in (("computed", (bad, None)), ("what it is held against", (None, bad)), ("both", (bad, bad)))
    ]
    zeros = _far_from_nothing()
    seen = 0
    for what, tamper in (*cases, ("zeros to divide by and a million on the other side", zeros)):
        for j in play(subject, World(constant), tamper=tamper, steps=10).spy.judgements:
            over = tamper is zeros and j.error and j.error[1] > j.threshold
            if len(j.error) == 3 and j.accept[1] and math.isfinite(j.error[1]) and not over:
                broken(
                    f"with {what}, verify accepted the row at step {j.step} with an error of {j.error[1]:.4g}",
                    "Write accept = error <= threshold (False for NaN), leave the error as it is, and do not replace NaN (nan_to_num, clamp, masked means)",
                )
            seen += 1
    return seen


def _longest(done: Play) -> tuple[int, int, int]:
    """The longest stretch of forecasts of a row: its length, the row, the step of its end."""
    longest, counts = (0, 0, 0), [0] * len(done.world.labels)
    for outcome in done.spy.outcomes:
        for row, computed in enumerate(outcome.computed):
            counts[row] = 0 if computed else counts[row] + 1
            longest = max(longest, (counts[row], row, outcome.step.index))
    return longest


@law("safety", plans)
def check_bounded_drafting(subject: Subject) -> str:
    """No row is forecast for ever: at most ``max_draft_steps`` times in a row where that is declared, and not
    on and on where features cannot be forecast.

    With white noise every row is computed again within 17 steps. Where ``max_draft_steps`` is declared, it
    holds even where every draft is perfect and where single rows were computed in between.

    Why: errors add up. A row that is never computed again has left the model.

    Would have caught: cache-dit with a static mask shorter than the run forecasts every step after the mask,
    silently.
    """
    most, worst = subject.can.max_draft_steps, (0, 0, 0)
    bound = LONGEST if most is None else most
    steps = 3 * max(LONGEST, bound)
    declared = f"max_draft_steps={most} is declared"
    instead = "Count per row in commit, and have Plan.compute name the rows that are due"
    tries: list[tuple[str, Feature, Tamper | None]] = [("white noise", noise, None)]
    if most is None:
        declared = f"white noise cannot be forecast, and {LONGEST} is more than enough"
        instead += "; or declare max_draft_steps, if so many are meant"
    else:
        tries += [("constant features", constant, None), ("rows rejected in turn", constant, some_rejected())]
    for what, feature, tamper in tries:
        run = run_of(World(feature), num_steps=steps)
        found = _longest(play(subject, World(feature), run=run, tamper=tamper, steps=steps))
        if found[0] > bound:
            story = f"row {found[1]} was forecast {found[0]} times in a row up to step {found[2]}"
            broken(f"with {what}, {story}; {declared}", instead)
        worst = max(worst, found)
    return f"at most {worst[0]} forecasts in a row"


def _falling(number: int, start: float = 1000.0) -> tuple[float, ...]:
    return tuple(start * (1 - k / max(number - 1, 1)) for k in range(number))


def _of(number: int) -> dict[str, Any]:
    return {"num_steps": number, "timesteps": _falling(number)}


GRIDS: tuple[tuple[str, dict[str, Any], Sequence[int]], ...] = (
    ("nothing known of the schedule", {"num_steps": None, "timesteps": None}, range(STEPS)),
    ("a number of steps and no timesteps", {"timesteps": None}, range(STEPS)),
    ("noise levels", {"sigmas": _falling(STEPS, 14.6)}, range(STEPS)),
    ("timesteps and noise levels from 1 to 0", {"timesteps": _falling(STEPS, 1.0), **noise_at(_falling(STEPS))}, range(STEPS)),
    *((f"{number} step{'s' * (number > 1)}", _of(number), range(number)) for number in (1, 2, 3, 7, 25)),
    ("timesteps that come twice", {"timesteps": tuple(1000.0 * (1 - (k // 2) / 12) for k in range(STEPS))}, range(STEPS)),
    ("rising timesteps", {"timesteps": tuple(k / STEPS for k in range(STEPS))}, range(STEPS)),
    ("timesteps that are all the same", {"timesteps": (500.0,) * STEPS}, range(STEPS)),
    ("a stream that is called in some steps only", {}, (0, 1, 2, 4, 5, 9, 10, 11, 12, 17, 18, 23)),
    ("more steps than declared", _of(12), range(STEPS)),
)
"""What is tried: in words, what the run knows, which steps are evaluated. All else is as in `run_of`:
timesteps, and no noise levels.
"""


@law("safety", policies)
def check_step_grid(subject: Subject) -> str:
    """Steps are counted, not recognised: any grid of timesteps is run through, or refused in ``setup`` by an
    error that says what is missing.

    Tried with a number of steps and without, with timesteps and without, with noise levels; with one step,
    two, and odd numbers of them; with timesteps that come twice (Heun), rise (Lumina), fall from 1 to 0 (flow
    matching) or are all the same; and with a stream that is not called in every step. No forecast may become
    NaN where all features are numbers.

    Why: Heun visits a timestep twice; in Lumina and Z-Image they rise; LTX's condition pipeline gives the
    same one at every call.

    Would have caught: diffusers' MagCache counts steps wrongly with Wan 2.2's two transformers: its state is
    never reset, and calibration never ends (diffusers #14025, #14027). cache-dit without
    ``num_inference_steps`` is never reset either: the second request has no warm-up.
    """
    refused = []
    for what, known, steps in GRIDS:
        world = World(exponential)
        run = attrs.evolve(run_of(world), **known)
        try:
            done = play(subject, world, run=run, as_given=True, steps=steps)
        except (OptionError, ContractError) as error:
            if not any("in setup of" in note for note in getattr(error, "__notes__", ())):
                broken(f"with {what}: {error}", "Refuse a run in setup, before anything was computed, or run through it")
            if run.num_steps is None and not any(word in str(error) for word in ("num_steps", "timesteps", "sigmas", "log_snr")):
                broken(f"with {what}, setup says: {error}", "Say what to give: num_steps= or timesteps=")
            refused.append(what)
            continue
        for forecast in done.spy.forecasts:
            for site, values in forecast.values.items():
                if not torch.isfinite(values).all():
                    broken(f"with {what}, the forecast of {site} at step {forecast.step} is not finite", "Count steps by step.index; timesteps may repeat")
    return "every grid" + (f"; {', '.join(dict.fromkeys(refused))} is refused in setup" if refused else "")


@law(
    "safety",
    only(lambda can: can.verified, "it does not declare verified = True"),
    "{} forecasts used, all judged",
)
def check_verified(subject: Subject) -> int:
    """Where ``verified`` is declared, no forecast is used unseen: every row that was not computed was judged
    in that very step, and accepted.

    Why: "verified" is what a user pays the verification for.

    Would have caught: SpeCa's released code never verifies the first draft after a full step, and measures a
    step's error to choose what the next one does; the step itself is used all the same.
    """
    seen = 0
    for feature in (mixed, constant, noise):
        done = play(subject, World(feature))
        for outcome in done.spy.outcomes:
            if not outcome.full and outcome.accept is None:
                broken(
                    f"at step {outcome.step.index} a forecast was used and nothing was judged",
                    "Plan a probe in every step that forecasts, or declare verified = False",
                )
            judged = next((j for j in done.spy.judgements if j.step == outcome.step.index), None)
            for row, computed in enumerate(outcome.computed):
                if not computed and judged is not None and judged.error[row] > judged.threshold:
                    broken(
                        f"at step {outcome.step.index}, row {row} was used with an error of {judged.error[row]:.4g} over the threshold {judged.threshold:.4g}",
                        "Reject it, or declare verified = False",
                    )
            seen += outcome.computed.count(False)
    return seen
