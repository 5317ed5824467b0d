"""Truth: forecasts are made of what was computed, and of nothing else; each row's of its own."""

from __future__ import annotations

import functools

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.outcome import Outcome
from foreseer.testing.check import broken, law, plans, policies, predicts, verifies
from foreseer.testing.partners import ReferenceSchedule
from foreseer.testing.plays import STEPS, Forecaster, Play, explore, play, some_rejected, strategies
from foreseer.testing.process import held
from foreseer.testing.spy import Tamper, altered, same
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import ROWS, World, constant, mixed, noise
from foreseer.types import STREAM, Evidence, Late, Site, Step

HISTORY = "Forecast from history.features and history.anchors as they are given in this call; keep no features, and no forecasts, in the plugin"


@law("truth", policies, "no trace of what was not computed")
def check_only_computed_is_committed(subject: Subject) -> None:
    """Only what was computed is remembered: nothing of a forecast, or of a step that was not computed,
    reaches a later forecast.

    Three things are tried with white noise. What the model would have computed in forecast steps is changed:
    no forecast may change, but for late drafts, which are shown what their own step computes. A predictor
    that was asked in between must answer as one that was not. After a run, no plugin may hold a tensor that
    it was shown: the session keeps the features.

    Why: errors of forecasts that are fed back grow with every step. And what a plugin keeps by itself is seen
    by no byte limit, no storage dtype and no device.

    Would have caught: DMD's fallback in cache-dit takes its differences against the anchor before the last
    one, since its own copy is shifted too late: on 1 + 0.5 t with anchors 0, 1, 2, 5 it forecasts 4.167 and
    4.833 instead of 4.0 and 4.5.
    """
    base = play(subject, World(noise), tamper=some_rejected())
    fates = {o.step.index: o.computed for o in base.spy.outcomes}

    def elsewhere(site: Site, step: float, fates: dict[int, tuple[bool, ...]] = fates) -> Tensor:
        computed = torch.tensor(fates.get(int(step), (True, True, True)))[:, None]
        return torch.where(computed, noise(site, step), noise(site, step, 99))

    other = play(subject, World(elsewhere), tamper=some_rejected())
    for a, b in zip(base.spy.forecasts, other.spy.forecasts, strict=False):
        if a.step != b.step or any(fates[k] != o.computed for k, o in enumerate(other.spy.outcomes[: a.step])):
            break  # the policy took another way, as it may: the evidence was another one
        for site in a.values.keys() & b.values.keys():
            if not isinstance(a.answer[site], Late) and not same(a.values[site], b.values[site]):
                broken(f"the forecast of {site} at step {a.step} depends on what would have been computed in steps that were forecast", HISTORY)
    slices = [part for shown in base.spy.shown for part in (shown, *(shown if shown.dim() > 2 else ()))]
    for kept in held(base.spy.plugins):
        if isinstance(kept, Tensor) and kept.numel() > 1 and any(kept.shape == shown.shape and same(kept, shown) for shown in slices):
            broken(f"after the run it holds a tensor {tuple(kept.shape)} that it was shown", HISTORY)
    if "predict_features" in subject.can.hooks:
        _ask_in_between(subject)


def _ask_in_between(subject: Subject) -> None:
    asked, unasked = (Forecaster(subject, sigmas=True) for _ in range(2))
    for step in range(40, 40 + STEPS):
        computed = step < 44 or step % 5 == 0
        if not computed:
            asked.forecast(step)
        for forecaster in (asked, unasked):
            forecaster.record(step, noise, None if computed else ())
    answers = asked.forecast(40 + STEPS), unasked.forecast(40 + STEPS)
    if (answers[0] is None) != (answers[1] is None):
        broken("whether it is able to forecast depends on how often it was asked", HISTORY)
    for site, values in (answers[0] or {}).items():
        if answers[1] is not None and not same(values, answers[1][site]):
            away = (values - answers[1][site]).abs().max().item()
            broken(f"the forecast of {site} differs by up to {away:.3g} where others were asked for in between: they entered it", HISTORY)


