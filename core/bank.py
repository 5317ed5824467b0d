"""The memory of a session: per-row anchors and recorded features, and forecasts as one weighted sum.

Features are kept as they are, newest first. While all rows are computed together a feature is kept by reference and
committing costs nothing. From the first step in which only some rows were computed, each site lives in a ring ``(R,
K, ...)`` in which every row has its own newest slot.

No differences are stored. The published recurrences divide differences of bf16 tensors at each computed step; here
the same recurrence runs on the float64 weights, and the features are summed once, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import ContractError
from foreseer.types import Site, Weights

__all__ = ["FeatureBank"]


class FeatureBank:
    """Recorded features of one run.

    Args:
        keep: For each recorded site, how many computed features to keep per row.
        rows: Number of rows, R.
    """

    def __init__(self, keep: Mapping[Site, int], rows: int) -> None:
        self.sites = frozenset(keep)
        self._keep = dict(keep)
        self._rows = rows
        self._depth = max(keep.values(), default=0)
        self._anchors: list[tuple[int, ...]] = [()] * rows
        self._anchors_array: NDArray[np.float64] | None = None
        self._columns: dict[Site, list[Tensor]] = {site: [] for site in keep}
        self._rings: dict[Site, Tensor] = {}
        # Slot of each row's features, newest first; one list per site, since sites may keep different numbers of features.
        self._slots: dict[Site, list[list[int]]] = {}

    @property
    def anchors(self) -> NDArray[np.float64]:
        """``(R, K)`` step indices of the rows' computed steps, newest first, NaN where a row has fewer; K is the most that any site keeps."""
        if self._anchors_array is None:
            array = np.full((self._rows, self._depth), np.nan)
            for row, own in enumerate(self._anchors):
                array[row, : len(own)] = own
            self._anchors_array = array
        return self._anchors_array

    def unrecorded(self) -> list[bool]:
        """``(R,)`` True for rows of which nothing was recorded yet."""
        return [not own for own in self._anchors]

    def commit(self, step: int, rows: Sequence[int] | None, features: Mapping[Site, Tensor]) -> None:
        """Store the features of a computed step.

        Args:
            step: Index of the step.
            rows: The computed rows, or None for all.
            features: For every recorded site, ``(len(rows), ...)``.
        """
        if not self.sites:
            return
        if rows is None and not self._rings:
            for site, column in self._columns.items():
                column.insert(0, features[site])
                del column[self._keep[site] :]
        else:
            if not self._rings:
                self._split_rows()
            for site, ring in self._rings.items():
                self._write(ring, self._slots[site], range(self._rows) if rows is None else rows, features[site])
        for row in range(self._rows) if rows is None else rows:
            self._anchors[row] = (step, *self._anchors[row])[: self._depth]
        self._anchors_array = None

    def forecast(self, site: Site, weights: Weights) -> Tensor:
        """Return the weighted sum ``(R, ...)`` of a site's features, in the recorded dtype.

        The sum is accumulated in float32, or in the features' dtype where that is wider.
        """
        if self._rings:
            return self._forecast_rows(site, weights)
        column, rows = self._columns[site], weights.rows
        if any(any(row[len(column) :]) for row in rows):
            raise ContractError(
                f"the weights of site {site} reach back {len(rows[0])} anchors, but {len(column)} are recorded and "
                f"{self._keep[site]} are kept; ask for more in Needs(anchors=...), and give 0 where a row has no anchor"
            )
        dtype = column[0].dtype
        wide = torch.promote_types(dtype, torch.float32)
        if len(rows) == 1:
            total = torch.mul(column[0].to(wide), rows[0][0])
            for feature, weight in zip(column[1:], rows[0][1:], strict=False):
                if weight:
                    total.add_(feature, alpha=weight)
        else:
            table = torch.tensor(rows, dtype=wide, device=column[0].device)
            shape = (-1, *(1,) * (column[0].ndim - 1))
            total = column[0].to(wide) * table[:, 0].view(shape)
            for k, feature in enumerate(column[1:], 1):
                total.addcmul_(feature.to(wide), table[:, k].view(shape))
        return total.to(dtype)

    def checked(self, site: Site, draft: Tensor) -> Tensor:
        """Return a forecast that a plugin made itself, or raise `ContractError` if it does not look like what was recorded."""
        like = self._rings[site][:, 0] if self._rings else self._columns[site][0]
        if draft.shape != like.shape or draft.dtype != like.dtype or draft.device != like.device:
            raise ContractError(
                f"predict_features gave {draft.dtype} {tuple(draft.shape)} on {draft.device} for {site}; "
                f"recorded is {like.dtype} {tuple(like.shape)} on {like.device}"
            )
        return draft

    def features(self, site: Site) -> Tensor:
        """Return a copy of a site's features, ``(K, R, ...)``, newest first, zero where a row has fewer."""
        keep = self._keep[site]
        if self._rings:
            ring = self._rings[site]
            out = torch.zeros_like(ring)
            for row, slots in enumerate(self._slots[site]):
                if slots:
                    out[row, : len(slots)] = ring[row, slots]
            return out.movedim(1, 0)
        column = self._columns[site]
        return torch.stack([*column, *[torch.zeros_like(column[0])] * (keep - len(column))])

    def bytes_held(self) -> dict[Site, int]:
        """Return the bytes that each site's features occupy now."""
        if self._rings:
            return {site: ring.nbytes for site, ring in self._rings.items()}
        return {site: sum(feature.nbytes for feature in column) for site, column in self._columns.items()}

    def _split_rows(self) -> None:
        for site, column in self._columns.items():
            keep = self._keep[site]
            if column:
                ring = column[0].new_zeros((self._rows, keep, *column[0].shape[1:]))
                for slot, feature in enumerate(column):
                    ring[:, slot] = feature
                self._rings[site] = ring
            self._slots[site] = [list(range(len(column))) for _ in range(self._rows)]
            column.clear()

    def _write(self, ring: Tensor, slots: list[list[int]], rows: Sequence[int], features: Tensor) -> None:
        targets = []
        for row in rows:
            own = slots[row]
            slot = own.pop() if len(own) == ring.shape[1] else len(own)
            own.insert(0, slot)
            targets.append(slot)
        device = ring.device
        ring.index_put_((torch.tensor(rows, device=device), torch.tensor(targets, device=device)), features.to(ring.dtype))

    def _forecast_rows(self, site: Site, weights: Weights) -> Tensor:
        ring = self._rings[site]
        by_slot = np.zeros((self._rows, ring.shape[1]))
        for row, slots in enumerate(self._slots[site]):
            by_slot[row, slots] = weights.values[row, : len(slots)]
            if weights.values[row, len(slots) :].any():
                raise ContractError(
                    f"the weights of site {site} reach back further than the {len(slots)} features recorded for row {row}; give 0 where a row has no anchor"
                )
        wide = torch.promote_types(ring.dtype, torch.float32)
        table = torch.from_numpy(by_slot).to(ring.device, wide)
        flat = ring.flatten(2)
        if ring.dtype == wide:
            total = torch.bmm(table[:, None], flat)[:, 0]
        else:  # one widened feature at a time: a widened copy of the whole ring would double what is held
            total = flat[:, 0].to(wide) * table[:, :1]
            for k in range(1, ring.shape[1]):
                total.addcmul_(flat[:, k].to(wide), table[:, k : k + 1])
        return total.view(self._rows, *ring.shape[2:]).to(ring.dtype)
