"""What makes the host wait for a device, noted on a machine that has none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

READS: dict[Callable[..., Any], str] = {
    getattr(Tensor, name): f"Tensor.{name}"
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__contains__")
}
"""What cannot be answered without a tensor's numbers."""

SYNCHRONIZING: dict[str, Any] = {
    "torch.cuda": torch.cuda,
    "torch.cuda.Event": torch.cuda.Event,
    "torch.cuda.Stream": torch.cuda.Stream,
    "torch.mps": torch.mps,
    "torch.accelerator": getattr(torch, "accelerator", None),  # torch 2.6 and later
}
"""What has a method ``synchronize``."""


class _Reads(TorchFunctionMode):
    def __init__(self, noted: list[str]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func in READS and isinstance(args[0], Tensor) and args[0].is_meta:
            self._noted.append(READS[func])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def waits_noted() -> Iterator[list[str]]:
    """Note, in words, who reads a number of a tensor on "meta", which fails as well, and who synchronizes,
    which does nothing here. CUDA is said to be there.
    """
    noted: list[str] = []

    def stand_in(name: str) -> Callable[..., None]:
        return lambda *_, **__: noted.append(name)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=True))
        for name, owner in SYNCHRONIZING.items():
            if owner is not None:
                stack.enter_context(mock.patch.object(owner, "synchronize", stand_in(f"{name}.synchronize")))
        stack.enter_context(_Reads(noted))
        yield noted
