"""What was last seen at the places that gates compare with: once in the step before, once where a row was
computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from foreseer.transfer import on_device
from foreseer.types import Evidence, Site

__all__ = ["Sightings"]


NOTHING = torch.empty(0)


class Sightings:
    """See the module. What was not seen of a row is NaN, which no gate accepts.

    Args:
        sites: The places.
        rows: Number of rows, R.

    Attributes:
        sites: As given.
    """

    def __init__(self, sites: Collection[Site], rows: int) -> None:
        self.sites, self._rows = frozenset(sites), rows
        self._now: dict[Site, Tensor] = {}
        self._before: dict[Site, Tensor] = {}
        self._anchor: dict[Site, Tensor] = {}

    def see(self, seen: Mapping[Site, Tensor], rows: Sequence[int] | None) -> None:
        """Keep what a pass has seen.

        Args:
            seen: By place, ``(n, ...)``. They are copied.
            rows: Which rows those are; None for all.
        """
        for site in self.sites & seen.keys():
            tensor = seen[site].detach()
            if rows is None:
                self._now[site] = tensor.clone()
            elif site not in self._now:
                now = self._now[site] = torch.full_like(tensor[:1], torch.nan).repeat(self._rows, *(1 for _ in tensor.shape[1:]))
                now[on_device(rows, now.device)] = tensor

    def show(self, evidence: Evidence) -> Evidence:
        """Return a probe's evidence with what was there earlier."""
        others = {site: self._with_past(other) for site, other in evidence.others.items()}
        if evidence.site in self.sites:
            self.see({evidence.site: evidence.computed}, None)
            evidence = self._with_past(evidence)
        return attrs.evolve(evidence, others=others) if others else evidence

    def _with_past(self, evidence: Evidence) -> Evidence:
        before, anchor = (kept.get(evidence.site) for kept in (self._before, self._anchor))
        nothing = torch.full_like(evidence.computed, torch.nan) if before is None or anchor is None else None
        return attrs.evolve(evidence, before=nothing if before is None else before, anchor=nothing if anchor is None else anchor)

    def commit(self, computed: Sequence[bool]) -> None:
        """End a step.

        Args:
            computed: ``(R,)`` which rows were computed in it.
        """
        for site in self.sites:
            now, anchor = self._now.get(site), self._anchor.get(site)
            if now is not None and any(computed):
                if not all(computed):
                    mask = on_device(list(computed), now.device).reshape(-1, *(1 for _ in now.shape[1:]))
                    now = torch.where(mask, now, torch.nan if anchor is None else anchor)
                self._anchor[site] = now
        self._before, self._now = self._now, {}

    def clear(self) -> None:
        """Let go of everything."""
        self._now, self._before, self._anchor = {}, {}, {}

    @property
    def held(self) -> int:
        """Bytes that are held between steps, at most: both of each place."""
        return sum(2 * self._before.get(site, self._anchor.get(site, NOTHING)).nbytes for site in self.sites)

    def bytes_held(self) -> dict[Site, int]:
        """Return the bytes that are held for each place between steps."""
        held = {site: [kept[site] for kept in (self._before, self._anchor) if site in kept] for site in self.sites}
        return {site: sum({id(tensor): tensor.nbytes for tensor in tensors}.values()) for site, tensors in held.items() if tensors}
