"""How TeaCache's polynomial comes about: run some prompts, note how far signal and output moved from step to
step, and fit.

    pairs = []
    with foreseer.attach(pipe, lambda: ChangeRecorder(pairs)):
        for prompt in prompts:
            pipe(prompt)
    fit = fit_polynomial(pairs)
    print(fit.r2)
    foreseer.attach(pipe, "tea_cache", poly=fit.coefficients, threshold=0.1)
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from foreseer import Evidence, History, Needs, OptionError, Plan, Probe, Run, Site, Step, Weights, hookimpl
from foreseer.metrics import relative_l1
from foreseer_methods.tea_cache import PLACE, Signal

__all__ = ["ChangeRecorder", "Fit", "fit_polynomial"]


@attrs.frozen
class Fit:
    """A polynomial through measured changes.

    Attributes:
        coefficients: Highest power first, as ``tea_cache(poly=...)`` takes them.
        r2: Share of the outputs' variance that it explains: 1 is all, 0 is no better than their mean. NaN
            where they do not vary. Released fits are often poor: integrators found 0.095 and 0.67.
    """

    coefficients: tuple[float, ...]
    r2: float


def fit_polynomial(pairs: Sequence[tuple[float, float]], *, degree: int = 4) -> Fit:
    """Fit the change of what comes out as a polynomial of the signal's change, by least squares in float64.

    Args:
        pairs: ``(change of the signal, change of the output)``, both relative, of one step to the next.
        degree: Of the polynomial; the authors' have 4.

    Raises:
        OptionError: There are fewer different signals than the polynomial has coefficients.
    """
    x, y = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    if len(np.unique(x)) <= degree:
        raise OptionError(f"a polynomial of degree {degree} needs {degree + 1} pairs with different signals; there are {len(np.unique(x))}")
    fitted = np.polynomial.Polynomial.fit(x, y, degree)
    spread = float(((y - y.mean()) ** 2).sum())
    coefficients = np.zeros(degree + 1)
    found = fitted.convert().coef
    coefficients[: len(found)] = found
    return Fit(tuple(coefficients[::-1].tolist()), 1 - float(((y - fitted(x)) ** 2).sum()) / spread if spread else float("nan"))


@attrs.define(eq=False)
class ChangeRecorder:
    """Policy that computes everything and notes how far a signal and the last block's output moved. It waits
    for the device in every step: a calibration, no way to sample.

    The change into a run's last step is not noted, since no later step asks for it.

    Attributes:
        pairs: Where to put what is found, ``(signal, output)``, one for each row and step.
        signal: As in `foreseer_methods.tea_cache.tea_cache`.
    """

    pairs: list[tuple[float, float]]
    signal: Signal = "modulated"
    _moved: list[float] = attrs.field(factory=list, init=False, repr=False)
    _last: Site = attrs.field(default=Site(0), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Keep the last two outputs of the last block, and what was seen of the signal."""
        self._last = Site(run.depth - 1)
        return Needs(sites=(self._last,), anchors=2, evidence=(PLACE[self.signal],))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Look at the signal."""
        return Plan(forecast=(self._last,), probe=Probe(PLACE[self.signal])) if step.index else None

    @hookimpl
    def predict_features(self, history: History) -> dict[Site, Weights]:
        """Note the pairs of the step before. The forecast is never used."""
        if self._moved:
            now, then = history.features(self._last)
            self.pairs += zip(self._moved, relative_l1(then, now).tolist(), strict=True)
        values = np.zeros(history.anchors.shape)
        values[:, 0] = 1.0
        return {self._last: Weights(values)}

    @hookimpl
    def verify(self, evidence: Evidence) -> None:
        """Have every row computed."""
        self._moved = evidence.error(relative_l1, against="before").tolist()
