"""What was learnt about one kind of call of a model: where its blocks are, how they are cut and what they
return. It holds while calls look alike.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from foreseer.adapters.assemblies import Assemble
from foreseer.adapters.fronts import places_before
from foreseer.adapters.layouts import Layout, Pool
from foreseer.adapters.parts import Parts
from foreseer.adapters.wires import Wires
from foreseer.errors import UnsupportedModelError
from foreseer.site import LATENT, OUTPUT, Site, site_of

__all__ = ["Anatomy", "Rewired"]

WORTH = 0.5
"""Share of the blocks' work that must lie in their parts. Where it is less, forecasting them all leaves most
of a step to be computed.
"""


class Rewired(Exception):  # noqa: N818  (not an error: the evaluation begins anew)
    """The host has learnt that its sites are others than it said, or that what it knew does not hold for this
    call. A session on it must begin anew.

    Attributes:
        changed: What is other than when the model was examined, so that it must be examined anew; empty where
            it was just examined.
    """

    def __init__(self, changed: str = "") -> None:
        super().__init__(changed)
        self.changed = changed


class Anatomy:
    """See the module.

    Args:
        wires: The model's interceptions.
        learnt: What `learnt` returned for a model that was the same; None to learn it all.

    Attributes:
        order: The blocks in the order in which they are executed, as indices into ``wires.blocks``.
        claimed: The sites that a policy may forecast, so that they must be right; None for all. What only an
            observer wants to see is merely shown.
        called: The blocks that were called in the examined step, as indices into ``wires.blocks``.
        silent: Parts that this kind of call does not use.
        output_for_last: Whether the model's output stands in for the last block's.
        arrival: Shapes and dtypes that arrive at the first block; None before the model was examined.
        output: Layout of the model's output; None likewise.
        layouts, idle_layouts: Of the blocks and their parts, and of what need not run where the parts are
            forecast; those that were seen.
        assemblies: The way of putting a block together that was found to equal it bit for bit, or None where
            none did.
        handed_on: Under which name of the next block's arguments a block hands on each thing that it returns;
            empty where it does not. Of some blocks, by index.
        joined: By the names of streams that a block was given as one, whether each lies at its end.
        modulated: Whether what was seen at `MODULATED` was held against block 0 itself.
        examined: For which recorded sites it was found out.
        separable: Whether a row computed alone equals the same row in the batch; not known to be otherwise.
        compared: For which substituted sites that was looked at.
        clone: Whether the model writes into what its blocks return.
        limited: Whether parts are left out for want of memory, which is no fact about the model.
        pool: Zeros that were handed out.
        notes: What was found out, in sentences.
    """

    def __init__(self, wires: Wires, learnt: Mapping[str, Any] | None = None) -> None:
        self.wires = wires
        self.version = wires.version
        self.notes: list[str] = list(wires.notes)
        self.claimed: frozenset[Site] | None = None
        self.silent: frozenset[Site] = frozenset()
        self.output_for_last = wires.opaque
        self.separable, self.clone, self.limited = True, False, False
        self.compared: set[frozenset[Site]] = set()
        self._parts_work = wires.covered >= WORTH
        if wires.opaque:
            self.notes.append("the model is compiled as a whole, so that only its output can be forecast; compile its blocks (compile_repeated_blocks) instead")
        self.reorder(list(range(len(wires.blocks))))
        vars(self).update({name: copy.copy(value) for name, value in (learnt or {}).items()})

    @property
    def learnt(self) -> Mapping[str, Any]:
        """What was learnt, without anything that keeps the model alive."""
        return {name: copy.copy(value) for name, value in vars(self).items() if name not in ("wires", "version", "claimed", "pool")}

    def reorder(self, order: list[int]) -> None:
        """Take the blocks in another order, and forget what depends on it."""
        self.order = order
        self._positions = {wire: index for index, wire in enumerate(order)}
        self.pool: Pool = {}
        self.layouts: dict[Site, Layout] = {}
        self.idle_layouts: dict[tuple[int, str], Layout] = {}
        self.assemblies: dict[int, Assemble | None] = {}
        self.handed_on: dict[int, tuple[str, ...]] = {}
        self.joined: dict[str, bool] = {}
        self.modulated = False
        self.arrival: list[tuple[torch.Size, torch.dtype]] | None = None
        self.output: Layout | None = None
        self.called: list[int] = []
        self.examined: set[frozenset[Site]] = set()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.order)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output, block after block."""
        if self.wires.opaque:
            return (site_of(self.depth - 1),)
        found: list[Site] = []
        for index in range(self.depth):
            parts = self.parts_at(index)
            found += [*(site_of(index, part) for part in (parts.modules if parts else ())), site_of(index)]
        return tuple(found)

    def block(self, index: int) -> nn.Module:
        """The block of that index."""
        return self.wires.blocks[self.order[index]]

    def parts_at(self, index: int) -> Parts | None:
        """How that block is cut into parts, those that are not called left out; None where it is not."""
        parts = self.wires.parts[self.order[index]] if self._parts_work else None
        if parts is None or not self.silent:
            return parts
        called = {part: path for part, path in parts.modules.items() if site_of(index, part) not in self.silent}
        if len(called) == len(parts.modules):
            return parts
        return attrs.evolve(parts, modules=called, assemblies=()) if called else None  # an assembly wants all parts

    def note(self, sentence: str) -> None:
        """Say what was found out, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def position(self, wire: int) -> int | None:
        """Where in the order of execution a block is; None if it is not part of it."""
        return self._positions.get(wire)

    def claims(self, site: Site) -> bool:
        """Whether a policy may forecast this site."""
        return self.claimed is None or site in self.claimed

    def claimed_of(self, record: Collection[Site]) -> frozenset[Site]:
        """Those of the sites that a policy may forecast."""
        return frozenset(record) if self.claimed is None else self.claimed.intersection(record)

    def knows(self, record: Collection[Site]) -> bool:
        """Whether it was examined with these sites recorded, or with those of them that may be forecast."""
        return frozenset(record) in self.examined or self.claimed_of(record) in self.examined

    @property
    def name(self) -> str:
        """What the model is called in sentences."""
        return type(self.wires.model).__name__

    @property
    def last(self) -> Site:
        """The last block's output."""
        return site_of(self.depth - 1)

    def from_output(self, sites: Collection[Site]) -> frozenset[Site]:
        """Those of the sites whose feature is made of the model's output."""
        return frozenset(site for site in sites if site.end == OUTPUT or (self.output_for_last and site.end == self.last))

    @property
    def places(self) -> tuple[Site, ...]:
        """What can be seen in front of block 0."""
        return (LATENT,) if self.wires.opaque else places_before(self.block(0))

    @property
    def has_parts(self) -> bool:
        """Whether module parts can be forecast, as far as is known."""
        return self._parts_work and any(self.wires.parts)

    def without_parts(self, why: str) -> bool:
        """Stop offering module parts, and say why. Returns whether there were any."""
        if not self.has_parts:
            return False
        self._parts_work = False
        self.notes.append(f"module parts are not forecast: {why}")
        self.reorder(self.order)
        return True

    def fall_back(self, record: Collection[Site], why: str) -> Rewired:
        """Give up the finest level that is in use, and say why."""
        if self._parts_work and any(site.part not in ("block", "output") for site in record):
            self._parts_work = False
            self.notes.append(f"{self.name}: module parts cannot be forecast: {why}")
        elif not self.output_for_last:
            self.output_for_last = True
            self.notes.append(f"{self.name}: the last block cannot be forecast on its own, its output is forecast instead: {why}")
        else:
            raise UnsupportedModelError(f"{self.name} cannot be driven: {why}")
        self.reorder(self.order)
        return Rewired()
