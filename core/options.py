"""Checks for the options of policies: declared once, in the factory's signature, and used for validation, `foreseer show` and tuning.

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
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs

from foreseer.errors import OptionError

__all__ = ["Range", "at_least", "at_least_float", "checked", "cites", "describe_option", "fraction"]

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
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


def at_least(low: int) -> Range:
    """Whole numbers from ``low``."""
    return Range(int, low)


def at_least_float(low: float) -> Range:
    """Numbers from ``low``."""
    return Range(float, low)


fraction = Range(float, 0.0, 1.0)
"""Numbers from 0 to 1."""


def describe_option(annotation: Any) -> str:
    """Say in words what an annotated option may be; empty where the annotation says nothing."""
    ranges = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Range)]
    if ranges:
        optional = type(None) in get_args(get_args(annotation)[0])
        return f"{ranges[0]}{' or None' if optional else ''}"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    return ""


def _allows(annotation: Any, value: object) -> bool:
    for check in getattr(annotation, "__metadata__", ()):
        if isinstance(check, Range):
            optional = type(None) in get_args(get_args(annotation)[0])
            return (value is None and optional) or check.allows(value)
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return True


def checked(factory: F) -> F:
    """Make a policy's factory refuse options outside what its annotations declare (`Annotated[..., Range]` or `Literal`).

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
            if not _allows(hints.get(name), value):
                raise OptionError(f"{factory.__name__}: {name}={value!r} is out of range; write {describe_option(hints[name])}")
        return factory(**options)

    return wrapper  # type: ignore[return-value]


def cites(bibtex: str) -> Callable[[F], F]:
    """Attach the BibTeX entry of the paper that a policy implements, for `foreseer show` and `foreseer.cite`."""

    def mark(factory: F) -> F:
        factory.__dict__["__citation__"] = bibtex
        return factory

    return mark
