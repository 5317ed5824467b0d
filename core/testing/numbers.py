"""Numbers: what a predictor and a gate declare about their arithmetic is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.registry import signature_of
from foreseer.testing.check import broken, law, only, predicts, verifies
from foreseer.testing.plays import Forecaster, explore, play, some_rejected, strategies
from foreseer.testing.spy import Tamper, altered
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import ROWS, WIDTH, Feature, World, constant, mixed, noise
from foreseer.types import Site

FIRST = 40
"""Step of the first anchor: behind anybody's warm-up."""


def _steps() -> Any:
    """Steps from one anchor to the next, or to the forecast: a few, or many."""
    return strategies().one_of(strategies().integers(1, 6), strategies().integers(7, 40))


def _forecast(subject: Subject, feature: Feature, gaps: Sequence[int], ahead: int) -> dict[Site, Tensor] | None:
    """Record a feature at step FIRST and after each gap, and forecast ``ahead`` steps behind the last."""
    last = FIRST + sum(gaps) + ahead
    forecaster, step = Forecaster(subject, steps=400 if last < 400 else 1000), FIRST
    for gap in (0, *gaps):
        step += gap
        forecaster.record(step, feature)
    return forecaster.forecast(last)


@law("numbers", predicts, "{} histories", once=True)
def check_constant_reproduced(subject: Subject) -> int:
    """What never changed is forecast as it was, at any spacing of the anchors, from the first anchor on.

    To five digits, and fewer many steps ahead; no entry is a number that 16 bits can hold.

    Why: it is the least that a forecast can do. Whoever fails here scales, shifts or rounds every feature.

    Would have caught: diffusers' TaylorSeer stores its factors in bfloat16 by default, which leaves three
    digits of float32 features.
    """
    st = strategies()

    def constants(gaps: list[int], ahead: int) -> None:
        for site, values in (_forecast(subject, constant, gaps, ahead) or {}).items():
            away = (values / constant(site) - 1).abs().max().item()
            if not away <= 1e-5 * max(1, ahead / 6) ** 2:
                broken(
                    f"a constant feature is forecast {away:.2%} off at {site}, with gaps of {gaps} steps between the anchors and {ahead} ahead",
                    "See that the weights sum to 1, and compute in float32 or wider, whatever the features are stored in",
                )

    return explore(constants, st.lists(_steps(), max_size=6), _steps())


