"""What a process shares: random numbers, torch's switches, the environment. A plugin must leave it as it was,
and so does the kit.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["changed_since", "kept", "snapshot"]


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # "cpu" would slow every later call of torch


def _set_benchmark(on: bool) -> None:
    torch.backends.cudnn.benchmark = on


SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], object] | None]] = {
    "the random numbers of random": (random.getstate, random.setstate),
    "the random numbers of numpy": (np.random.get_state, np.random.set_state),
    "the random numbers of torch": (torch.get_rng_state, torch.set_rng_state),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, _set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "torch's precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.backends.cudnn.benchmark": (lambda: torch.backends.cudnn.benchmark, _set_benchmark),
    "CUDA, which was initialised": (torch.cuda.is_initialized, None),
    "the environment": (lambda: dict(os.environ), _set_environment),
    "the working folder": (os.getcwd, os.chdir),
}
"""``what -> (how to read it, how to put it back or None)``."""


def snapshot() -> dict[str, Any]:
    """Read everything that is shared."""
    return {what: read() for what, (read, _) in SHARED.items()}


def changed_since(before: dict[str, Any]) -> list[str]:
    """Say what differs from a `snapshot`, in words."""
    now = snapshot()
    return [what for what in before if str(_plain(before[what])) != str(_plain(now[what]))]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put everything back at the end, whatever happened: a wrong policy must not spoil the tests that follow
    it.
    """
    before = snapshot()
    try:
        yield
    finally:
        for what in changed_since(before):
            restore = SHARED[what][1]
            if restore is not None:
                restore(before[what])


def _plain(value: Any) -> Any:
    """The same with tensors and arrays as bytes, which are printed whole."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value
