"""What the options of policies may be: declared in the factory's signature, for checks, help and tuning.

>>> @checked
... def every(*, interval: Annotated[int, at_least(1)] = 4) -> object: ...
>>> every(interval=0)
Traceback (most recent call last):
foreseer.errors.OptionError: every: interval=0 is out of range; write a whole number >= 1
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from foreseer.errors import OptionError

__all__ = ["Range", "allows", "alternatives", "at_least", "at_least_float", "checked", "cites", "describe_option", "fraction"]

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        kind: int or float; an int is a float, a bool is neither.
        low, high: The bounds, allowed unless ``open_low`` or ``open_high``.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        words = "a whole number" if self.kind is int else "a number"
        low, high = (f"{bound:g}" for bound in (self.low, self.high))
        if self.high == math.inf:
            return f"{words} {'>' if self.open_low else '>='} {low}"
        return f"{words} in {'(' if self.open_low else '['}{low}, {high}{')' if self.open_high else ']'}"

    def allows(self, value: object) -> bool:
        """Whether the value is of the right kind and inside the bounds."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real):
            return False
        number: Any = value  # compared as it is: a whole number may be larger than any float
        if self.kind is float:
            try:
                float(number)
            except OverflowError:
                return False
        above = number > self.low if self.open_low else number >= self.low
        return bool(above and (number < self.high if self.open_high else number <= self.high))


def at_least(low: int) -> Range:
    """Whole numbers from ``low``."""
    return Range(int, low)


def at_least_float(low: float) -> Range:
    """Numbers from ``low``."""
    return Range(float, low)


fraction = Range(float, 0.0, 1.0)
"""Numbers from 0 to 1."""
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def describe_option(annotation: Any) -> str:
    """Say in words what an annotated option may be; empty where it declares no range and no choice."""
    declared = any(_range_of(part) or get_origin(part) is Literal for part in _members(annotation))
    return _in_words(annotation) if declared else ""


def alternatives(annotation: Any) -> tuple[Range | tuple[Any, ...], ...]:
    """Return what an annotated option may be, for a tuner: ranges, and tuples of choices; no text, no class.

    >>> alternatives(Annotated[int | None, at_least(1)])
    (Range(kind=<class 'int'>, low=1, high=inf, open_low=False, open_high=False), (None,))
    """
    found: list[Range | tuple[Any, ...]] = []
    for part in _members(annotation):
        limits = _range_of(part)
        if limits is not None:
            found.append(limits)
        elif get_origin(part) is Literal:
            found.append(get_args(part))
        elif part in (bool, type(None)):
            found.append((False, True) if part is bool else (None,))
        elif part is int or part is float:
            found.append(Range(part))
    return tuple(found)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union. ``Annotated[int | None, range]`` is a range or None."""
    limits = _range_of(annotation)
    inner = annotation if limits is None else get_args(annotation)[0]
    if get_origin(inner) not in (Union, types.UnionType):
        return (annotation,)
    parts = get_args(inner)
    if limits is not None:
        return tuple(part if part is type(None) else Annotated[part, limits] for part in parts)
    return tuple(member for part in parts for member in _members(part))


def _range_of(annotation: Any) -> Range | None:
    return next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Range)), None)


def _in_words(annotation: Any) -> str:
    said = []
    for part in _members(annotation):
        limits = _range_of(part)
        if limits is not None:
            said.append(str(limits))
        elif get_origin(part) is Literal:
            said.append("one of " + ", ".join(map(repr, get_args(part))))
        else:
            said.append(_WORDS.get(part) or getattr(part, "__name__", None) or str(part))
    return " or ".join(dict.fromkeys(said))


def allows(annotation: Any, value: object) -> bool:
    """Whether an annotated option may have the value, as far as the annotation says: see `checked`."""
    return any(_member_allows(part, value) for part in _members(annotation))


def _member_allows(part: Any, value: object) -> bool:
    limits = _range_of(part)
    if limits is not None:
        return limits.allows(value)
    if get_origin(part) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(part))
    if part is int or part is float:
        return Range(part).allows(value)
    if part in (bool, str, type(None)):
        return isinstance(value, part)
    return True  # a class of its own, a callable: the factory knows what to do with it


def checked(factory: F) -> F:
    """Make a policy's factory refuse options outside of what its annotations declare: ``Annotated[...,
    Range]``, ``Literal``, int, float, bool, str, and unions of them. Other types are left to the factory.

    Raises:
        OptionError: At the call; names the option, the value and what to write instead.
    """
    signature = inspect.signature(factory)
    hints: dict[str, Any] = {}

    @functools.wraps(factory)
    def wrapper(**options: Any) -> Any:
        if not hints:  # at the first call: an annotation may name what its module defines further down
            hints.update(get_type_hints(factory, include_extras=True))
        for name, value in signature.bind(**options).arguments.items():
            if name in hints and not allows(hints[name], value):
                raise OptionError(f"{factory.__name__}: {name}={value!r} is out of range; write {_in_words(hints[name])}")
        return factory(**options)

    return wrapper  # type: ignore[return-value]


def cites(bibtex: str) -> Callable[[F], F]:
    """Attach the BibTeX entry of the paper that a policy implements, for `foreseer show` and `foreseer.cite`."""

    def mark(factory: F) -> F:
        factory.__dict__["__citation__"] = bibtex
        return factory

    return mark
