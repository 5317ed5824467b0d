"""The memory of a session: per-row anchors and recorded features, and forecasts as one weighted sum.

Each site lives in a ring ``(R, K, ...)``: a row's n-th computed feature goes to slot ``n mod K``, so rows
that are computed at different steps need no bookkeeping beyond a count. A commit copies the step's features
in, once. Keeping them by reference instead would save that copy, and was measured to cost more: tensors that
outlive their step come from fresh memory at every step, whereas a ring is allocated once; and a forecast out
of one tensor is one kernel. It also means that a host may do what it likes with its buffers after a step
(CUDA graphs overwrite theirs).

No differences are stored. The published recurrences divide differences of bf16 tensors at each computed step;
here the same recurrence runs on the float64 weights, and the features are summed once, in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import AnswerError, ContractError, OverBudgetError
from foreseer.storage import Allowance, Storage, in_bytes
from foreseer.transfer import on_device
from foreseer.types import Site, Weights

__all__ = ["FeatureBank"]


CHUNK = 1 << 20
"""Entries of a feature that are widened at a time."""
FLOAT16_MOST = torch.finfo(torch.float16).max


def in_range(feature: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a feature with the numbers that another dtype cannot hold at its largest; a range half as wide
    is the same to a model (bf16, float32).
    """
    most = torch.finfo(dtype).max
    return feature.clamp(-most, most) if 2 * most < torch.finfo(feature.dtype).max else feature


@functools.cache
def _fused_sum() -> Callable[[Tensor, Tensor, torch.dtype], Tensor] | None:
    """One kernel for the whole sum; None where there is no Triton. The loop of multiply-adds moves six times
    the bytes.
    """
    try:
        from foreseer.fused_sum import fused_sum
    except ImportError:
        return None
    return fused_sum


