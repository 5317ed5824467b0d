"""Which tensors and arrays a plugin holds on to."""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["bytes_held", "held", "left_behind"]

CLOSED = (types.ModuleType, type, str, bytes, int, float, complex, bool, type(None))
CONTAINERS = (list, tuple, dict, set, frozenset, deque, types.MappingProxyType)
CACHE = functools._lru_cache_wrapper


def held(plugins: Iterable[object]) -> list[Tensor | np.ndarray[Any, Any]]:
    """Return the tensors and arrays that can be reached from the plugins: through attributes, slots,
    containers, closures, bound arguments and caches, and through the variables of their classes and modules.
    Other modules, and other classes, are not entered.
    """
    plugins = list(plugins)
    return [thing for thing in _reached([*plugins, *_shared(plugins)]) if isinstance(thing, (Tensor, np.ndarray))]


def bytes_held(plugins: Iterable[object]) -> int:
    """Bytes of the tensors and arrays that can be reached; of a view, those of all that it keeps alive."""
    sizes = {}
    for thing in held(plugins):
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        else:
            sizes[id(thing)] = thing.nbytes
    return sum(sizes.values())


def left_behind(plugins: Iterable[object]) -> int:
    """How many entries all containers have that would still be there without the plugins: those of their
    classes, modules, closures and caches.
    """
    return sum(len(thing) for thing in _reached(_shared(list(plugins))) if isinstance(thing, CONTAINERS))


def _shared(plugins: list[object]) -> list[Any]:
    """Where a walk of what the plugins share begins: the variables of their classes, and of the modules of
    these.
    """
    classes = {type(plugin) for plugin in plugins}
    roots: list[Any] = [vars(cls) for cls in classes]
    for name in {cls.__module__ for cls in classes}:
        if name in sys.modules and not name.startswith("foreseer."):
            own = [value for value in vars(sys.modules[name]).values() if name in (getattr(value, "__module__", ""), type(value).__module__)]
            roots += own + [value for value in vars(sys.modules[name]).values() if isinstance(value, (*CONTAINERS, CACHE, Tensor, np.ndarray))]
    return roots


def _reached(roots: list[Any]) -> list[Any]:
    """Everything that can be reached, once."""
    found, seen, ahead = [], set(), deque(roots)
    while ahead:
        thing = ahead.popleft()
        if isinstance(thing, CLOSED) or id(thing) in seen:
            continue
        seen.add(id(thing))
        found.append(thing)  # which keeps its id its own
        if not isinstance(thing, (Tensor, np.ndarray)):
            ahead.extend(_within(thing))
    return found


def _within(thing: Any) -> Iterator[Any]:
    if isinstance(thing, (dict, types.MappingProxyType)):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from thing
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, CACHE):
        yield from gc.get_referents(thing)
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
    elif isinstance(thing, types.FunctionType):
        yield thing.__defaults__
        for cell in thing.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
    else:
        yield getattr(thing, "__dict__", None)
        for cls in type(thing).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                yield getattr(thing, slot, None)
