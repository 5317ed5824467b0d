"""The weighted sum as one kernel on CUDA: each feature is read once, and the sum written once.

Imported where Triton is, which comes with torch's CUDA builds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fused_sum"]

BLOCK, WARPS = 2048, 4


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(ring, table, out, width, row_stride, slot_stride, KEEP: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.static_range(KEEP):
        feature = tl.load(ring + row * row_stride + slot * slot_stride + place, mask=inside, other=0.0)
        total += feature.to(tl.float32) * tl.load(table + row * KEEP + slot)
    tl.store(out + row * width + place, total.to(out.dtype.element_ty), mask=inside)


def fused_sum(ring: Tensor, table: Tensor, dtype: torch.dtype, *, block: int = BLOCK, warps: int = WARPS) -> Tensor:
    """Return ``(R, N)``: for each row the sum over its slots, accumulated in float32.

    Args:
        ring: ``(R, K, N)`` features of at most 32 bits, whose last dimension is contiguous.
        table: ``(R, K)`` float32 weights, contiguous.
        dtype: Of the sum.
        block: Entries that one program sums; a power of 2.
        warps: Of a program.
    """
    rows, keep, width = ring.shape
    out = torch.empty((rows, width), dtype=dtype, device=ring.device)
    with torch.cuda.device(ring.device):
        grid = (triton.cdiv(width, block), rows)
        _kernel[grid](ring, table, out, width, ring.stride(0), ring.stride(1), KEEP=keep, BLOCK=block, num_warps=warps)
    return out
