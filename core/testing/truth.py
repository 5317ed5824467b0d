"""Truth: forecasts are made of what was computed, and of nothing else; each row's of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from foreseer.testing.check import broken, law, policies, predicts
from foreseer.testing.plays import STEPS, Forecaster, explore, play, some_rejected, strategies
from foreseer.testing.process import held
from foreseer.testing.spy import same
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import ROWS, World, noise
from foreseer.types import Site

HISTORY = "Forecast from history.features and history.anchors as they are given in this call; keep no features, and no forecasts, in the plugin"


@law("truth", policies, "no trace of what was not computed")
def check_only_computed_is_committed(subject: Subject) -> None:
    """Only what was computed is remembered: nothing of a forecast, or of a step that was not computed,
    reaches a later forecast.

    Three things are tried with white noise. What the model would have computed in forecast steps is changed:
    no forecast may change. A predictor that was asked in between must answer as one that was not. After a
    run, no plugin may hold a tensor that it was shown: the session keeps the features.

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
            if not same(a.values[site], b.values[site]):
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
