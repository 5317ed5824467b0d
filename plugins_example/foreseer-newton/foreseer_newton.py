"""Newton's form: the polynomial through a row's last computed features, evaluated at the step to forecast.

TaylorSeer puts backward differences into a Taylor sum, which is exact to degree 1 whatever its order. The
polynomial through the same features is exact to its order, at any spacing of the computed steps. Exact is not
the same as better: its weights grow faster with the order, and with them whatever in the features is not
smooth.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated

from foreseer.options import at_least, checked
from foreseer.policies import LinearPredictor

__all__ = ["newton", "newton_weights"]


def newton_weights(anchors: tuple[float, ...], target: float, *, max_order: int) -> tuple[float, ...]:
    """Weights of the recorded features in the interpolating polynomial, in float64.

    Args:
        anchors: Step indices of the computed steps, newest first, all different; at least one.
        target: Step index to forecast.
        max_order: Highest degree, >= 0.

    Returns:
        One weight per anchor used, newest first. They sum to 1.

    >>> newton_weights((4.0, 2.0, 0.0), 6.0, max_order=2)
    (3.0, -3.0, 1.0)
    """
    used = anchors[: max_order + 1]
    return tuple(math.prod((target - other) / (own - other) for other in used if other != own) for own in used)


@checked
def newton(*, max_order: Annotated[int, at_least(0)] = 2) -> LinearPredictor:
    """Predictor: the polynomial through the last computed features, exact to its order.

    Args:
        max_order: Highest degree. 0 is reuse; 1 is the same line as TaylorSeer's; from 2 on the two differ.
    """
    return LinearPredictor(functools.partial(newton_weights, max_order=max_order), max_order, exact_degree=max_order)