@law("truth", predicts, "{} histories", once=True)
def check_ragged_anchors(subject: Subject) -> int:
    """Each row is forecast from its own anchors: what a batch forecasts after rows were computed at different
    steps is what each row's own run forecasts.

    Tried with features ``(rows, tokens, channels)`` that have as many tokens as rows, and in a run with noise
    levels.

    Why: as soon as a gate decides row by row, rows have different histories. Whoever takes the first row's
    anchors for all is right until then.

    Would have caught: nunchaku's TeaCache in batch mode, which corrupted samples 1 and up and took a
    "batch-aware" rewrite (nunchaku #597, #601). Released methods decide once a batch, where this cannot show.
    """
    st = strategies()

    def tokens(site: Site, step: float) -> Tensor:
        return noise(site, step).reshape(ROWS, ROWS, -1)

    def rows_alone(history: list[tuple[int, set[int]]], ahead: int) -> bool:
        batch, *alone = (Forecaster(subject, labels=labels, sigmas=True) for labels in ((0, 1, 2), (0,), (1,), (2,)))
        step = 40
        for gap, computed in [(0, {0, 1, 2}), *history]:
            step += gap
            batch.record(step, tokens, sorted(computed))
            for row, single in enumerate(alone):
                single.record(step, tokens, (0,) if row in computed else ())
        together, apart = batch.forecast(step + ahead), [single.forecast(step + ahead) for single in alone]
        if together is None:
            return False
        for row, single_forecast in enumerate(apart):
            for site, values in (single_forecast or {}).items():
                away = (together[site][row] - values[0]).abs().max().item()
                if not away <= 1e-9 * (1 + values.abs().max().item()):
                    anchors = batch.bank.anchors[row].tolist()
                    broken(
                        f"row {row}, with anchors {anchors}, is forecast {away:.3g} off what it gets alone at step {step + ahead}",
                        "Use history.anchors[row], for features of any shape (R, ...)",
                    )
        return True

    return explore(
        rows_alone,
        st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 9]), st.sets(st.integers(0, 2), min_size=1)), min_size=1, max_size=7),
        st.sampled_from([1, 2, 3, 5, 12]),
        examples=15,
    )


def _moving(site: Site, step: float) -> Tensor:
    """Blocks whose parts never change, on a stream that does; whole numbers, so that all sums are exact."""
    return torch.round(64 * constant(site)) * (1 + step if site == STREAM else 1)


def _idle(site: Site, step: float) -> Tensor:
    """Likewise, of parts that add nothing."""
    return _moving(site, step) if site == STREAM else torch.zeros_like(constant(site))


@law("truth", predicts)
def check_residual_added(subject: Subject) -> str:
    """What blocks add is forecast as what they add: where it never changes, the forecast is what it was,
    however the stream moves that it is added to.

    Tried where blocks add constants, and where they add nothing.

    Why: the session adds the draft of a residual to the live stream. Whoever forecasts the stream itself, or
    adds the live input that a late draft is shown, adds it twice.

    Would have caught: cache-dit on MiniMax-H3 took its residuals against an input that in-place kernels had
    overwritten (sglang #33827).
    """
    if not subject.can.hooks & {"before_step", "verify"}:
        subject = attrs.evolve(subject, partners=(functools.partial(ReferenceSchedule, residual=True),))
    seen = 0
    for feature, tamper, what in ((_moving, some_rejected(), "which never changes"), (_idle, None, "which is nothing")):
        done = play(subject, World(feature), tamper=tamper)
        accepted = {outcome.step.index: outcome.accept or (True,) * ROWS for outcome in done.spy.outcomes}
        for forecast in done.spy.forecasts:
            used = torch.tensor(accepted[forecast.step]) & ~torch.from_numpy(forecast.anchors[:, 0]).isnan()
            for site, values in forecast.values.items():
                if site.since is None or not used.any():
                    continue
                truth = done.world.forward(forecast.step, substitute={}, record=(site,)).features[site]
                away = (values - truth)[used].abs().max().item()
                if not away <= 1e-4 * (1 + truth.abs().max().item()):
                    broken(
                        f"at step {forecast.step} the forecast of {site}, {what}, is up to {away:.4g} off",
                        "Forecast what the blocks add; the session adds it to what arrives",
                    )
                seen += 1
    return f"{seen} forecasts" if seen else "it forecasts no residual"


