"""One walk over the blocks of a module: what each intercepted call does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from foreseer.adapters.arguments import are_cut, kept_tokens, shapes_of, stream_of
from foreseer.adapters.assemblies import leaves_out_hooks
from foreseer.adapters.layouts import Layout, same_bits
from foreseer.backbone import live_blocks
from foreseer.errors import UnsupportedModelError
from foreseer.types import OUTPUT, Evidence, Probe, Site

if TYPE_CHECKING:
    from foreseer.adapters.anatomy import Anatomy

__all__ = ["Abandoned", "RaggedError", "Unlike", "Walk"]


class Unlike(BaseException):
    """Ends a pass in which something is shaped otherwise than what was learnt about such calls. The text says
    what. Not an Exception, as `Abandoned`.
    """


class RaggedError(UnsupportedModelError):
    """Some rows of a batch are shaped otherwise when they are alone: a model cuts its texts to the longest of
    a call. The text says which.
    """


class Abandoned(BaseException):
    """Ends a pass that need not go on. Not an Exception, so that no host swallows it on the way."""


class Walk:
    """The state of one pass.

    Args:
        anatomy: What is known of the model; what is learnt on the way is put there.
        rows: Rows in this pass.
        substitute, probe, judge, record: As in `foreseer.backbone.Backbone.forward`.
        clone: Record copies, because something writes to the tensors afterwards.
        whole: Rows of the batch that these were taken out of; None where they are all of them.
        shards: Among how many processes the model may divide its tokens.
        all_ways: Try all ways of putting a block together: processes that vote on them must try as many.

    Attributes:
        rows: See there.
        called: The blocks that were computed, in their order.
        repeated: Parts that were called more than once.
        revived: Whether a part was called that was not called before.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        rows: int,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None,
        judge: Callable[[Evidence], bool] | None,
        record: Collection[Site],
        *,
        clone: bool,
        whole: int | None = None,
        shards: int = 1,
        all_ways: bool = False,
    ) -> None:
        self._anatomy, self.rows, self._whole, self._shards, self._all_ways = anatomy, rows, whole, shards, all_ways
        self._substitute, self._probe, self._judge, self._record, self._clone = substitute, probe, judge, record, clone
        self.thread = threading.get_ident()
        self.features: dict[Site, Tensor] = {}
        self.block_rows = 0
        self.called: list[int] = []
        self.assembled: dict[int, list[bool]] = {}  # by block, whether each way of putting it together from its parts equals it
        self.repeated: set[Site] = set()
        self.revived = False
        self._arrived = False
        self._versions: list[tuple[Tensor, int]] = []
        self._live = live_blocks(anatomy.depth, substitute, probe) if substitute else None
        self._bypass = False

    @property
    def forecasting(self) -> bool:
        """Whether substitutes are in use: some were given, and no judge has refused all rows."""
        return self._live is not None

    def block(self, wire: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        if not self._arrived:
            self._arrived = True
            self._arrive(wire, args, kwargs)
        index = self._anatomy.position(wire)
        if index is None or self._live is None:
            return self._compute(wire, index, inner, args, kwargs)
        probe = self._probe
        if probe is not None and index <= probe.block and probe.on == "input":
            output = self._compute(wire, index, inner, args, kwargs)
            if index == probe.block:
                self._judge_input(index, args, kwargs, output)
            return output
        if not self._live[index]:
            return self._anatomy.layouts[index].zeros(self.rows, self._anatomy.pool)
        site = Site(index)
        if probe is not None and probe.block == index:
            return self._judge_draft(index, inner, args, kwargs)
        if site in self._substitute:
            return self._anatomy.layouts[index].unpack(self._substitute[site])
        if self._all_parts(index):
            return self._forecast_parts(index, inner, args, kwargs)
        return self._compute(wire, index, inner, args, kwargs)

    def part(self, wire: int, part: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside the block."""
        index = self._anatomy.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        site = Site(index, part)
        if self._replaces(site):
            return self._anatomy.part_layouts[site].unpack(self._substitute[site])
        output = inner(*args, **kwargs)
        if site in self._anatomy.silent and self._record and self._live is None:
            self.revived = True
        if site in self._record:
            if site in self.features or site in self.repeated:
                self.repeated.add(site)
                if not self._anatomy.claims(site):  # which of them an observer would be shown would be chance
                    self.features.pop(site, None)
            else:
                self._see(site, self._anatomy.part_layouts, output, f"{part} of block {index}")
        return output

    def idle(self, wire: int, path: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A submodule is called whose result nobody reads if the block's parts are forecast."""
        index = self._anatomy.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        layout = self._anatomy.idle_layouts.get((index, path))
        parts = self._anatomy.parts_at(index)
        if layout is not None and parts is not None and all(self._replaces(Site(index, part)) for part in parts.modules):
            return layout.zeros(self.rows, self._anatomy.pool)
        output = inner(*args, **kwargs)
        if layout is None:
            self._anatomy.idle_layouts[index, path] = Layout.of(output, self.rows, what=f"{path} of block {index}")
        return output

    def untouched(self) -> bool:
        """Whether nobody wrote to a recorded feature since it was recorded."""
        return all(tensor._version == version for tensor, version in self._versions)

    def _replaces(self, site: Site) -> bool:
        probe = self._probe
        behind = probe is None or probe.on == "draft" or site.block > probe.block
        return self._live is not None and behind and not self._bypass and site in self._substitute

    def _all_parts(self, index: int) -> bool:
        parts = self._anatomy.parts_at(index)
        return parts is not None and all(Site(index, part) in self._substitute for part in parts.modules)

    def _compute(self, wire: int, index: int | None, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the block, with those of its parts replaced that are substituted."""
        self.block_rows += self.rows
        output = inner(*args, **kwargs)
        self.called.append(wire)
        if index is None or index >= self._anatomy.depth:
            return output
        site = Site(index)
        if self._record and index not in self._anatomy.layouts:
            hidden = stream_of(self._anatomy.block(index), args, kwargs)
            try:
                self._anatomy.layouts[index] = Layout.of(
                    output, self.rows, hidden=hidden, shards=self._shards, second=wire in self._anatomy.wires.second, what=self._name(index)
                )
            except UnsupportedModelError:
                # Where the model's output stands in for the last block, nobody needs to know what the others
                # return.
                if self._anatomy.claims(site) and (site in self._record or not self._anatomy.output_for_last):
                    raise
                return output
        elif self._whole is not None and index in self._anatomy.layouts and not self._anatomy.layouts[index].fits(output, self.rows):
            if self._anatomy.layouts[index].rows_are_second(output, self.rows, self._whole):
                self._anatomy.wires.second.add(wire)
                raise Unlike(f"the rows of what {self._name(index)} returns are not where they seemed to be")
            raise UnsupportedModelError(f"{self._name(index)} returns something else for {self.rows} of the {self._whole} rows alone")
        if site in self._record:
            self._see(site, self._anatomy.layouts, output, self._name(index), key=index)
        if self._live is None and self._record and index not in self._anatomy.assemblies:
            self._try_assemblies(index, args, kwargs, output)
        return output

    def _arrive(self, wire: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hold what arrives at the first block against what did when the model was examined."""
        anatomy = self._anatomy
        if self._whole is None and anatomy.arrival is not None:
            if shapes_of(args, kwargs) != anatomy.arrival:
                raise Unlike("what arrives at the first block has other shapes or dtypes than when the model was examined")
        elif self._whole is None and self._record:
            anatomy.arrival = shapes_of(args, kwargs)
        elif self._whole is not None and anatomy.arrival and not are_cut(anatomy.arrival, shapes_of(args, kwargs), self._whole, self.rows):
            raise RaggedError(f"{self.rows} of the {self._whole} rows arrive at the first block in another shape when they are alone")

    def _see(self, site: Site, layouts: dict[Any, Layout], output: Any, what: str, *, key: Any = None) -> None:
        """Record what was computed, if it is what the layout says. What nobody but an observer wants to see
        is left out where it is something else.
        """
        key = site if key is None else key
        try:
            if key not in layouts:
                second = self._anatomy.order[site.block] in self._anatomy.wires.second
                layouts[key] = Layout.of(output, self.rows, second=second, what=what)
            elif not layouts[key].fits(output, self.rows):
                if self._whole is not None:
                    raise UnsupportedModelError(f"{what} returns something else for {self.rows} of the {self._whole} rows alone")
                if self._anatomy.claims(site):
                    raise Unlike(f"{what} returned something of another shape or dtype than when the model was examined")
                return
        except UnsupportedModelError:
            if self._anatomy.claims(site):
                raise
            return
        self._keep(site, layouts[key].pack(output))

    def _forecast_parts(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assemble, block = self._anatomy.assemblies.get(index), self._anatomy.block(index)
        if assemble is not None and self._all_parts(index) and not leaves_out_hooks(block):
            return assemble(block, args, kwargs, self._returned(index, self._substitute))
        return inner(*args, **kwargs)  # its parts are replaced where they are called

    def _returned(self, index: int, features: Mapping[Site, Tensor]) -> dict[str, Any]:
        """What the parts of a block return if these are their features."""
        parts = self._anatomy.parts_at(index)
        assert parts is not None
        return {part: self._anatomy.part_layouts[Site(index, part)].unpack(features[Site(index, part)]) for part in parts.modules}

    def _judge_input(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        layout, site = self._anatomy.layouts[index], Site(index)
        if not self._ask(site, args, kwargs, layout.evidence(output), layout.evidence(layout.unpack(self._substitute[site]))):
            self._live = None  # nothing is forecast: go on computing
        elif OUTPUT in self._substitute:
            raise Abandoned

    def _judge_draft(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.block_rows += self.rows
        self._bypass = True
        try:
            computed = inner(*args, **kwargs)
        finally:
            self._bypass = False
        site, layout = Site(index), self._anatomy.layouts[index]
        forecast = layout.unpack(self._substitute[site]) if site in self._substitute else self._forecast_parts(index, inner, args, kwargs)
        if not self._ask(site, args, kwargs, layout.evidence(computed), layout.evidence(forecast)):
            raise Abandoned
        return forecast

    def _ask(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], computed: Tensor, forecast: Tensor) -> bool:
        """Show the evidence to the judge, without the tokens that only fill up a row: how many they are
        depends on the rows beside it.
        """
        assert self._judge is not None
        kept = kept_tokens(self._anatomy.block(site.block), args, kwargs, computed)
        if kept is not None:
            kept = kept.reshape(*kept.shape, *(1,) * (computed.ndim - 2))
            computed, forecast = torch.where(kept, computed, 0), torch.where(kept, forecast, 0)
        return self._judge(Evidence(site, computed, forecast))

    def _try_assemblies(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Compare the ways of putting the block together from its recorded parts with what it returned, bit
        for bit.
        """
        parts = self._anatomy.parts_at(index)
        if parts is None or not parts.assemblies or not all(Site(index, part) in self.features for part in parts.modules):
            return
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(output)):
            return
        block, returned = self._anatomy.block(index), self._returned(index, self.features)
        found = self.assembled[index] = []
        for way in parts.assemblies:
            try:
                found.append(same_bits(way(block, args, kwargs, returned), output))
            except Exception:  # a block that is not what its name says, or whose weights are where only its own hooks find them: it goes on being run
                found.append(False)
            if found[-1] and not self._all_ways:
                return

    def _keep(self, site: Site, feature: Tensor) -> None:
        feature = feature.detach()
        if self._clone or feature.is_inference() or not self._anatomy.claims(site):  # an observer alone must not have a pass repeated
            self.features[site] = feature.clone()
        else:
            self.features[site] = feature
            self._versions.append((feature, feature._version))

    def _name(self, index: int) -> str:
        return f"block {index} ({type(self._anatomy.block(index)).__name__})"