class FeatureBank:
    """Recorded features of one run.

    Args:
        keep: For each recorded site, how many computed features to keep per row.
        rows: Number of rows, R.
        storage: Where and how; None keeps them as they are computed.
        allowance: What may be held, with others who hold of it; None for what ``storage`` allows.
    """

    def __init__(self, keep: Mapping[Site, int], rows: int, storage: Storage | None = None, *, allowance: Allowance | None = None) -> None:
        self._storage = storage or Storage()
        self._allowance = Allowance(self._storage.max_bytes) if allowance is None else allowance
        # Of each site: what its recorded features look like, rows left out.
        self._homes: dict[Site, tuple[torch.dtype, torch.device]] = {}
        self.sites = frozenset(keep)
        self._keep = dict(keep)
        self._rows = rows
        self._depth = max(keep.values(), default=0)
        self._counts = [0] * rows
        self._anchors = np.full((rows, self._depth), np.nan)
        self._rings: dict[Site, Tensor] = {}
        # The last table of weights by slot, for each number of kept features: as a rule one set of weights
        # serves all sites.
        self._tables: dict[tuple[int, torch.dtype, torch.device], tuple[Weights, Tensor]] = {}

    @property
    def anchors(self) -> NDArray[np.float64]:
        """``(R, K)`` step indices of the rows' computed steps, newest first, NaN where a row has fewer; K is
        the most that any site keeps.
        """
        return self._anchors

    @property
    def filled(self) -> bool:
        """Whether anything was recorded."""
        return bool(self._rings)

    @property
    def device(self) -> torch.device | None:
        """Where features come from; None before anything was recorded."""
        return next((device for _, device in self._homes.values()), None)

    def out_of_reach(self, step: int, reach: int | None) -> list[bool]:
        """``(R,)`` True for rows of which nothing was recorded yet, or nothing in the ``reach`` steps before
        ``step``; None for no limit.
        """
        if reach is None or not self._depth:
            return [count == 0 for count in self._counts]
        return [not step - newest <= reach for newest in self._anchors[:, 0].tolist()]

    def commit(self, step: int, rows: Sequence[int] | None, features: Mapping[Site, Tensor]) -> None:
        """Store the features of a computed step.

        Args:
            step: Index of the step.
            rows: The computed rows, or None for all.
            features: For every recorded site, ``(len(rows), ...)``. They are copied.

        Raises:
            ContractError: A recorded site is missing.
            OverBudgetError: At the first commit, if what will be held exceeds what may be held.
        """
        if not self.sites:
            return
        if not self.sites <= features.keys():
            missing = [site for site in self.sites if site not in features]
            raise ContractError(f"the host computed step {step} without features of {', '.join(sorted(map(str, missing)))}, which are to be recorded")
        if not self._rings:
            self._allocate(features)
        counts, chosen = self._counts, range(self._rows) if rows is None else rows
        together = rows is None and counts.count(counts[0]) == len(counts)
        places: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        for site, keep in self._keep.items():
            feature, ring = features[site], self._rings[site]
            if feature.device.type != "cpu":  # on the CPU an infinite forecast is seen and rejected, which an accelerator would have to wait for
                feature = in_range(feature, ring.dtype)
            if together:
                ring[:, counts[0] % keep].copy_(feature, non_blocking=True)
                continue
            feature = feature.to(ring.device, ring.dtype)
            if (keep, ring.device) not in places:
                places[keep, ring.device] = (on_device([*chosen], ring.device), on_device([counts[row] % keep for row in chosen], ring.device))
            ring.index_put_(places[keep, ring.device], feature)
        anchors = self._anchors.copy()  # a policy may still hold the array of an earlier step
        which = slice(None) if rows is None else rows
        anchors[which, 1:] = self._anchors[which, :-1]
        anchors[which, 0] = step
        for row in chosen:
            counts[row] += 1
        self._anchors = anchors
        self._tables.clear()

    def forecast(self, site: Site, weights: Weights) -> Tensor:
        """Return the weighted sum ``(R, ...)`` of a site's features, in the recorded dtype.

        The sum is accumulated in float32, or in the features' dtype where that is wider.
        """
        ring, (dtype, device) = self._rings[site], self._homes[site]
        wide = torch.promote_types(dtype, torch.float32)
        table = self._table(site, weights, wide, device)
        flat = ring.reshape(self._rows, ring.shape[1], -1)
        # Where matrix products are exact (no TF32 or bf16 inside, whatever the user allowed for the model),
        # one product is the fastest sum of several.
        exact = ring.dtype == wide and ring.device.type == device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        if exact and ring.shape[1] > 1:
            total = torch.bmm(table[:, None], flat)[:, 0]
        elif wide == torch.float32 and ring.device.type == device.type == "cuda" and (fused := _fused_sum()) is not None:
            total = fused(flat, table, wide if dtype == torch.float16 else dtype)
        else:
            total = flat[:, 0].to(device, wide, non_blocking=True) * table[:, :1]
            for slot in range(1, ring.shape[1]):  # one widened feature at a time: a widened ring would double what is held
                total.addcmul_(flat[:, slot].to(device, wide, non_blocking=True), table[:, slot : slot + 1])
        if dtype == torch.float16 and device.type != "cpu":  # on the CPU it is looked at instead, which an accelerator would have to wait for
            total.clamp_(-FLOAT16_MOST, FLOAT16_MOST)
        return total.view(self._rows, *ring.shape[2:]).to(dtype)

    def products(self, add: Callable[[Tensor], Tensor]) -> dict[Site, NDArray[np.float64]]:
        """Return the inner products of what is kept at each site, ``(R, keep, keep)``, newest first, 0 where a
        row has fewer: float64 sums (float32 on mps), and one transfer to the host. NaN on the meta device.

        Args:
            add: Adds a tensor up over the processes that share the rows' tokens.
        """
        tables: list[Tensor] = []
        for ring in self._rings.values():
            wide, flat = torch.float32 if ring.device.type == "mps" else torch.float64, ring.reshape(*ring.shape[:2], -1)
            table = torch.zeros((*flat.shape[:2], flat.shape[1]), dtype=wide, device=ring.device)
            for start in range(0, flat.shape[2], CHUNK):  # a whole ring widened would take four times its memory
                piece = flat[:, :, start : start + CHUNK].to(wide)
                table.baddbmm_(piece, piece.mT)
            tables.append(table.flatten().to(tables[0].device if tables else table.device))
        together = torch.cat(tables)
        told = torch.full(together.shape, torch.nan) if together.is_meta else add(together).cpu()
        host: NDArray[np.float64] = told.double().numpy()
        found: dict[Site, NDArray[np.float64]] = {}
        start = 0
        for site, keep in self._keep.items():
            slots, size = self._slots(keep), self._rows * keep * keep
            square = host[start : start + size].reshape(self._rows, keep, keep)
            found[site] = np.take_along_axis(np.take_along_axis(square, slots[:, :, None], 1), slots[:, None, :], 2)
            start += size
        return found

    def check(self, site: Site, draft: Tensor) -> None:
        """Raise `AnswerError` if a forecast that a plugin made itself does not look like what was recorded."""
        shape, (dtype, device) = self._rings[site][:, 0].shape, self._homes[site]
        if draft.shape != shape or draft.dtype != dtype or draft.device != device:
            raise AnswerError(
                f"predict_features gave {draft.dtype} {tuple(draft.shape)} on {draft.device} for {site}; recorded is {dtype} {tuple(shape)} on {device}"
            )

    def features(self, site: Site) -> Tensor:
        """Return a copy of a site's features, ``(K, R, ...)``, newest first, zero where a row has fewer."""
        ring, keep, (dtype, device) = self._rings[site], self._keep[site], self._homes[site]
        if device.type == "cuda" and ring.device.type == "cpu":  # copies into pinned memory may still be under way
            torch.cuda.current_stream(device).synchronize()
        slots = on_device(self._slots(keep), ring.device)
        # A slot that a row has not reached yet is still zero, so the slots behind its oldest feature read as
        # zero too.
        return ring[torch.arange(self._rows, device=ring.device)[:, None], slots].movedim(1, 0).to(device, dtype)

    def clear(self) -> None:
        """Let go of everything; nothing can be forecast after it."""
        self._allowance.held -= sum(self.bytes_held().values())
        self._rings.clear()
        self._tables.clear()

    def bytes_held(self) -> dict[Site, int]:
        """Return the bytes that each site's features occupy; the same from the first computed step to the
        last.
        """
        return {site: ring.nbytes for site, ring in self._rings.items()}

    @torch.inference_mode(False)  # they outlive the step: the next may be made under no_grad, which cannot write to what inference mode made
    def _allocate(self, features: Mapping[Site, Tensor]) -> None:
        """Make the rings, once it is known how large they will be."""
        storage = self._storage
        sizes = {site: self._rows * keep * features[site][0].numel() * (storage.dtype or features[site].dtype).itemsize for site, keep in self._keep.items()}
        needed, allowance = sum(sizes.values()), self._allowance
        limit = allowance.limit
        if limit is not None and needed + allowance.held > limit:
            anchors, largest = max(self._keep.values()), max(sizes.values())
            beside = f", beside {in_bytes(allowance.held)} that other streams and this one's evidence hold" if allowance.held else ""
            raise OverBudgetError(
                f"this policy would hold {in_bytes(needed)} ({len(sizes)} sites, up to {anchors} anchors, {self._rows} rows){beside}, over "
                f"max_bytes={limit} ({in_bytes(limit)}) of its Storage. A lower order holds {in_bytes(needed / anchors)} per anchor; a 16-bit dtype half "
                f"of what float32 does; one site alone, as with target='last_block', about {in_bytes(largest)}"
            )
        allowance.held += needed
        for site, keep in self._keep.items():
            feature = features[site]
            self._homes[site] = (feature.dtype, feature.device)
            dtype, device = storage.dtype or feature.dtype, storage.device or feature.device
            shape = tuple(feature.shape[1:])
            # Zeros, so that a slot nobody has written to is no NaN times a weight of 0.
            if device == feature.device:
                self._rings[site] = torch.zeros((self._rows, keep, *shape), dtype=dtype, device=device)
            else:  # slot by slot in memory, so that a slot is copied to and from another device in one piece
                pinned = device.type == "cpu" and feature.device.type == "cuda"
                self._rings[site] = torch.zeros((keep, self._rows, *shape), dtype=dtype, device=device, pin_memory=pinned).transpose(0, 1)

    def _slots(self, keep: int) -> NDArray[np.int64]:
        """``(R, keep)`` where each row's features are, newest first."""
        slots: NDArray[np.int64] = (np.array(self._counts)[:, None] - 1 - np.arange(keep)) % keep
        return slots

    def _table(self, site: Site, weights: Weights, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``(R, keep)`` the weights in the order of the slots."""
        keep = self._keep[site]
        known = self._tables.get((keep, dtype, device))
        if known is not None and known[0] is weights:
            return known[1]
        values = weights.values
        beyond = (values != 0) & (np.arange(values.shape[1]) >= np.minimum(self._counts, keep)[:, None])
        if beyond.any():
            row, column = np.argwhere(beyond)[0].tolist()
            raise AnswerError(
                f"the weights of site {site} reach back {column + 1} anchors for row {row}, of which {min(int(self._counts[row]), keep)} are recorded "
                f"({keep} are kept); ask for more in Needs(anchors=...), and give 0 where a row has no anchor"
            )
        by_slot = np.zeros((self._rows, keep))
        by_slot[np.arange(self._rows)[:, None], self._slots(keep)] = values[:, :keep]
        table = on_device(by_slot, device, dtype)
        self._tables[keep, dtype, device] = (weights, table)
        return table
