"""Small tables of the host on a device, without the host waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["on_device", "on_host"]


def on_device(values: Sequence[float] | NDArray[Any] | Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers of the host as a tensor there.

    A copy from pageable memory makes the host wait until the device has done all that was asked of it before.
    From pinned memory it does not, and torch keeps that memory until the copy is done.

    Args:
        values: Row indices, flags, errors or weights; any shape.
        device: Where they are wanted.
        dtype: None keeps theirs.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def on_host(*vectors: Tensor) -> list[list[float]]:
    """Return the numbers of vectors of one length, flags as 0 and 1. The host waits for an accelerator once;
    on a CPU nobody waits, and they are read as they lie.
    """
    if all(vector.is_cpu for vector in vectors):
        return [vector.tolist() for vector in vectors]
    found: list[list[float]] = torch.stack([vector.float() for vector in vectors]).tolist()
    return found