@law("truth", verifies, "{} verdicts alike")
def check_evidence_not_kept(subject: Subject) -> int:
    """A verdict follows from the evidence of its own step and from what ``commit`` was told: nothing that
    ``verify`` was shown of a row in a step that was forecast enters a later one, or a plan.

    In every other step the gate is shown something else of the rows that are forecast in it. Verdicts, and
    what is told of them, are given in its stead, so that all else is the same.

    Why: a gate that keeps its own last evidence compares with the step in which it was last asked: not with
    the step before, for it is not asked where a step is computed; and not with the row's last computed step,
    for drafts are rejected row by row. ``Evidence.before`` and ``Evidence.anchor`` are kept by the session.

    Would have caught: cache-dit 1.5.3 with true guidance on Flux compares each of two calls with the other,
    which it was shown last, and never skips.
    """
    tamper = some_rejected()
    base = play(subject, World(mixed), tamper=tamper)

    def strange(step: Step, shown: Evidence) -> Evidence:
        def forecast(tensor: Tensor, other: Tensor) -> Tensor:
            rows = torch.tensor(base.spy.outcomes[step.index].computed).reshape(-1, *[1] * (tensor.dim() - 1))
            return torch.where(rows, tensor, other)

        return shown if step.index % 2 else altered(shown, lambda now: forecast(now, 1 - 2 * now), lambda then, _: forecast(then, 3 - then))

    other = play(subject, World(mixed), tamper=attrs.evolve(tamper, evidence=strange))
    instead = "Compare with evidence.before or evidence.anchor, named in Needs(evidence=...); add up in commit, from outcome.error"
    for (step, first), (_, second) in zip(base.spy.plans, other.spy.plans, strict=True):
        if first != second:
            broken(f"the plan of step {step.index} depends on what verify was shown in earlier steps", instead)
    judged = [pair for pair in zip(base.spy.judgements, other.spy.judgements, strict=True) if pair[0].step % 2]
    for a, b in judged:
        if str((a.error, a.accept)) != str((b.error, b.accept)):
            broken(f"at step {a.step} the same evidence got errors {a.error}, and {b.error} where verify was shown something else before", instead)
    return len(judged)


def _decisions(done: Play) -> list[tuple[bool, ...]]:
    return [outcome.computed for outcome in done.spy.outcomes]


@law("truth", plans)
def check_products_decide(subject: Subject) -> str:
    """What is decided by inner products is decided by them alone, and by their proportions; and one that is
    not a number is no reason to forecast.

    Decisions are the same where the entries of all features stand in another order, and where features come
    in another unit. Where the products of a row are NaN it is forecast no more often than where its features
    are white noise, and by numbers.

    Why: a threshold without a unit can be carried to another model. NaN compares False with everything, so
    that a sum of them never reaches a tolerance.

    Would have caught: thresholds that fall off a cliff elsewhere than where they were tuned (vllm-omni #5840:
    nothing is reused at 0.15, and 17.9 dB are left at 0.20).
    """
    base = play(subject, World(mixed))
    if not base.spy.needs.products:
        return "it asks for no inner products"
    others = {
        "their entries in another order": play(subject, World(lambda site, step: mixed(site, step).flip(1))),
        "features a thousand times as large": play(subject, World(lambda site, step: 1024 * mixed(site, step))),
    }
    for story, other in others.items():
        for k, (first, second) in enumerate(zip(_decisions(base), _decisions(other), strict=True)):
            if first != second:
                broken(
                    f"at step {k} it computed the rows {first}, and with {story} {second}",
                    "Decide by ratios of what outcome.products says: a distance over a norm",
                )

    def no_number(outcome: Outcome) -> Outcome:
        row = np.arange(len(outcome.computed))[:, None, None] == 1
        return attrs.evolve(outcome, products={site: np.where(row, np.nan, table) for site, table in outcome.products.items()})

    rough, unknown = play(subject, World(noise)), play(subject, World(noise), tamper=Tamper(outcome=no_number))
    drafts = [sum(not computed[1] for computed in _decisions(done)) for done in (rough, unknown)]
    if drafts[1] > drafts[0]:
        broken(
            f"row 1, of white noise, is forecast {drafts[1]} times where its products are NaN, and {drafts[0]} times where they are numbers",
            "Compute where a product is not finite: write sum <= tolerance, which is False for NaN",
        )
    for forecast in unknown.spy.forecasts:
        for site, values in forecast.values.items():
            if not values[1].isfinite().all():
                broken(f"the forecast of {site} at step {forecast.step} is not finite where the products of its row are NaN", "Reuse, or compute, there")
    return f"{len(_decisions(base))} steps alike, {drafts[1]} forecasts by products that are NaN"
