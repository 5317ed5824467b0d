"""What can be read off the arguments of a call: which calls are alike, and whether one would build a graph."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = [
    "UnderAutocast", "are_cut", "differentiates", "first_tensor", "kept_tokens", "named_arguments", "names_of", "own_tokens", "shapes_of",
    "signature_of_call", "stream_of",
]  # fmt: skip

Shapes = list[tuple[torch.Size, torch.dtype]]

# Asked about a kind that it does not know, torch raises: 2.4 has no autocast for mps.
_AUTOCAST = tuple(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


_BOOKS = ("sigmas", "sample_sigmas", "uuids")
"""Of ComfyUI's ``transformer_options``: where in a sampling a call is, and whose."""


def signature_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """What two calls must share to have features of the same shapes: names, shapes, dtypes, flags, lists of
    indices and autocast, but no values of tensors.
    """
    given = (name for name in sorted(kwargs) if kwargs[name] is not None and not (isinstance(kwargs[name], Mapping) and not kwargs[name]))
    return (tuple(_signature(value) for value in args), tuple((name, _signature(kwargs[name])) for name in given), _autocast())


@attrs.frozen
class UnderAutocast:
    """Makes a call, in any thread, under the autocast that was on where this was made.

    Attributes:
        call: What to call.
        states: Kinds of device and dtypes.
    """

    call: Callable[..., Any]
    states: tuple[tuple[str, torch.dtype], ...] = attrs.field(factory=lambda: _autocast(), init=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call."""
        with contextlib.ExitStack() as casting:
            for kind, dtype in self.states:
                casting.enter_context(torch.autocast(kind, dtype))
            return self.call(*args, **kwargs)


def _autocast() -> tuple[tuple[str, torch.dtype], ...]:
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in _AUTOCAST if torch.is_autocast_enabled(kind))


def _signature(value: Any) -> object:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    if isinstance(value, (list, tuple)):
        return tuple(_signature(entry) if isinstance(entry, (Tensor, list, tuple)) else entry if isinstance(entry, int) else type(entry) for entry in value)
    if isinstance(value, Mapping):
        return tuple((str(key), _signature(value[key])) for key in value if key not in _BOOKS)
    return value if isinstance(value, (bool, str)) else type(value)


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call's arguments by their names, the positional ones too where the module's `forward` names them."""
    return {**dict(zip(_parameters(type(module).forward), args, strict=False)), **kwargs} if args else kwargs


def names_of(module: nn.Module, args: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of a call's positional arguments; empty where the module's `forward` does not name one."""
    return (*_parameters(type(module).forward), *("",) * len(args))[: len(args)]


@functools.lru_cache(maxsize=256)
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(forward).parameters)[1:]
    except (TypeError, ValueError):
        return ()


def differentiates(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call would build a graph: a forecast has no gradient."""
    tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in model.parameters())


def shapes_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Shapes:
    """Shape and dtype of every floating-point tensor among a call's arguments, and in lists, tuples and
    dictionaries among them.

    Masks are left out: some models make one only where rows are of unequal length.
    """
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            if value.is_floating_point():
                found.append((value.shape, value.dtype))
        elif value is not None and isinstance(value, (tuple, list, dict)):
            inside = [entry for key, entry in value.items() if key not in _BOOKS] if isinstance(value, dict) else value
            found += [(entry.shape, entry.dtype) for entry in inside if isinstance(entry, Tensor) and entry.is_floating_point()]
    return found


def are_cut(whole: Shapes, part: Shapes, total: int, rows: int) -> bool:
    """Whether some tensors can be others of which only some rows are left: each as it was, or shorter in one
    dimension.
    """
    return len(whole) == len(part) and all(_is_cut(*pair, total, rows) for pair in zip(whole, part, strict=True))


def _is_cut(whole: tuple[torch.Size, torch.dtype], part: tuple[torch.Size, torch.dtype], total: int, rows: int) -> bool:
    (a, dtype), (b, other) = whole, part
    if dtype != other or len(a) != len(b):
        return False
    shorter = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    return not shorter or (len(shorter) == 1 and shorter[0][0] * rows == shorter[0][1] * total)


def kept_tokens(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], stream: Tensor) -> Tensor | None:
    """``(R, tokens)`` which tokens of a stream are a row's own, by the mask that its block is given; None
    where it is given none.
    """
    for name, value in named_arguments(block, args, kwargs).items():
        if isinstance(value, Tensor) and value.dtype == torch.bool and "mask" in name and "padding" not in name:
            mask = value[:, 0, 0] if value.ndim == 4 and value.shape[1:3] == (1, 1) else value
            if mask.ndim == 2 and stream.ndim > 2 and mask.shape == stream.shape[:2]:
                return mask
    return None


def own_tokens(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], stream: Tensor) -> Tensor:
    """Return a stream without the tokens that only fill up a row: how many they are depends on the rows
    beside it.
    """
    kept = kept_tokens(block, args, kwargs, stream)
    return stream if kept is None else torch.where(kept.reshape(*kept.shape, *(1,) * (stream.ndim - 2)), stream, 0)


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first floating-point tensor among a call's arguments."""
    return next((leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)


def stream_of(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The stream that a block transforms: its argument `hidden_states`, or else its first tensor."""
    named = named_arguments(block, args, kwargs).get("hidden_states")
    return named if isinstance(named, Tensor) else first_tensor(args, kwargs)
