"""Whether two outputs of a module are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

__all__ = ["row_tolerance", "same_bits", "same_output", "tells_apart"]


def same_output(a: Any, b: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two outputs are equal, bit for bit or within a relative tolerance (L2 norm per tensor); NaN
    equals NaN.

    Args:
        a: An output.
        b: Another.
        tolerance: 0 for bit for bit.
    """
    whole, part = (tree_flatten(output)[0] for output in (a, b))
    if len(whole) != len(part):
        return False
    for x, y in zip(whole, part, strict=True):
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            continue
        if x.shape != y.shape:
            return False
        if tolerance:
            x, y = x.double().nan_to_num(), y.double().nan_to_num()
            if not bool((x - y).norm() <= tolerance * y.norm() + 1e-12):
                return False
        elif not torch.equal(x, y) and not bool(((x == y) | (x.isnan() & y.isnan())).all()):
            return False
    return True


def tells_apart(a: Any, b: Any) -> bool:
    """Whether two outputs are finite and differ, so that one in the place of the other would be seen."""
    pairs = [(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True) if isinstance(x, Tensor) and x.is_floating_point()]
    return bool(pairs) and all(bool(x.isfinite().all() and y.isfinite().all()) for x, y in pairs) and any(not torch.equal(x, y) for x, y in pairs)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs of floating-point tensors are equal in structure, dtype and every number; NaN
    equals nothing.
    """
    (made, spec), (wanted, other) = tree_flatten(a), tree_flatten(b)
    return spec == other and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


ROW_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far a row computed alone may be from the same row in a batch, relative L2; other batch sizes run other
kernels. 16-bit dtypes: 0.05.
"""


def row_tolerance(output: Any, features: Mapping[Any, Tensor]) -> float:
    """How far apart equal rows may be, in the dtype of the features, or else of the output."""
    leaves = [*features.values(), *(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))]
    return ROW_TOLERANCE.get(leaves[0].dtype if leaves else torch.float32, 0.05)
