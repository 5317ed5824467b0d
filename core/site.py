"""Places in a model."""

from __future__ import annotations

import attrs

__all__ = ["OUTPUT", "Site"]


@attrs.frozen(cache_hash=True)
class Site:
    """A place in the model where a feature is recorded or forecast.

    Attributes:
        block: Index of the block, from 0 to L-1, in execution order.
        part: ``"block"`` for the block's output (the residual stream after it), else the name of a module
            part, whose feature is the raw module output before its gate is applied: ``"attn"``, ``"mlp"``.
    """

    block: int
    part: str = "block"

    def __str__(self) -> str:
        return "output" if self.block < 0 and self.part == "output" else f"{self.block}.{self.part}"


OUTPUT = Site(-1, "output")
"""The denoiser's output itself; every host has it, so that `Run.sites` does not list it. Where it is forecast
nothing of the model runs, not even its head: the weakest level, and the cheapest."""
