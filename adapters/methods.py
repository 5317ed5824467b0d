"""Taking part in calls of one object's methods. Its class stays its own and untouched, copies and pickles of
it are those of an object that nobody follows.

Pipelines compare ``type(scheduler)`` and look at signatures, so that neither the class may change nor the
method's signature. What stands in for a method is an attribute of the object. A copy would take it along, and
drive the original by it: so the object's state is told without it.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, cast

from foreseer.errors import UnsupportedModelError

__all__ = ["Participation", "take_part"]

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""``(inner, args, kwargs) -> result``; ``inner(*args, **kwargs)`` goes on."""


class _StandIn:
    """An attribute of an object in the place of one of its methods."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.before = vars(owner).get(name, _ABSENT)
        self.method = getattr(owner, name)
        self.around: list[Around] = []
        self.copies: list[Callable[[], bool]] = []
        functools.update_wrapper(self, self.method)
        vars(owner)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.method
        for around in tuple(self.around):
            inner = functools.partial(_called, around, inner)
        return inner(*args, **kwargs)

    def leave(self) -> None:
        """Put back what was there, unless somebody has put something in front of this, which then does
        nothing but go on.
        """
        if vars(self.owner).get(self.name) is self:
            vars(self.owner).pop(self.name)
            if self.before is not _ABSENT:
                vars(self.owner)[self.name] = self.before

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """In a copy that is followed too, its own method under the same participants."""
        copy = object.__new__(_StandIn)
        copy.owner, copy.name, copy.before = memo.get(id(self.owner), self.owner), self.name, _ABSENT
        copy.method = types.MethodType(getattr(type(copy.owner), self.name), copy.owner)
        copy.around, copy.copies = list(self.around), []
        functools.update_wrapper(copy, copy.method)
        return copy


class _State:
    """An attribute of an object in the place of its ``__getstate__``: its state without what stands in for
    methods.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        vars(owner)["__getstate__"] = self

    def __call__(self) -> Any:
        owner = self._owner
        state: Any = cast(Any, type(owner)).__getstate__(owner)
        if not isinstance(state, dict):
            return state
        caller = sys._getframe(1)
        deep = caller.f_code.co_name == "deepcopy" and caller.f_globals.get("__name__") == "copy"
        plain = {}
        for name, value in state.items():
            if value is self:
                continue
            while isinstance(value, _StandIn) and not (deep and any(followed() for followed in value.copies)):
                value = value.before
            if value is not _ABSENT:
                plain[name] = value
        return plain


def _called(around: Around, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return around(inner, args, kwargs)


_ABSENT = object()


class Participation:
    """See `take_part`."""

    def __init__(self, stand_in: _StandIn, around: Around, copies: Callable[[], bool]) -> None:
        self._stand_in: _StandIn | None = stand_in
        self._around, self._copies = around, copies

    def end(self) -> None:
        """Take no part any more, and let go of the object; the last to leave puts back what was there."""
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is None:
            return
        stand_in.around.remove(self._around)
        stand_in.copies.remove(self._copies)
        if not stand_in.around:
            stand_in.leave()
        owner = stand_in.owner
        if isinstance(vars(owner).get("__getstate__"), _State) and not any(isinstance(value, _StandIn) for value in vars(owner).values()):
            del vars(owner)["__getstate__"]


def take_part(owner: Any, name: str, around: Around, *, copies: Callable[[], bool] = lambda: False) -> Participation:
    """Lead calls of an object's method through ``around`` until `Participation.end`; the last to come is the
    outermost.

    Args:
        owner: The object.
        name: The method's.
        around: Called at every call.
        copies: Says whether a deep copy of the object that is made now is followed too.

    Raises:
        UnsupportedModelError: The object has no such method, or takes no attributes.
    """
    if not callable(getattr(owner, name, None)):
        raise UnsupportedModelError(f"a {type(owner).__name__} has no method {name}(), by which foreseer would follow it")
    if not hasattr(owner, "__dict__"):
        raise UnsupportedModelError(f"a {type(owner).__name__} takes no attributes, so that foreseer cannot follow its {name}()")
    stand_in = vars(owner).get(name)
    if not isinstance(stand_in, _StandIn):
        stand_in = _StandIn(owner, name)
    if not isinstance(vars(owner).get("__getstate__"), _State):
        _State(owner)
    stand_in.around.append(around)
    stand_in.copies.append(copies)
    return Participation(stand_in, around, copies)
