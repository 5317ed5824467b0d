"""Where and how features are kept, and how much of them."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch

from foreseer.errors import OptionError

__all__ = ["Allowance", "Storage", "in_bytes"]


def _floating(storage: Storage, field: attrs.Attribute[Any], dtype: Any) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise OptionError(f"dtype={dtype!r} of a Storage cannot hold features; write a floating point dtype, for example torch.bfloat16")


def _keeps(given: Any) -> torch.device | None:
    if given is None:
        return None
    try:
        torch.ones(1, device=given).item()
        return torch.device(given)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"device={given!r} of a Storage keeps nothing here ({error}); write a device such as 'cpu' or 'cuda', or None") from None


def _bytes(storage: Storage, field: attrs.Attribute[Any], most: Any) -> None:
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
        raise OptionError(f"max_bytes={most!r} of a Storage is out of range; write a whole number of bytes >= 0, or None for no limit")


def _known(storage: Storage, field: attrs.Attribute[Any], what: Any) -> None:
    if what not in ("raise", "last_block"):
        raise OptionError(f"on_over_budget={what!r} of a Storage is unknown; write 'raise' or 'last_block'")


@attrs.frozen(kw_only=True)
class Storage:
    """Where and how features are kept, whatever the policy:
    ``attach(pipe, "speca", storage=Storage(dtype=torch.bfloat16))``.

    Attributes:
        dtype: Kept in this dtype (``torch.bfloat16`` halves what a float32 model's take); None keeps the
            model's. Sums are formed in float32 either way.
        device: Kept there, for example ``"cpu"``; None keeps them where they were computed. ``"cpu"`` for
            features of a CUDA model is pinned memory, copied without waiting.
        max_bytes: The most that one run may hold, all its streams and models together; None for no limit.
        on_over_budget: ``"raise"`` in the first step, before anything more is held (a stream that comes later
            is computed, and the report says so). ``"last_block"``, where a model is attached: forecast the
            last block instead of the module parts, and say so too.

    Raises:
        OptionError: A value is out of range, or the device keeps nothing.
    """

    dtype: torch.dtype | None = attrs.field(default=None, validator=_floating)
    device: torch.device | None = attrs.field(default=None, converter=_keeps)
    max_bytes: int | None = attrs.field(default=None, validator=_bytes)
    on_over_budget: Literal["raise", "last_block"] = attrs.field(default="raise", validator=_known)


@attrs.define
class Allowance:
    """Bytes that may be held, by all who hold of it.

    Attributes:
        limit: In all; None for no limit.
        held: Now.
    """

    limit: int | None = None
    held: int = 0


def in_bytes(count: float) -> str:
    """Say a number of bytes in words: ``1.3 GB`` (powers of ten)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
