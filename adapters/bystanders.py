"""Modules of a pipeline that no policy drives, and that are called in its steps all the same: their work is not forecast, which the report says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from foreseer.adapters.calls import Interception, intercept

__all__ = ["Bystanders"]


class Bystanders:
    """Counts in which steps of a generation each of these modules is called.

    Args:
        modules: By their names.
        step: Says which step is under way; None outside of a generation.
    """

    def __init__(self, modules: Mapping[str, nn.Module], step: Callable[[], int | None]) -> None:
        self._step = step
        self._kinds = {name: type(module).__name__ for name, module in modules.items()}
        self._steps: dict[str, set[int]] = {}
        self._taken: list[Interception] = [intercept(module, functools.partial(self._around, name)) for name, module in modules.items()]

    def _around(self, name: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = self._step()
        if step is not None:
            self._steps.setdefault(name, set()).add(step)
        return inner(*args, **kwargs)

    def begin(self) -> None:
        """A generation begins."""
        self._steps.clear()

    def end(self) -> None:
        """Let go of the modules."""
        while self._taken:
            self._taken.pop().restore()

    def notes(self) -> list[str]:
        """Say which were called in several steps."""
        return [
            f"{name} ({self._kinds[name]}) was called in {len(steps)} steps and is not driven: it is computed whatever the policy says"
            for name, steps in self._steps.items()
            if len(steps) > 1
        ]
