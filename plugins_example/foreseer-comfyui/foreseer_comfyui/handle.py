"""What a policy node hands to report nodes: the accounts of its last samplings, and no model."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs

from foreseer import Report

__all__ = ["Handle", "Sampling", "executing"]

KEPT = 8
"""Samplings whose reports are kept."""


@attrs.frozen(eq=False)
class Sampling:
    """One sampling, as it went.

    Attributes:
        prompt: Id of the prompt that it was part of; empty where ComfyUI does not say.
        node: Id of the node that sampled; likewise.
        reports: By stream, the account; empty where nothing could be driven.
        notes: What else there is to say, in sentences.
    """

    prompt: str
    node: str
    reports: Mapping[str, Report]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [*self.notes, *(f"{name}\n{report}" if len(self.reports) > 1 else str(report) for name, report in self.reports.items())]
        return "\n\n".join(parts) or "nothing was driven in this sampling"


@attrs.define(eq=False)
class Handle:
    """The value of a FORESEER output.

    Attributes:
        samplings: The last ones, the newest last.
    """

    samplings: deque[Sampling] = attrs.field(factory=lambda: deque(maxlen=KEPT))

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return self  # ComfyUI copies what lies in a model's options; the node's own must learn of the sampling

    def newest(self, node: str = "") -> Sampling | None:
        """Return the newest sampling, of that node where it has one; None before the first."""
        own = [sampling for sampling in self.samplings if node and sampling.node == node] or [*self.samplings]
        return own[-1] if own else None


def executing() -> tuple[str, str]:
    """Return the ids of the prompt and the node that are executed now; empty where ComfyUI does not say."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return "", ""
    context = get_executing_context()
    return ("", "") if context is None else (str(context.prompt_id), str(context.node_id))
