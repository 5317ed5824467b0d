"""HiCache (arXiv 2508.16984): TaylorSeer's differences on a basis of scaled Hermite polynomials.

TaylorSeer forecasts a feature x steps ahead as sum_i D_i x^i / i!, with D_i the i-th backward difference.
HiCache puts

    h_i(x) = s^i H_i(s x),    H_0 = 1,  H_1 = 2x,  H_{n+1} = 2x H_n - 2n H_{n-1}

in the place of x^i: the physicists' Hermite polynomials, contracted by a scale s in (0, 1) both in argument
and in value. Written from the paper's description. What follows from the formula, and is easily got wrong:

- *The offset is positive.* The step to forecast lies x > 0 steps after the newest anchor, and D_1 is (newest
  - before) / gap. Evaluated at -x the odd orders turn round. Pictures hardly show it, since what is left is
    close to reuse; a test on a straight line does.
- *The slope is damped.* Order 1 is D_1 2 s^2 x: half of the line's slope at s = 0.5, the line itself at s =
  sqrt(1/2), beyond it more than the line.
- *The anchor is not hit.* h_2(0) = -2 s^2, so that from order 2 on the forecast at x = 0 is not the newest
  feature.
- *Steps are a unit.* The polynomials are not homogeneous: counting steps in twos gives another forecast. x is
  in steps, as TaylorSeer's is.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated

from foreseer.options import Range, at_least, checked, cites
from foreseer.policies import LinearPredictor, taylor_weights

__all__ = ["hermite", "hicache", "hicache_weights"]


def hermite(order: int, x: float) -> float:
    """The physicists' Hermite polynomial H_order at x.

    >>> [hermite(n, 1.0) for n in range(4)]
    [1.0, 2.0, 2.0, -4.0]
    """
    before, value = 0.0, 1.0
    for n in range(order):
        before, value = value, 2.0 * x * value - 2.0 * n * before
    return value


def hicache_weights(anchors: tuple[float, ...], target: float, *, max_order: int, scale: float, warmup_steps: int = 1) -> tuple[float, ...]:
    """Weights of the recorded features in the forecast, in float64.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
        target: Step index to forecast.
        max_order: Highest order of difference, >= 0.
        scale: The contraction s.
        warmup_steps: As in `foreseer.policies.taylor_weights`.

    Returns:
        One weight per anchor used, newest first. They sum to 1.

    >>> hicache_weights((4.0, 0.0), 6.0, max_order=1, scale=0.5)  # the line says (1.5, -0.5)
    (1.25, -0.25)
    """
    newest = anchors[0]
    # One step ahead x^i is 1: there, TaylorSeer's forecast of order i less that of order i - 1 is D_i / i!,
    # quirks of spacing and ramp-up included.
    ahead = [taylor_weights(anchors, newest + 1, max_order=order, warmup_steps=warmup_steps) for order in range(max_order + 1)]
    weights = [0.0] * len(ahead[-1])
    weights[0] = 1.0
    for order in range(1, len(weights)):
        basis = scale**order * hermite(order, scale * (target - newest))
        lower = (*ahead[order - 1], 0.0)
        weights[: order + 1] = [w + basis * (d - e) for w, d, e in zip(weights, ahead[order], lower, strict=False)]
    return tuple(weights)


@cites(
    """@article{feng2025hicache,
  title={HiCache: Training-free Acceleration of Diffusion Models via Hermite Polynomial-based Feature Caching},
  author={Feng, Liang and Zheng, Shikang and Liu, Jiacheng and Lin, Yuqi and Zhou, Qinming and Cai, Peiliang and Wang,
  Xinyu and Chen, Junjie and Zou, Chang and Ma, Yue and Zhang, Linfeng},
  journal={arXiv preprint arXiv:2508.16984}, year={2025}}"""
)
@checked
def hicache(
    *,
    max_order: Annotated[int, at_least(0)] = 2,
    scale: Annotated[float, Range(float, 0.0, 1.0, open_low=True, open_high=True)] = 0.5,
    warmup_steps: Annotated[int, at_least(0)] = 1,
) -> LinearPredictor:
    """Predictor: scaled Hermite polynomials on TaylorSeer's differences (HiCache, arXiv 2508.16984).

    A straight line is forecast exactly only at ``scale=sqrt(1/2)``; else nothing but a constant is.

    Args:
        max_order: Highest order of difference.
        scale: The contraction s. The default is ours; the paper's own value was not confirmed, so tune it.
        warmup_steps: Warm-up of the schedule that it works with, as `taylor` has it.
    """
    line = max_order >= 1 and math.isclose(2 * scale**2, 1.0, rel_tol=1e-12)
    weights = functools.partial(hicache_weights, max_order=max_order, scale=scale, warmup_steps=warmup_steps)
    return LinearPredictor(weights, max_order, exact_degree=int(line))
