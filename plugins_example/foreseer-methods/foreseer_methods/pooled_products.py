"""Inner products of what is kept, pooled over sites and over the rows that decide together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foreseer.types import Site

__all__ = ["pooled_products"]


def pooled_products(products: Mapping[Site, NDArray[np.float64]], groups: Sequence[int]) -> NDArray[np.float64]:
    """Return ``(R, K, K)``: for each row the sum over all sites and over the rows of its group, which is the
    inner product of all that they keep, laid end to end.

    Args:
        products: `foreseer.Outcome.products`, ``(R, K, K)`` for each site, all of one K.
        groups: ``(R,)`` which rows decide together.
    """
    rows = np.sum(list(products.values()), axis=0)
    alike = np.equal.outer(groups, groups).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite features: 0 * inf is NaN, but of the rows' own group only
        return np.stack([rows[mask > 0].sum(axis=0) for mask in alike])
