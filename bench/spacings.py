"""Noise levels between two ends."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["between", "twice"]


def between(first: float, last: float, count: int, *, karras: bool) -> NDArray[np.float64]:
    """Return ``(count,)`` logarithms of noise over signal from ``first`` to ``last``: evenly, or as Karras
    et al. space them (arXiv 2206.00364, eq. 5).
    """
    if not karras:
        return np.linspace(first, last, count)
    roots = np.linspace(math.exp(first / 7.0), math.exp(last / 7.0), count)
    return 7.0 * np.log(roots)


def twice(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the evaluations of Heun's method: each level but the first at the end of a step and at the
    beginning of the next.
    """
    return np.concatenate([values[:1], np.repeat(values[1:], 2)])
