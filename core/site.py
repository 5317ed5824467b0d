"""Places in a model."""

from __future__ import annotations

import functools

import attrs

from foreseer.errors import OptionError

__all__ = ["LATENT", "MODULATED", "OUTPUT", "PLACES", "STREAM", "TIME", "Site", "site_of"]


@attrs.frozen(cache_hash=True, repr=False)
class Site:
    """A place in the model where a feature is recorded or forecast.

    Attributes:
        block: Index of the block, from 0 to L-1, in execution order.
        part: ``"block"`` for the block's output (the residual stream after it), else the name of a module
            part, whose feature is the raw module output before its gate is applied: ``"attn"``, ``"mlp"``.
        since: None for that feature itself. Else the feature is what blocks since+1 to ``block`` added, the
            stream behind ``block`` less the stream behind block ``since`` (-1: less `STREAM`), and a forecast
            is added to the live stream. The residual of the output is the output less `LATENT`.

    Raises:
        OptionError: ``since`` does not lie before the block, or is given for a module part.

    >>> print(Site(27), Site(27, since=0), OUTPUT, Site(-1, "output", since=-1))
    27.block 27.block since 0 output output since -1
    """

    block: int
    part: str = "block"
    since: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.since is not None and (self.part not in ("block", "output") or not -1 <= self.since <= (-1 if self.block < 0 else self.block - 1)):
            raise OptionError(
                f"since={self.since!r} of block {self.block} ({self.part}) is no residual; write -1 <= since < block for the output of a block, "
                "or Site(-1, 'output', since=-1)"
            )

    def __repr__(self) -> str:
        return f"Site(block={self.block!r}, part={self.part!r}{'' if self.since is None else f', since={self.since!r}'})"

    def __str__(self) -> str:
        place = self.part if self.block < 0 else f"{self.block}.{self.part}"
        return place if self.since is None else f"{place} since {self.since}"

    @property
    def end(self) -> Site:
        """Where a residual ends: the same place, without ``since``."""
        return self if self.since is None else Site(self.block, self.part)

    @property
    def start(self) -> Site:
        """Where a residual starts: what it is added to."""
        assert self.since is not None
        return LATENT if self.part == "output" else STREAM if self.since < 0 else Site(self.since)


@functools.lru_cache(maxsize=1 << 14)
def site_of(block: int, part: str = "block") -> Site:
    """Return a site that is no residual, always the same object: a host asks for those of its blocks in every
    pass, and making one takes ten times as long.
    """
    return Site(block, part)


OUTPUT = Site(-1, "output")
"""The denoiser's output itself; every host has it, so that `Run.sites` does not list it. Where it is forecast
nothing of the model runs, not even its head: the weakest level, and the cheapest."""
LATENT = Site(-1, "latent")
"""The denoiser's input, as it is called with it. In front of block 0, as are the next three: known before any
block runs, so that looking costs none. They are never forecast. `Run.places` lists those that a host has."""
TIME = Site(-1, "time")
"""The time embedding that block 0 is given, ``(R, ...)``; the same for every sample of a call."""
MODULATED = Site(-1, "modulated")
"""What block 0's first norm makes of its input, shift and scale applied: TeaCache's signal."""
STREAM = Site(-1, "stream")
"""The stream into block 0. A host that has it has residuals too."""
PLACES = (LATENT, TIME, STREAM, MODULATED)
"""All that lies in front of block 0, in the order of execution."""
