"""Whether a model is still what it was when it was looked at: its modules, hooks, processors and flags."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foreseer.adapters.calls import ATTRIBUTE

__all__ = ["Likeness"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TRAITS = ("_modules", *_HOOKS, "_chunk_size", "processor", "_active_adapter", "_disable_adapters", "merged_adapters")
"""What of a module is changed from outside, and changes what a call of it does."""

_MANY = 1000
"""How many things that hooks are made of are looked into; beyond that they are the same only where they are
one thing.
"""


class Likeness:
    """What a model was made of when it was looked at: shallow copies, so that looking again compares a few
    lists and asks no device.

    Hooks are the same where they do the same, as are those that are registered anew for one call of each step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, own = model, [vars(module) for module in model.modules()]
        self._where = {name: [traits for traits in own if name in traits and traits[name] != {}] for name in _TRAITS}
        self._where |= dict.fromkeys(_HOOKS, own) | ({} if ATTRIBUTE == "forward" else {"forward": own})
        self._was = _copied(self._now())
        self._dtypes = self._dtypes_now()

    def _now(self) -> list[list[Any]]:
        return [[*map(dict.get, own, itertools.repeat(name))] for name, own in self._where.items()]

    def _dtypes_now(self) -> list[torch.dtype]:
        return [parameter.dtype for parameter in self._model.parameters()]

    @property
    def lost(self) -> bool:
        """Whether something is other than it was: modules, hooks, a `forward` or processor of their own,
        chunking, adapters.
        """
        now = self._now()
        if now == self._was:
            return False
        if any(
            one != other and _made_of(one, name in _HOOKS) != _made_of(other, name in _HOOKS)
            for name, ones, others in zip(self._where, now, self._was, strict=True)
            for one, other in zip(ones, others, strict=True)
        ):
            return True
        self._was = _copied(now)
        return False

    @property
    def fingerprint(self) -> object:
        """What it was when it was looked at. It equals that of another look where the model was the same, and
        keeps nothing of the model alive.
        """
        made = [[_made_of(trait, name in _HOOKS, _Itself) for trait in some] for name, some in zip(self._where, self._was, strict=True)]
        return [*self._where], made, self._dtypes

    @property
    def lost_dtype(self) -> bool:
        """Whether a weight has another dtype."""
        return self._dtypes_now() != self._dtypes


def _copied(traits: list[list[Any]]) -> list[list[Any]]:
    return [[copy.copy(trait) if isinstance(trait, (dict, list)) else trait for trait in some] for some in traits]


class _Itself:
    """A thing that equals itself alone, as long as it lives, and is not kept alive."""

    def __init__(self, value: Any) -> None:
        try:
            self._value: Callable[[], Any] = weakref.ref(value)
        except TypeError:  # of a kind that cannot be referred to: equals nothing
            self._value = lambda: None

    def __eq__(self, other: object) -> bool:
        mine = self._value()
        return mine is not None and isinstance(other, _Itself) and mine is other._value()


def _made_of(trait: Any, hooks: bool, alone: Callable[[Any], Any] = id) -> Any:
    """What two traits have in common that do the same. Of hooks the order tells, and not the numbers they
    were given.
    """
    return _parts(list(trait.values()) if hooks and trait else trait, {}, alone)


def _parts(value: Any, seen: dict[int, int], alone: Callable[[Any], Any]) -> Any:
    """A value as nested tuples that compare equal where the values do the same. Modules and tensors stand for
    themselves, as ``alone`` has it.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes, type, CodeType)):
        return type(value), value
    if inspect.ismethod(value) and value.__func__ is getattr(type(value.__self__), "forward", None):
        return type(None), None  # what hooks that were removed leave behind
    if id(value) in seen:
        return "again", seen[id(value)]
    held = _held(value) if len(seen) < _MANY else None
    if held is None:
        return alone(value)
    seen[id(value)] = len(seen)
    return type(value), [_parts(each, seen, alone) for each in held]


def _held(value: Any) -> Iterable[Any] | None:
    """What a value is made of; None where that is not known."""
    match value:
        case nn.Module() | Tensor():
            return None
        case list() | tuple():
            return value
        case dict():
            return itertools.chain.from_iterable(value.items())
        case CellType():
            try:
                return (value.cell_contents,)
            except ValueError:
                return ()
        case FunctionType():
            return value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__
        case functools.partial():
            return value.func, value.args, value.keywords
        case MethodType():
            return value.__func__, value.__self__
        case RemovableHandle():
            return ()
    return (vars(value),) if hasattr(value, "__dict__") and not hasattr(type(value), "__slots__") else None
