"""Which tensors and arrays a plugin holds on to."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["bytes_held", "held"]

CLOSED = (types.ModuleType, type, str, bytes, int, float, complex, bool, type(None))


def held(plugins: Iterable[object]) -> list[Tensor | np.ndarray[Any, Any]]:
    """Return the tensors and arrays that can be reached from the plugins: through attributes, slots, containers, closures and bound arguments, and through
    the variables of their classes and modules. Other modules, and other classes, are not entered.
    """
    plugins = list(plugins)
    classes = {type(plugin) for plugin in plugins}
    roots: list[Any] = [*plugins, *(vars(cls) for cls in classes)]
    for name in {cls.__module__ for cls in classes}:
        if name in sys.modules and not name.startswith("foreseer."):
            roots += [value for value in vars(sys.modules[name]).values() if isinstance(value, (list, dict, set, deque, Tensor, np.ndarray))]
    found, seen, ahead = [], set(), deque(roots)
    while ahead:
        thing = ahead.popleft()
        if isinstance(thing, CLOSED) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (Tensor, np.ndarray)):
            found.append(thing)
        else:
            ahead.extend(_within(thing))
    return found


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


def _within(thing: Any) -> Iterator[Any]:
    if isinstance(thing, (dict, types.MappingProxyType)):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from thing
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
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
