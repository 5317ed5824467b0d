"""What the feature bank asks of an accelerator: tensors say that they are on one, and lie in memory."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import foreseer.bank
from foreseer import Site, Weights
from foreseer.bank import FeatureBank
from foreseer.storage import Storage

SITE, CUDA = Site(0), torch.device("cuda", 0)
HALF, WIDE = torch.float16, torch.float32


class OnCuda(torch.Tensor):
    """Says so."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]


def at(tensor: Any, device: Any) -> Any:
    return tensor.as_subclass(torch.Tensor if device is None or torch.device(device).type == "cpu" else OnCuda)


@pytest.fixture
def calls(monkeypatch):
    """Names of what was asked for, in order."""
    calls: list[str] = []
    zeros, arange, to, copy = torch.zeros, torch.arange, torch.Tensor.to, torch.Tensor.copy_

    def note(where: Any, name: str, does: Any) -> None:
        monkeypatch.setattr(where, name, lambda *given: (calls.append(name), does(*given))[1])

    def make(shape: Any, *, dtype: Any, device: Any, pin_memory: bool = False) -> Any:
        calls.extend(["pinned"] * pin_memory)
        return at(zeros(shape, dtype=dtype), device)

    def move(tensor: Any, *given: Any, non_blocking: bool = False) -> Any:
        devices = [value for value in given if not isinstance(value, torch.dtype)]
        if devices and torch.device(devices[0]) != tensor.device and not non_blocking:
            calls.append("waits")
        moved = to(tensor, *[value for value in given if isinstance(value, torch.dtype)]) if len(devices) < len(given) else tensor
        return at(moved, devices[0]) if devices else moved

    def write(into: Any, values: Any, non_blocking: bool = False) -> Any:
        calls.extend(["waits"] * (not non_blocking))
        copy(at(into, None), at(values, None))
        return into

    def fused(flat: Any, table: Any, dtype: torch.dtype) -> Any:
        calls.append(f"fused {dtype}")
        return (flat * table[:, :, None]).sum(1).to(dtype)

    note(foreseer.bank, "in_range", lambda feature, dtype: feature)
    note(torch, "bmm", torch.bmm)
    note(torch.Tensor, "clamp_", lambda total, low, high: copy(at(total, None), at(total, None).clamp(low, high)))
    note(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: calls.append("synchronize")))
    monkeypatch.setattr(foreseer.bank, "on_device", lambda values, device, dtype=None: at(torch.as_tensor(values, dtype=dtype), device))
    monkeypatch.setattr(foreseer.bank, "_fused_sum", lambda: fused)
    monkeypatch.setattr(torch, "zeros", make)
    monkeypatch.setattr(torch, "arange", lambda count, device: arange(count))
    monkeypatch.setattr(torch.Tensor, "to", move)
    monkeypatch.setattr(torch.Tensor, "copy_", write)
    return calls


@pytest.mark.parametrize(
    ("dtype", "computed_on", "kept_in", "kept_on", "precision", "expected"),
    [
        # One product where it is exact; the fused sum on CUDA alone; a loop of multiply-adds everywhere else.
        (WIDE, "cpu", None, None, "highest", ["bmm"]),
        (WIDE, "cpu", None, None, "high", []),
        (HALF, "cpu", None, None, "highest", []),
        (torch.float64, "cpu", None, None, "highest", ["bmm"]),
        (WIDE, CUDA, None, None, "highest", ["in_range"] * 2 + [f"fused {WIDE}"]),
        (torch.float64, CUDA, None, None, "highest", ["in_range"] * 2),
        (torch.bfloat16, CUDA, None, None, "highest", ["in_range"] * 2 + [f"fused {torch.bfloat16}"]),
        (WIDE, CUDA, HALF, None, "highest", ["in_range"] * 2 + [f"fused {WIDE}"]),
        # Where looking costs a wait, float16 is held to its range before and after.
        (HALF, CUDA, None, None, "highest", ["in_range"] * 2 + [f"fused {WIDE}", "clamp_"]),
        # What is kept beside the host is pinned; only who reads it waits.
        (WIDE, CUDA, None, "cpu", "highest", ["pinned"] + ["in_range"] * 2 + ["current_stream", "synchronize", "waits"]),
        (HALF, CUDA, None, "cpu", "highest", ["pinned"] + ["in_range"] * 2 + ["clamp_", "current_stream", "synchronize", "waits"]),
        (WIDE, "cpu", None, CUDA, "highest", ["waits"]),
        (WIDE, CUDA, None, "xpu", "highest", ["in_range"] * 2 + [f"fused {WIDE}"]),
    ],
)
def test_what_is_asked_of_a_device(monkeypatch, dtype, computed_on, kept_in, kept_on, precision, expected, calls) -> None:
    """Law: which way a sum is formed, and what is clamped, pinned and waited for, follows from where features are."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    storage = Storage(dtype=kept_in)
    object.__setattr__(storage, "device", kept_on and torch.device(kept_on))  # a Storage tries its device
    bank = FeatureBank({SITE: 2}, 2, storage)
    for step in range(2):
        bank.commit(step, None, {SITE: at(torch.full((2, 3), 1.0 + step, dtype=dtype), computed_on)})
    found = bank.forecast(SITE, Weights(np.array([[2.0, -1.0]] * 2)))
    features = bank.features(SITE)
    assert (found.dtype, found.device, found.tolist()) == (dtype, torch.device(computed_on), [[3.0] * 3] * 2)
    assert (features.dtype, features.device, features.tolist()) == (dtype, torch.device(computed_on), [[[2.0] * 3] * 2, [[1.0] * 3] * 2])
    assert bank.device == torch.device(computed_on)
    assert bank._rings[SITE].transpose(0, int(kept_on is not None)).is_contiguous(), "row after row; elsewhere slot after slot"
    assert calls == expected


def test_the_fused_sum_is_taken_where_there_is_triton(monkeypatch) -> None:
    found = []
    for module in (SimpleNamespace(fused_sum="the sum"), None):
        foreseer.bank._fused_sum.cache_clear()
        monkeypatch.setitem(sys.modules, "foreseer.fused_sum", module)
        found.append(foreseer.bank._fused_sum())
    foreseer.bank._fused_sum.cache_clear()
    assert found == ["the sum", None]
