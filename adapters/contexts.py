"""What a model says of whose call comes next: diffusers' ``model.cache_context("cond")``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from foreseer.adapters.methods import take_part

__all__ = ["Context"]


class Context:
    """Remembers the name that is set on a model. Each thread has its own: pipelines that share a model enter
    and leave its context whenever they like.

    Args:
        model: One that has no such method is never in a context.
    """

    def __init__(self, model: nn.Module) -> None:
        self._here = threading.local()
        self._taken = take_part(model, "cache_context", self._around) if callable(getattr(model, "cache_context", None)) else None

    @property
    def name(self) -> str:
        """The name set in this thread; empty outside of a context."""
        return getattr(self._here, "name", "")

    def end(self) -> None:
        """Let go of the model."""
        if self._taken is not None:
            self._taken.end()

    def _around(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._named(inner(*args, **kwargs), str(args[0] if args else kwargs.get("name", "")))

    @contextlib.contextmanager
    def _named(self, context: Any, name: str) -> Iterator[Any]:
        before, self._here.name = self.name, name
        try:
            with context as entered:
                yield entered
        finally:
            self._here.name = before
