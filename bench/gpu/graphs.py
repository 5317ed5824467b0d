"""Modules that CUDA graphs replay: what somebody does by hand who has no patience with Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Graphed", "captured"]

MOST = 4
"""Kinds of call of one module that are captured; others run as they are."""

Captured = tuple[Any, Callable[[], object]]
Capture = Callable[[Callable[[], Any]], Captured]


class Graphed:
    """Stands in for a ``forward``: the first call of a kind is captured, and later ones copy their tensors into
    its inputs and replay it. What it returns is overwritten by the next call.

    Args:
        forward: What to capture. It must do the same work for the same shapes.
        capture: Runs a function once for its effects on the device, and returns what that returned and what
            does the same again into the same memory.
    """

    def __init__(self, forward: Callable[..., Any], capture: Capture) -> None:
        self._forward, self._capture = forward, capture
        self._known: dict[object, tuple[list[Tensor], Any, Callable[[], object]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay what is known of this kind of call, or capture it."""
        leaves, tree = pytree.tree_flatten((args, kwargs))
        kind = (*kwargs, *((leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves))
        if kind not in self._known:
            if len(self._known) == MOST:
                return self._forward(*args, **kwargs)
            own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            given, named = pytree.tree_unflatten(own, tree)
            output, again = self._capture(lambda: self._forward(*given, **named))
            self._known[kind] = ([leaf for leaf in own if isinstance(leaf, Tensor)], output, again)
        inputs, output, again = self._known[kind]
        for into, leaf in zip(inputs, (leaf for leaf in leaves if isinstance(leaf, Tensor)), strict=True):
            into.copy_(leaf)
        again()
        return output


def captured(device: torch.device) -> Capture:
    """Return what captures on a CUDA device; all that it captures shares one pool of memory."""
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(run: Callable[[], Any]) -> Captured:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = run()
        return output, graph.replay

    return capture
