"""What can be read off the arguments of a call: which calls are alike, and whether one would build a graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["differentiates", "named_arguments", "signature_of_call"]


def signature_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """What two calls must share to have features of the same shapes: names, shapes, dtypes, flags, lists of indices and autocast, but no values of tensors."""
    given = (name for name in sorted(kwargs) if kwargs[name] is not None and not (isinstance(kwargs[name], Mapping) and not kwargs[name]))
    return (tuple(_signature(value) for value in args), tuple((name, _signature(kwargs[name])) for name in given), _autocast())


def _autocast() -> tuple[object, ...]:
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind))


def _signature(value: Any) -> object:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    if isinstance(value, (list, tuple)):
        return tuple(_signature(entry) if isinstance(entry, (Tensor, list, tuple)) else entry if isinstance(entry, int) else type(entry) for entry in value)
    if isinstance(value, Mapping):
        return tuple((str(key), _signature(value[key])) for key in value)
    return value if isinstance(value, (bool, str)) else type(value)


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call's arguments by their names, the positional ones too where the module's `forward` names them."""
    return {**dict(zip(_parameters(type(module).forward), args, strict=False)), **kwargs} if args else kwargs


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
