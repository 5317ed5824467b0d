"""What of a pipeline no policy drives, and runs in its steps all the same: modules beside the denoisers, and
what took a denoiser's place in the middle of a generation. That work is not forecast, which the report says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from foreseer.adapters.calls import Interception, intercept

__all__ = ["Bystanders"]


class Bystanders:
    """Counts in which steps of a generation each of these modules is called.

    Args:
        modules: By their names.
        step: Says in which step a module is called; None outside of a generation.
        pipeline: Which holds them.
        driven: What of it a generation is followed by, by attribute: denoisers and scheduler.

    Attributes:
        last: The last step in which a denoiser was driven.
    """

    def __init__(self, modules: Mapping[str, nn.Module], step: Callable[[nn.Module], int | None], pipeline: Any = None, driven: Sequence[str] = ()) -> None:
        self._step, self._pipeline, self._driven, self.last = step, pipeline, driven, 0
        self._held: dict[str, Any] = {}
        self._exchanged: list[str] = []
        self._cut: list[str] = []
        self._kinds = {name: type(module).__name__ for name, module in modules.items()}
        self._steps: dict[str, set[int]] = {}
        self._taken: list[Interception] = [intercept(module, functools.partial(self._around, name, module)) for name, module in modules.items()]

    def _around(self, name: str, module: nn.Module, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = self._step(module)
        if step is not None:
            self._steps.setdefault(name, set()).add(step)
        return inner(*args, **kwargs)

    def begin(self) -> None:
        """A generation begins; perhaps because the scheduler was exchanged in the middle of another."""
        self._steps.clear()
        self._exchanged, self._cut = self._cut, []
        self._held = {name: getattr(self._pipeline, name) for name in self._driven}

    def ended(self) -> None:
        """A generation has ended."""
        for name, held in self._held.items():
            if getattr(self._pipeline, name, None) is not held:
                at = f"the pipeline's {name} was exchanged behind step {self.last} of a generation"
                if name == "scheduler":
                    self._cut.append(f"{at}, which ended so, and another began")
                else:
                    self._exchanged.append(f"{at}: calls of the new one do not arrive and were computed")
        self._held = {}

    def end(self) -> None:
        """Let go of the modules and the pipeline."""
        self._held, self._pipeline = {}, None
        while self._taken:
            self._taken.pop().restore()

    def notes(self) -> list[str]:
        """Say which were called in several steps."""
        return self._exchanged + [
            f"{name} ({self._kinds[name]}) was called in {len(steps)} steps and is not driven: it is computed whatever the policy says"
            for name, steps in self._steps.items()
            if len(steps) > 1
        ]
