"""What one pass forecasts, and what it computes: where, in which way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from foreseer.backbone import live_blocks
from foreseer.site import Site, site_of
from foreseer.types import Probe

if TYPE_CHECKING:
    from foreseer.adapters.anatomy import Anatomy

__all__ = ["PassPlan", "Way"]

Way = Literal["computed", "judged", "forecast"]
"""How a block is run: on its real input, with those of its parts replaced that are forecast; with none
replaced, to judge a draft; with all replaced.
"""


class PassPlan:
    """See the module.

    Args:
        anatomy: What is known of the model.
        substitute, probe: As in `foreseer.backbone.Backbone.forward`.

    Attributes:
        residuals: The sites of forecast residuals, by their last block.
        bypass: Whether a block is being computed whose parts are not to be replaced.
    """

    def __init__(self, anatomy: Anatomy, substitute: Mapping[Site, Tensor], probe: Probe | None) -> None:
        self._anatomy, self._substitute, self._probe = anatomy, substitute, probe
        self.residuals = {site.block: site for site in substitute if site.since is not None and site.block >= 0}
        self._live = live_blocks(anatomy.depth, substitute, probe) if substitute else None
        self.bypass = False
        self._all_parts: dict[int, bool] = {}

    @property
    def forecasting(self) -> bool:
        """Whether substitutes are in use: some were given, and no judge has refused all rows."""
        return self._live is not None

    def refuse(self) -> None:
        """Nothing is forecast: go on computing."""
        self._live = None

    def ways(self, index: int | None) -> tuple[Way, ...]:
        """Return how a block is run, in this order; empty where it is not."""
        probe = self._probe
        if index is None or self._live is None or (probe is not None and probe.on == "input" and index <= probe.block):
            return ("computed",)
        if not self.live(index):
            return ()
        judged: tuple[Way, ...] = ("judged",) if probe is not None and probe.block == index else ()
        if self.stands_in(index):
            return judged
        return (*judged, "forecast") if judged or self.all_parts(index) else ("computed",)

    def live(self, index: int) -> bool:
        """Whether somebody needs a block's output."""
        return self._live is None or self._live[index]

    def stands_in(self, index: int) -> bool:
        """Whether a block's output is forecast as a whole, or what was added up to it."""
        return index in self.residuals or site_of(index) in self._substitute

    def all_parts(self, index: int) -> bool:
        """Whether all of a block's parts are forecast."""
        if index not in self._all_parts:
            parts = self._anatomy.parts_at(index) if self._substitute else None
            self._all_parts[index] = parts is not None and all(site_of(index, part) in self._substitute for part in parts.modules)
        return self._all_parts[index]

    def replaces(self, site: Site) -> bool:
        """Whether a part is forecast where the pass is now."""
        return self._replacing(site.block) and site in self._substitute

    def idles(self, index: int) -> bool:
        """Whether all parts of a block are replaced where the pass is, so that what serves only them is idle."""
        return self._replacing(index) and self.all_parts(index)

    def _replacing(self, index: int) -> bool:
        probe = self._probe
        return self._live is not None and not self.bypass and (probe is None or probe.on == "draft" or index > probe.block)
