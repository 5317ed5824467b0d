"""What tiny pipelines hand to their denoisers in one step, to be handed over again in loops of a test's own."""

import contextlib
import functools
from typing import Any

import attrs
import torch
from tiny import TINY
from tiny.common import accepted
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Handed", "handed_over", "same", "two"]

STREAMS = ("hidden_states", "x", "sample", "latents")


class Enough(Exception):  # noqa: N818
    """The first step is over."""


@attrs.frozen(eq=False)
class Handed:
    """One call of a denoiser."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def at(self, step: int) -> list[Tensor]:
        """Call the model again as in a later step: the latents are a little larger in each, all else is the very same object."""

        def larger(value: Any) -> Any:
            return value * (1 + 0.02 * step) if isinstance(value, Tensor) and value.is_floating_point() else value

        args, kwargs = self.args, dict(self.kwargs)
        name = next((name for name in STREAMS if name in kwargs), None)
        if name is not None:
            kwargs[name] = tree_map(larger, kwargs[name])
        else:
            args = (tree_map(larger, args[0]), *args[1:])
        with torch.no_grad(), accepted():
            output = self.model(*args, **kwargs)
        return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def owned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@functools.cache
def handed_over(name: str, **asked: Any) -> list[Handed]:
    """What a tiny pipeline hands to its denoisers in its first step, call by call. The pipeline is built anew for each answer, and kept by it."""
    tiny = TINY[name]
    pipe, found = tiny.build(), []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(Handed(module, tree_map(owned, args), tree_map(owned, kwargs)))

    def enough(*_: Any, **__: Any) -> None:
        raise Enough

    parts = [part for key, part in pipe.components.items() if key.startswith("transformer") and part is not None]
    handles = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    pipe.scheduler.step = enough
    with contextlib.suppress(Enough):
        tiny.call(pipe, **asked)
    for handle in handles:
        handle.remove()
    return found


def two(name: str) -> dict[str, Handed]:
    """Two streams of one model: what a pipeline hands over for one prompt and noise, and for others."""
    first, other = handed_over(name)[0], handed_over(name, seed=1)[0]
    return {"one": first, "other": attrs.evolve(other, model=first.model)}


def same(some: list[list[Tensor]], others: list[list[Tensor]]) -> bool:
    """Whether the outputs of two series of calls are the same, bit for bit."""
    return len(some) == len(others) and all(torch.equal(a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True))
