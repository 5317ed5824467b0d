"""What counts as noise: the one threshold that claims, sentences and differences between results share."""

from __future__ import annotations

import functools
import math

__all__ = ["LEVEL", "standard_errors"]

LEVEL = 0.0027
"""How often noise alone may pass for a difference, either way: what lies outside of three standard deviations
of a normal distribution.
"""


@functools.cache
def standard_errors(samples: int) -> float:
    """Return how many of its standard errors a mean of so many differences must exceed to be beyond noise.

    Student's t: 3.1 of 64 samples, 4.5 of 8, 9.2 of 4. Infinite for a single one, whose spread nobody knows.

    Args:
        samples: How many differences.
    """
    if samples < 2:
        return math.inf
    from scipy.stats import t

    return float(t.isf(LEVEL / 2, samples - 1))
