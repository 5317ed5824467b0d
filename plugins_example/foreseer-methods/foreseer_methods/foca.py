"""FoCa (arXiv 2508.16211): features follow a differential equation; BDF2 predicts, Heun's trapezoid corrects.

The authors released nothing under that name, and what others call FoCa are three different rules. Two are
here, each said by name. With c the last computed step, p the one before it, x = k - c:

- *released*, what the authors' group has in its code for Qwen-Image: P = (4 F_c - F_p) / 3 and F = (F_c + P)
  / 2, so 7/6 F_c - 1/6 F_p, whatever x and c - p are.
- *cache_dit* (1.5.3): F = F_c + e/2 (D + d), with D = F_c - F_p, not divided by the steps between them, and d
  the difference of the last two values, forecasts included; e is x up to 3, and (3/x) 3 beyond. Behind a
  computed step d is F_c less the last forecast before it.

Neither reproduces a line; both reproduce a constant.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import numpy as np

from foreseer.options import at_least, checked, cites
from foreseer.policies import LinearPredictor

__all__ = ["foca", "foca_weights"]

HORIZON = 3.0
"""Steps behind which cache-dit's forecast falls back towards the last computed feature."""


def _released(anchors: tuple[float, ...], target: float) -> tuple[float, ...]:
    return (7 / 6, -1 / 6) if len(anchors) > 1 else (1.0,)


@functools.lru_cache(maxsize=4096)
def _recursive(anchors: tuple[float, ...], target: float) -> tuple[float, ...]:
    """cache-dit's recursion, unrolled: every value of the rolling window is a weighted sum of computed
    features.
    """
    features = np.eye(len(anchors))
    *earlier, newest = range(len(anchors) - 1, -1, -1)  # oldest first
    before, value = features[-1], features[-1]
    for number in (*earlier[1:], newest) if earlier else ():
        before, value = value, features[number]
        end = target if number == newest else anchors[number - 1] - 1
        for step in np.arange(anchors[number] + 1, end + 1):
            elapsed = step - anchors[number]
            reach = elapsed if elapsed <= HORIZON else HORIZON**2 / elapsed
            slope = (features[number] - features[number + 1]) + (value - before)
            before, value = value, features[number] + reach / 2 * slope
    return tuple(value.tolist())


def foca_weights(anchors: tuple[float, ...], target: float, *, variant: Literal["released", "cache_dit"]) -> tuple[float, ...]:
    """Weights of the recorded features in the forecast, in float64.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
            ``"cache_dit"`` takes the oldest for the first of the run.
        target: Step index to forecast.
        variant: Whose rule.

    Returns:
        One weight per anchor used, newest first. They sum to 1.

    >>> foca_weights((2.0, 1.0, 0.0), 4.0, variant="cache_dit")
    (3.0, -2.0, 0.0)
    """
    return _recursive(anchors, target) if variant == "cache_dit" else _released(anchors, target)


@cites(
    """@article{zheng2025foca,
  title={Forecast then Calibrate: Feature Caching as ODE for Efficient Diffusion Transformers},
  author={Zheng, Shikang and others},
  journal={arXiv preprint arXiv:2508.16211}, year={2025}}"""
)
@checked
def foca(*, variant: Literal["released", "cache_dit"] = "released", anchors: Annotated[int, at_least(2)] = 8) -> LinearPredictor:
    """Predictor: BDF2 corrected by Heun's trapezoid (FoCa, arXiv 2508.16211), in one of two public readings.

    Use it under a schedule or gate: ``taylorseer:target=last_block,predictor=foca``. It forecasts a constant
    exactly and nothing else. With one computed step it reuses.

    Args:
        variant: ``"released"``: the rule in the authors' group's code for Qwen-Image, two features.
            ``"cache_dit"``: that of cache-dit 1.5.3, in which forecasts enter the next ones.
        anchors: How many computed features ``"cache_dit"`` keeps. Its recursion reaches back to the first
            step; it is cut at the oldest kept feature, as if the run had begun there. Equal to cache-dit's
            where the run computes no more steps than that.
    """
    kept = anchors if variant == "cache_dit" else 2
    return LinearPredictor(functools.partial(foca_weights, variant=variant), kept - 1, exact_degree=0)
