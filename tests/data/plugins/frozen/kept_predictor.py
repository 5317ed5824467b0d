"""A predictor for foreseer: a line through the last two computed features, damped."""

from __future__ import annotations

import functools
from typing import Annotated

from foreseer.options import Range, checked
from foreseer.policies import LinearPredictor

__all__ = ["kept_predictor", "kept_predictor_weights"]


def kept_predictor_weights(
    anchors: tuple[float, ...],
    target: float,
    *,
    damping: float,
) -> tuple[float, ...]:
    """Weights of one row's recorded features in its forecast, in float64.

    CHANGE: this is the predictor. Weights that sum to 1 forecast a constant feature exactly.

    Args:
        anchors: Step indices at which the row was computed, newest first; one or more, all different.
        target: The step to forecast.
        damping: How much of the slope is used, from 0 to 1.

    Returns:
        One weight per anchor used, newest first.
    """
    if len(anchors) == 1:  # the second computed step is yet to come
        return (1.0,)
    newest, before = anchors[:2]
    x = damping * (target - newest) / (newest - before)
    return (1.0 + x, -x)


@checked
def kept_predictor(
    *,
    damping: Annotated[float, Range(float, 0.0, 1.0)] = 0.8,
) -> LinearPredictor:
    """Predictor: a damped line through the last two computed features.

    The first line is what ``foreseer policies`` prints; the rest is for ``foreseer show``.

    Args:
        damping: How much of the slope is used. 0 is reuse, 1 the whole line.
    """
    weights = functools.partial(kept_predictor_weights, damping=damping)
    # max_order + 1 features are kept. exact_degree is a promise that the conformance kit tests: polynomials up to this
    # degree are forecast exactly. A damped line keeps it for constants only.
    return LinearPredictor(weights, max_order=1, exact_degree=1 if damping == 1 else 0)
