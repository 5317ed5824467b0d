"""A predictor that makes up for what its forecasts are found to have missed, as a corrector does in the solution
of differential equations.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated

import attrs

from foreseer.options import at_least, checked, cites
from foreseer.policies._taylor import taylor_weights
from foreseer.policies.predictors import LinearPredictor

__all__ = ["Corrector", "corrector", "corrector_weights"]

SPREAD = 2
"""Forecast steps over which a debt is spread. Where a sampler's steps grow, the one behind a computed step
counts for more than those that are made up for, and all of it there overshoots
(``docs/policies/corrector.md``).
"""


@functools.lru_cache(maxsize=32768)
def corrector_weights(anchors: tuple[float, ...], target: float, *, max_order: int) -> tuple[float, ...]:
    """Weights of the recorded features in a forecast that makes up for the gap before, in float64.

    With anchors a0 > a1 > ... and T_j the Taylor sum from (a1, a2, ...), which forecast the steps a1 < j < a0,
    and P_j the polynomial through (a0, a1, ...) at j, the debt is D = sum_j (P_j - T_j). The forecast is the
    Taylor sum from (a0, a1, ...), plus D / 2 in each of the steps a0 + 1 and a0 + 2.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
        target: Step index to forecast.
        max_order: Highest order of the Taylor sum, >= 0. The polynomial is of one degree more.

    Returns:
        At most ``max_order + 2`` weights, newest first. They sum to 1.

    >>> corrector_weights((4.0, 2.0, 0.0), 7.0, max_order=1)  # behind the steps that make up: a line
    (2.5, -1.5, 0.0)
    >>> corrector_weights((4.0, 2.0, 0.0), 5.0, max_order=1)
    (1.6875, -0.875, 0.1875)
    """
    used = anchors[: max_order + 2]
    weights = [0.0] * len(used)
    _add(weights, 0, taylor_weights(used, target, max_order=max_order))
    if len(used) > 1 and target <= used[0] + SPREAD:
        missed = [used[1] + step for step in range(1, math.ceil(used[0] - used[1]))]
        for step in missed:
            _add(weights, 0, [value / SPREAD for value in _through(used, step)])
            _add(weights, 1, [-value / SPREAD for value in taylor_weights(used[1:], step, max_order=max_order)])
    return tuple(weights)


def _add(weights: list[float], first: int, more: tuple[float, ...] | list[float]) -> None:
    for place, value in enumerate(more, first):
        weights[place] += value


def _through(nodes: tuple[float, ...], at: float) -> list[float]:
    """Lagrange's weights of the polynomial through some nodes."""
    return [math.prod((at - other) / (node - other) for other in nodes if other != node) for node in nodes]


@attrs.frozen(eq=False)
class Corrector(LinearPredictor):
    """As `LinearPredictor`, of a Taylor sum and what makes up for the gap before.

    Attributes:
        uncorrected: The Taylor sum alone. By its errors a schedule is planned: what is made up for is no error
            of the step that makes up for it.
    """

    uncorrected: LinearPredictor = attrs.field(kw_only=True)


@cites(
    """@book{hairer1993solving,
  title={Solving Ordinary Differential Equations I: Nonstiff Problems}, author={Hairer, Ernst and N{\\o}rsett, Syvert
  P. and Wanner, Gerhard}, publisher={Springer}, year={1993}, note={Section III.1, predictor and corrector}}
@inproceedings{zhao2023unipc,
  title={{UniPC}: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models}, author={Zhao, Wenliang
  and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen}, booktitle={NeurIPS}, year={2023},
  note={arXiv:2302.04867; corrects by the evaluation that comes next anyway}}"""
)
@checked
def corrector(*, max_order: Annotated[int, at_least(0)] = 1) -> Corrector:
    """Predictor: a Taylor sum that makes up for what it missed (ours).

    A step that is computed says what the forecasts before it should have been: a polynomial through it and the
    computed steps before. What they missed, summed up, has moved the latent by about as much as one step's
    forecast that is off by that sum. So half of it is added to each of the next two forecasts. Nothing more is
    computed, and one feature more is kept: see `corrector_weights`.

    Args:
        max_order: Highest order of the Taylor sum, as of `taylor`. One feature more is kept than it needs.
    """
    alone = LinearPredictor(functools.partial(taylor_weights, max_order=max_order), max_order, exact_degree=min(max_order, 1))
    weights = functools.partial(corrector_weights, max_order=max_order)
    return Corrector(weights, max_order + 1, exact_degree=min(max_order, 1), uncorrected=alone)
