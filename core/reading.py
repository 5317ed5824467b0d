"""Options that stand for a file: read once, where the policy is named, and not again in every session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["Written", "read_options", "reads"]

F = TypeVar("F", bound=Callable[..., Any])


class Written(str):
    """A text as it was written, and what it stood for when the policy was named.

    It is that text for whoever prints, compares or stores it.

    Args:
        text: As written: a file's path, or a policy with its options.
        value: What was read.
    """

    value: Any

    def __new__(cls, text: str, value: Any) -> Written:
        """Join them."""
        written = super().__new__(cls, text)
        written.value = value
        return written

    def __getnewargs__(self) -> tuple[str, Any]:  # type: ignore[override]
        return str(self), self.value


def reads(**readers: Callable[[Any], Any]) -> Callable[[F], F]:
    """Say what reads the files that options of a factory stand for.

    A reader takes an option's value, and returns a `Written` where it stands for a file, else the value as it
    is. It is called where a `foreseer.PolicySpec` is made, and what it returns is what the factory is given
    in every session.
    """

    def mark(factory: F) -> F:
        factory.__dict__["__reads__"] = readers
        return factory

    return mark


def read_options(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, with what they stand for where the factory says that they stand for something."""
    readers: Mapping[str, Callable[[Any], Any]] = getattr(factory, "__reads__", {})
    return {name: readers[name](value) if name in readers else value for name, value in options.items()}
