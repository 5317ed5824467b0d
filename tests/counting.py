"""What a model really computes, counted by hooks that know nothing of foreseer's accounts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.parts import parts_of

__all__ = ["counted"]


@contextmanager
def counted(*models: nn.Module) -> Iterator[list[int]]:
    """Counts rows x blocks, of all models together: a block of which something of its own was computed.

    A block whose module parts are all forecast still passes through its norms and gates: it counts where any of those
    parts ran. One whose `forward` was exchanged calls no parts, and counts as a whole. Copies of modules count too.
    """
    total, rows, ran, handles = [0], [0], [False], []

    def call(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [kwargs["hidden_states"]] if "hidden_states" in kwargs else [*args, *kwargs.values()]
        rows[0] = len(next(value for value in given if isinstance(value, (Tensor, list))))

    def begin(whole: bool) -> Callable[..., None]:
        def before(*_: Any) -> None:
            ran[0] = whole

        return before

    def part(*_: Any) -> None:
        ran[0] = True

    def end(*_: Any) -> None:
        total[0] += rows[0] * ran[0]

    for model in models:
        handles.append(model.register_forward_pre_hook(call, with_kwargs=True))
        for _, block in find_blocks(model):
            parts = parts_of(block)
            whole = parts is None or "forward" in vars(block)
            handles += [block.register_forward_pre_hook(begin(whole)), block.register_forward_hook(end)]
            handles += [block.get_submodule(path).register_forward_pre_hook(part) for path in (parts.modules.values() if parts else ())]
    yield total
    for handle in handles:
        handle.remove()
