"""What guiders call the predictions of a step: the names of its streams, where a pipeline has guiders.

A guider prepares a list of inputs for each step (`pred_cond`, `pred_uncond`, `pred_cond_skip`, ...), and the
model for each of them in turn. So what the model is called for is told by both, and until the guider cleans
up. Not by the guider's own count: SmoothedEnergyGuidance keeps none. A pipeline may have several guiders, one
for each transformer (Wan 2.2) or for picture and sound (LTX 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreseer.adapters.methods import Participation, take_part

__all__ = ["Guiders"]

MARK = "_identifier_key"
"""The attribute by which a guider is known: the key under which an input has its prediction's name."""


class _Followed:
    """A guider whose calls are followed."""

    def __init__(self, guider: Any, says: Callable[[str], None]) -> None:
        self.guider, self._says = guider, says
        self._names: list[str] = []
        self._prepared = 0
        around = {
            "prepare_inputs": self._around_inputs,
            "prepare_inputs_from_block_state": self._around_inputs,
            "prepare_models": self._around_models,
            "cleanup_models": self._around_cleanup,
        }
        self._taken: list[Participation] = [take_part(guider, name, each) for name, each in around.items() if hasattr(guider, name)]

    def end(self) -> None:
        while self._taken:
            self._taken.pop().end()

    def _around_inputs(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = inner(*args, **kwargs)
        self._names, self._prepared = [str(getattr(state, getattr(self.guider, MARK), "")) for state in result], 0
        self._says("")
        return result

    def _around_models(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = inner(*args, **kwargs)
        # Beyond the list: inputs that another guider has prepared.
        self._says(self._names[self._prepared] if self._prepared < len(self._names) else "")
        self._prepared += 1
        return result

    def _around_cleanup(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._says("")
        return inner(*args, **kwargs)


class Guiders:
    """Follows the guiders of a pipeline.

    Attributes:
        name: What the guider at work calls the prediction under way; empty outside of one.
    """

    def __init__(self) -> None:
        self.name = ""
        self._followed: list[_Followed] = []

    def follow(self, pipeline: Any) -> None:
        """Follow those that the pipeline has now, which may have been exchanged."""
        found = {id(part): part for part in vars(pipeline).values() if hasattr(type(part), MARK)}
        if [id(each.guider) for each in self._followed] != list(found):
            self.leave()
            self._followed = [_Followed(guider, self._say) for guider in found.values()]

    def leave(self) -> None:
        """Let go of them."""
        self.name = ""
        while self._followed:
            self._followed.pop().end()

    def _say(self, name: str) -> None:
        self.name = name
