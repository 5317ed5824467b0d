"""Where a tensor lies in memory. What is handed back lies as what was recorded: a product of what lies
otherwise is summed otherwise.
"""

from __future__ import annotations

import itertools
import math

import attrs
import torch
from torch import Tensor

__all__ = ["IN_ORDER", "Place"]


ALIGNMENT = 64
"""Bytes: where torch's own tensors begin."""
WIDEST = 1024
"""How much more memory than its entries a tensor may lie scattered over for its place to be kept."""


@attrs.frozen
class Place:
    """How a tensor lies in memory, whatever its rows: in order (nothing of it set), or as a slice of a longer
    one, or transposed.

    Attributes:
        dims: Its dimensions from the outermost in memory to the innermost, each with how many entries the
            longer tensor has; 0 for as many as its own.
        start: Entries behind a multiple of `ALIGNMENT` where it begins.
    """

    dims: tuple[tuple[int, int], ...] = ()
    start: int = 0

    @classmethod
    def of(cls, value: Tensor) -> Place:
        """Learn it from a tensor."""
        start = 0 if value.is_meta else value.data_ptr() % ALIGNMENT // value.element_size()
        if value.is_contiguous():
            return cls((), start)
        sizes, strides = value.shape, value.stride()
        order = sorted(range(value.ndim), key=lambda dim: -strides[dim])
        ratios = [divmod(strides[outer], strides[dim] or 1) for outer, dim in itertools.pairwise(order)]
        dims = [(order[0], 0), *((dim, many * (many != sizes[dim])) for dim, (many, _) in zip(order[1:], ratios, strict=True))]
        regular = all(not rest and many >= sizes[dim] for dim, (many, rest) in zip(order[1:], ratios, strict=True))
        if not regular or strides[order[-1]] != 1 or strides[order[0]] * sizes[order[0]] > WIDEST * value.numel():
            return IN_ORDER  # an expanded tensor, or every second entry
        return cls(tuple(dims), start)

    def put(self, tensor: Tensor) -> Tensor:
        """Return the tensor, of any rows, where it lies so: a product of what lies otherwise is summed
        otherwise.
        """
        if not (self.dims or self.start):
            aligned = tensor.is_meta or not tensor.data_ptr() % ALIGNMENT  # it may be a piece of a longer feature
            return tensor.contiguous() if aligned else tensor.clone(memory_format=torch.contiguous_format)
        dims = self.dims or tuple((dim, 0) for dim in range(tensor.ndim))
        longer = [many or tensor.shape[dim] for dim, many in dims]
        memory = torch.empty(self.start + math.prod(longer), dtype=tensor.dtype, device=tensor.device)[self.start :].view(longer)
        order = [dim for dim, _ in dims]
        return memory[tuple(slice(tensor.shape[dim]) for dim in order)].permute([order.index(dim) for dim in range(tensor.ndim)]).copy_(tensor)


IN_ORDER = Place()
"""As a tensor of torch's own making lies."""
