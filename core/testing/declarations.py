"""What a plugin may declare about itself: plain attributes, each of one kind, read from one role."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

__all__ = ["DECLARATIONS", "Declaration", "declared", "misdeclared"]


@attrs.frozen
class Declaration:
    """One attribute.

    Attributes:
        hooks: Read from plugins that implement one of these.
        allows: Whether a value is one. None always is: it promises nothing.
        write: What to write, for messages.
        value_only: Whether a method of this name can be nothing but a mistake.
    """

    hooks: tuple[str, ...]
    allows: Callable[[Any], bool]
    write: str
    value_only: bool = False


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


PREDICTING, DECIDING = ("predict_features",), ("before_step", "verify", "commit")

DECLARATIONS = {
    "exact_degree": Declaration(PREDICTING, _whole, "exact_degree = 1, or None", value_only=True),
    "linear": Declaration(PREDICTING, _flag, "linear = True or False"),
    "verified": Declaration(DECIDING, _flag, "verified = True or False"),
    "max_draft_steps": Declaration(DECIDING, _whole, "max_draft_steps = 5, or None", value_only=True),
    "decide": Declaration(DECIDING, lambda value: value in ("row", "batch"), "decide = 'row' or 'batch'"),
}


def implements(plugin: object, hooks: Sequence[str]) -> bool:
    """Whether a plugin implements one of the hooks."""
    return any(hasattr(getattr(type(plugin), name, None), "foreseer_impl") for name in hooks)


def declared(plugins: Sequence[object], attribute: str, default: Any) -> Any:
    """The first declaration of an attribute among the plugins that it is read from. What is not a valid one
    counts for nothing; `misdeclared` says so.
    """
    declaration = DECLARATIONS[attribute]
    for plugin in plugins:
        value = getattr(plugin, attribute, None) if implements(plugin, declaration.hooks) else None
        if value is not None and not callable(value) and declaration.allows(value):
            return value
    return default


def misdeclared(plugin: object) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a plugin's declarations, and what to write: values of another kind, methods in
    their place, and names that are nearly one.
    """
    own = type(plugin).__name__
    names = [name for name, declaration in DECLARATIONS.items() if implements(plugin, declaration.hooks)]
    for name in names:
        value, declaration = getattr(plugin, name, None), DECLARATIONS[name]
        if callable(value):
            if declaration.value_only:
                yield f"{own}.{name} is a method, and is not read", f"Write {declaration.write}; a property will do"
        elif value is not None and not declaration.allows(value):
            yield f"{own}.{name} is {value!r}", f"Write {declaration.write}"
    for name in dir(plugin):
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.9)
        if name.startswith("_") or name in DECLARATIONS or not close:
            continue
        with contextlib.suppress(Exception):  # a property may need what setup has not made yet
            if DECLARATIONS[close[0]].allows(getattr(plugin, name)):
                yield f"{own}.{name} is read by nobody, but looks like {close[0]}", f"Call it {close[0]}"