@law("numbers", predicts, "{} histories", once=True)
def check_finite_forecast(subject: Subject) -> int:
    """Of finite features every forecast is finite, whichever of them are zero; and what always was zero is
    forecast as zero.

    Tried with zeros in single entries, in whole tokens, in whole rows and everywhere, in single anchors and
    in all, in 64 bits and, a few steps ahead, in 16.

    Why: padding, masked tokens and modules that are initialised with zeros give exact zeros, and one NaN in
    one entry is a black image.

    Would have caught: EasyCache's rate, the change of the output over that of the latent, is 0/0 where
    neither changed. SpeCa's released error divides by every entry, with 1e-10 added: entries near zero decide
    for all the others.
    """
    st = strategies()
    masks = torch.ones(5, ROWS, WIDTH, dtype=torch.float64)
    masks[1:, :, 3], masks[2:, :, 4:8], masks[3:, 1], masks[4] = 0, 0, 0, 0

    def zeros(history: list[tuple[int, int]], ahead: int, tokens: bool) -> None:
        gaps, at = [gap for gap, _ in history[1:]], dict[float, Tensor]()
        for number, (_, mask) in enumerate(history):
            at[FIRST + sum(gaps[:number])] = masks[mask]
        shape = (ROWS, 3, WIDTH // 3) if tokens else (ROWS, WIDTH)
        always = sum(at.values(), torch.zeros_like(masks[0])).reshape(shape) == 0
        # far ahead a sum of large weights may leave the range of 16 bits
        for dtype, steps in ((torch.float64, ahead), (torch.float16, 1 + ahead % 3), (torch.bfloat16, 1 + ahead % 3)):

            def feature(site: Site, step: float, dtype: torch.dtype = dtype) -> Tensor:
                return (constant(site) * at[step]).reshape(shape).to(dtype)

            for site, values in (_forecast(subject, feature, gaps, steps) or {}).items():
                bad = ~torch.isfinite(values)
                where = f"with anchors {[int(step) for step in at]} of {dtype}, {steps} steps ahead, {site} is forecast as"
                if bad.any():
                    broken(f"{where} {values[bad][0].item()} from features that hold zeros", "Divide by nothing that can be zero")
                if (values[always] != 0).any():
                    most = values[always].abs().max().item()
                    broken(f"{where} {most:.3g} where it always was zero", "Add nothing to what a forecast is made of")

    return explore(zeros, st.lists(st.tuples(_steps(), st.integers(0, 4)), min_size=1, max_size=6), _steps(), st.booleans())


@law(
    "numbers",
    only(lambda can: can.exact_degree is not None, "it declares no exact_degree", predicts),
    once=True,
)
def check_exact_degree(subject: Subject) -> str:
    """Polynomials in the step index are forecast exactly up to the declared ``exact_degree``, at any spacing
    of the anchors.

    To four digits of the largest value, with as many anchors as the predictor keeps.

    Why: spacing is where forecasts go wrong, and nothing else shows it: a forecast that is nearly reuse gives
    nearly the right image.

    Would have caught: FoCa takes the difference of the last two features for the slope, without dividing by
    the steps between them: on a line at interval 3 it is 16% off, where reuse is 8% off; its tests use
    consecutive anchors only. TaylorSeer of order 2 is not exact on parabolas (cache-dit, diffusers, official
    code). Hermite polynomials taken at -k instead of +k "survived every end-to-end benchmark, because
    near-reuse fails safe" (hicache-pp).
    """
    degree = subject.can.exact_degree
    assert degree is not None
    st, kept = strategies(), Forecaster(subject).anchors
    gaps = st.lists(_steps(), min_size=kept, max_size=kept + 2)
    lower = st.lists(st.integers(-3, 3), min_size=degree, max_size=degree)

    def polynomials(gaps: list[int], ahead: int, lower: list[int], highest: int) -> None:
        newest = FIRST + sum(gaps)

        def feature(site: Site, step: float) -> Tensor:
            return constant(site) * sum(c * ((step - newest) / 10) ** i for i, c in enumerate([*lower, highest]))

        for site, values in (_forecast(subject, feature, gaps, ahead) or {}).items():
            truth = feature(site, newest + ahead)
            anchors = [FIRST + sum(gaps[:n]) for n in range(len(gaps) + 1)][-kept:]
            size = max(feature(site, step).abs().max().item() for step in (*anchors, newest + ahead))
            away = (values - truth).abs().max().item() / (size + 1e-12)
            if not away <= 1e-4 * max(1, ahead / 6):
                broken(
                    f"exact_degree={degree} is declared, and a polynomial of degree {degree} is forecast {away:.2%} off, with anchors {anchors} for step "
                    f"{newest + ahead}",
                    "Divide differences by the steps between their anchors, count ahead from the newest anchor, or declare a lower degree",
                )

    tried = explore(polynomials, gaps, _steps(), lower, st.sampled_from([1, -1, 2]), examples=30)
    return f"{tried} polynomials of degree {degree}"


@law(
    "numbers",
    only(lambda can: can.linear, "it does not declare linear = True", predicts),
    "{} sums",
    once=True,
)
def check_linearity(subject: Subject) -> int:
    """Where ``linear`` is declared, the forecast of a sum is the sum of the forecasts: predict(a F + b G) = a
    predict(F) + b predict(G).

    Why: a linear forecast is a few weights. It can be studied in float64 without a model, summed by one
    kernel, and kept in 16 bits.

    Would have caught: cache-dit's DMD is a fit, and falls back to a Taylor sum wherever fewer than four
    evenly spaced anchors exist: two methods under one name, of which one is linear.
    """
    st = strategies()

    def sums(gaps: list[int], ahead: int, a: int, b: int) -> bool:
        def feature(site: Site, step: float) -> Tensor:
            return a * noise(site, step) + b * noise(site, step, 1)

        whole = _forecast(subject, feature, gaps, ahead)
        first, second = _forecast(subject, noise, gaps, ahead), _forecast(subject, lambda site, step: noise(site, step, 1), gaps, ahead)
        if whole is None or first is None or second is None:
            return False
        for site, values in whole.items():
            parts = a * first[site] + b * second[site]
            away = (values - parts).abs().max().item() / (values.abs().max().item() + parts.abs().max().item() + 1e-12)
            if not away <= 1e-5:
                broken(f"linear is declared, and the forecast of {a} F + {b} G is {away:.2%} off the sum of the forecasts", "Declare linear = False")
        return True

    return explore(sums, st.lists(_steps(), max_size=6), _steps(), st.integers(-3, 3), st.sampled_from([1, -2, 3]))


@law("numbers", verifies, "{} perfect drafts")
def check_perfect_draft_accepted(subject: Subject) -> int:
    """A draft that is right to the last bit is accepted, unless the threshold is 0; and so is any where the
    place that is looked at has not moved.

    Why: a gate that rejects what is perfect costs its verification and saves nothing; and nobody sees it, for
    the images are right.

    Would have caught: cache-dit never skipped a step on MiniMax-H3 (sglang #33827), and vllm-omni's cache
    backend was "as slow as no caching at all" (vllm-omni #7335); both went unnoticed.
    """
    perfect = Tamper(evidence=lambda step, shown: altered(shown, torch.clone, lambda _, now: now.clone()))
    seen = 0
    for feature in (mixed, constant):
        for judgement in play(subject, World(feature), tamper=perfect).spy.judgements:
            if judgement.threshold != 0 and not all(judgement.accept):
                broken(
                    f"at step {judgement.step} the draft, and what was there before, were what was computed, and verify gave errors {judgement.error} and "
                    f"accept={judgement.accept} at threshold {judgement.threshold:.4g}",
                    "Measure the distance of evidence.computed to evidence.forecast, before or anchor, and accept what is within the threshold; name rows that "
                    "are due whatever the error is, say after n drafts, in Plan.compute: they then cost no verification",
                )
            seen += 1
    return seen


@law(
    "numbers",
    only(lambda can: "threshold" in can.options, "it has no option called threshold", verifies),
    "{} thresholds",
)
def check_threshold_monotone(subject: Subject) -> int | str:
    """A larger ``threshold`` accepts whatever a smaller one accepts.

    The same evidence is judged with thresholds from a thousandth to a thousand times the policy's own.

    Why: users turn this knob, and tuning searches along it.

    Would have caught: Wan2GP #659, where a search for a speed-up of 2.5 returned "threshold 0.01 with gain
    x1.00".
    """
    base = subject.spec.options.get("threshold", signature_of(subject.spec.factory).parameters["threshold"].default)
    base = 0.1 if base is None else base  # a policy that finds out its own
    if isinstance(base, bool) or not isinstance(base, (int, float)):
        return f"its threshold is no number: {base!r}"
    before: tuple[float, dict[int, list[bool]]] | None = None
    tried = 0
    for factor in (1e-3, 0.03, 0.3, 1, 3, 30, 1000):
        threshold = factor * base
        try:
            other = subject.given(threshold=threshold)
        except OptionError:
            continue
        answers = {j.step: j.accept for j in play(other, World(mixed), tamper=some_rejected()).spy.judgements}
        for step, smaller in (before[1] if before else {}).items():
            lost = [row for row, (low, high) in enumerate(zip(smaller, answers.get(step, smaller), strict=False)) if low and not high]
            if lost and before:
                broken(
                    f"at step {step}, row {lost[0]} is accepted with threshold={before[0]:g} and rejected with threshold={threshold:g}",
                    "Accept where the error is at most the threshold; an option that works the other way round deserves another name",
                )
        before, tried = (threshold, answers), tried + 1
    return tried
