"""What one sampling costs, counted from outside of whatever drives the model: blocks that ran, FLOPs, and
bytes of tensors alive at once.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from foreseer.bench.results import Counted
from foreseer.errors import OptionError

__all__ = ["BlockCalls", "count_blocks", "count_cost"]

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@attrs.define
class BlockCalls:
    """How much of each block ran while it was counted.

    A block that ran in part, such as one whose attention was forecast and whose feed-forward layer was
    computed, counts as the share of its linear layers' weights that ran. Linear layers inside of norms are
    left out: modulation stays live under every method.

    Attributes:
        weights: For each block the weights of its linear layers.
        calls: For each block the weights that were used, summed over the calls of those layers.
        rows: The same, times the batch entries of each call.
    """

    weights: list[int]
    calls: list[int]
    rows: list[int]

    @property
    def steps(self) -> float:
        """How often the block that ran least was run: steps that were computed to the end, times the calls
        that a step makes.
        """
        return min(used / all_of_it for used, all_of_it in zip(self.calls, self.weights, strict=True))

    @property
    def block_rows(self) -> float:
        """Blocks evaluated x rows."""
        return sum(used / all_of_it for used, all_of_it in zip(self.rows, self.weights, strict=True))

    def clear(self) -> None:
        """Begin to count anew."""
        for counts in (self.calls, self.rows):
            counts[:] = [0] * len(counts)


@contextmanager
def count_blocks(blocks: Sequence[nn.Module]) -> Iterator[BlockCalls]:
    """Count the calls of the linear layers of each block, by wrapping their ``forward``.

    To be entered before anything is attached or enabled: what then skips a layer, whichever way, skips the
    counter too. (A forward hook would be called where a cache returns its forecast from within the layer.)

    Raises:
        OptionError: A block has no linear layer outside of its norms.
    """
    counted = BlockCalls([], [0] * len(blocks), [0] * len(blocks))
    wrapped: list[tuple[int, nn.Linear]] = []
    for number, block in enumerate(blocks):
        layers = [m for name, m in block.named_modules() if isinstance(m, nn.Linear) and "norm" not in name]
        if not layers:
            unseen = "so that nobody can see from outside whether it ran"
            raise OptionError(f"a {type(block).__name__} has no linear layer outside of its norms, {unseen}")
        counted.weights.append(sum(layer.weight.numel() for layer in layers))
        wrapped += [(number, layer) for layer in layers]

    def counter(block: int, weights: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(forward)
        def counting(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            counted.calls[block] += weights
            counted.rows[block] += weights * output.shape[0]
            return output

        return counting

    before = [layer.__dict__.get("forward") for _, layer in wrapped]
    for number, layer in wrapped:
        layer.forward = counter(number, layer.weight.numel(), layer.forward)  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        for (_, layer), own in zip(wrapped, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own  # type: ignore[method-assign]


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the bytes of tensors' storages that were made while it was on and are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakKeyDictionary[torch.UntypedStorage, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {id(a.untyped_storage()) for a in args if isinstance(a, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in old and storage not in self._seen:
                    self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        held = storage.nbytes()
        self._seen[storage] = None
        self.now += held
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, held).atexit = False

    def _drop(self, held: int) -> None:
        self.now -= held


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


@contextmanager
def count_cost(device: torch.device) -> Iterator[Counted]:
    """Count FLOPs and memory; all are 0 until it is over. It slows what it watches down several times: time
    something else.
    """
    cost = Counted()
    # torch's table has the attention kernels of GPUs only
    flops = FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention})
    if device.type == "cuda":
        cost.peak_how = "cuda allocator"
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        with flops:
            yield cost
        cost.peak_bytes = torch.cuda.max_memory_allocated(device) - before
        gc.collect()
        cost.held_bytes = torch.cuda.memory_allocated(device) - before
    else:
        alive = _Alive()
        with alive, flops:
            yield cost
        cost.peak_bytes = alive.peak
        gc.collect()  # what lies in a cycle of references is not held by anybody
        cost.held_bytes = alive.now
    cost.flops = flops.get_total_flops()
