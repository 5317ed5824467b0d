"""One walk over the blocks of a module: what each intercepted call does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from foreseer.adapters.arguments import first_tensor, own_tokens, stream_of
from foreseer.adapters.assemblies import leaves_out_hooks
from foreseer.adapters.calls import is_compiled
from foreseer.adapters.fronts import Witness, front_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.notes import Notes, Unlike
from foreseer.adapters.sameness import same_bits
from foreseer.adapters.starts import Starts
from foreseer.adapters.substitutes import Copies
from foreseer.backbone import Drafted, live_blocks
from foreseer.errors import UnsupportedModelError
from foreseer.site import site_of
from foreseer.types import MODULATED, OUTPUT, STREAM, TIME, Evidence, Probe, Site

if TYPE_CHECKING:
    from foreseer.adapters.anatomy import Anatomy

__all__ = ["Abandoned", "Walk"]


class Abandoned(BaseException):
    """Ends a pass that need not go on. Not an Exception, so that no host swallows it on the way."""


class Walk:
    """The state of one pass.

    Args:
        anatomy: What is known of the model; what is learnt on the way is put there.
        rows: Rows in this pass.
        substitute, probe, judge, record, see: As in `foreseer.backbone.Backbone.forward`.
        clone: Record copies, because something writes to the tensors afterwards.
        whole: Rows of the batch that these were taken out of; None where they are all of them.
        shards: Among how many processes the model may divide its tokens.
        all_ways: Try all ways of putting a block together: processes that vote on them must try as many.

    Attributes:
        rows: See there.
        called: The blocks that were computed, in their order.
        notes: What was recorded and seen.
        latent: Returns what the model was called with.
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
        see: Collection[Site],
        *,
        clone: bool,
        whole: int | None = None,
        shards: int = 1,
        all_ways: bool = False,
    ) -> None:
        self._anatomy, self.rows, self._whole, self._shards, self._all_ways = anatomy, rows, whole, shards, all_ways
        self._substitute, self._probe, self._judge, self._record, self._see = substitute, probe, judge, record, see
        self.thread = threading.get_ident()
        met = (*record, *see, *substitute, *(() if probe is None else (probe.site,)))
        self._starts = Starts(anatomy, rows, {site.since for site in met if site.since is not None and site.block >= 0}, clone=clone)
        self.notes = Notes(anatomy, rows, record, see, self._starts, clone=clone, whole=whole)
        self.latent: Callable[[], Tensor]
        self._witness: Witness | None = None
        self._residuals = {site.block: site for site in substitute if site.since is not None and site.block >= 0}
        self.block_rows, self.called = 0, list[int]()
        self.assembled: dict[int, list[bool]] = {}  # by block, whether each way of putting it together from its parts equals it
        self.repeated: set[Site] = set()
        self.revived = self._arrived = self._bypass = False
        self._shared: dict[object, Tensor] = {}
        self._live = live_blocks(anatomy.depth, substitute, probe) if substitute else None

    @property
    def forecasting(self) -> bool:
        """Whether substitutes are in use: some were given, and no judge has refused all rows."""
        return self._live is not None

    def block(self, wire: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        index = self._anatomy.position(wire)
        if not self._arrived:
            self._arrived = True
            self.notes.arrive(args, kwargs)
            self._look_ahead(index, args, kwargs)
        if index is None:
            return self._compute(wire, index, inner, args, kwargs)
        self._starts.arrive(index, self._anatomy.block(index), args, kwargs)
        with self._witness or contextlib.nullcontext():
            output = self._block(wire, index, inner, args, kwargs)
        self._anatomy.modulated |= self._witness is not None
        self._witness = None
        self._starts.leave(index, output, learn=self._live is None and frozenset(self._record) not in self._anatomy.examined)
        return output

    def _block(self, wire: int, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._live is None:
            return self._compute(wire, index, inner, args, kwargs)
        probe = self._probe
        if probe is not None and index <= probe.block and probe.on == "input":
            output = self._compute(wire, index, inner, args, kwargs)
            if index == probe.block:
                self._judge_input(index, args, kwargs, output)
            return output
        if not self._live[index]:
            self.notes.pure = False
            return self._anatomy.layouts[site_of(index)].zeros(self.rows, self._anatomy.pool)
        if probe is not None and probe.block == index:
            return self._judge_draft(index, inner, args, kwargs)
        if index in self._residuals or site_of(index) in self._substitute:
            return self._stand_in(index, args, kwargs)
        if self._all_parts(index):
            return self._forecast_parts(index, inner, args, kwargs)
        return self._compute(wire, index, inner, args, kwargs)

    def part(self, wire: int, part: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside the block."""
        index = self._anatomy.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        site = site_of(index, part)
        if self._replaces(site):
            return self._anatomy.layouts[site].unpack(self._draft(site, lambda: first_tensor(args, kwargs)))
        output = inner(*args, **kwargs)
        if site in self._anatomy.silent and self._record and self._live is None:
            self.revived = True
        if site in self._record:
            if site in self.notes.features or site in self.repeated:
                self.repeated.add(site)
                if not self._anatomy.claims(site):  # which of them an observer would be shown would be chance
                    self.notes.features.pop(site, None)
            else:
                self.notes.add(site, output, f"{part} of block {index}")
        return output

    def idle(self, wire: int, path: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A submodule is called whose result nobody reads if the block's parts are forecast."""
        index = self._anatomy.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        layout = self._anatomy.idle_layouts.get((index, path))
        parts = self._anatomy.parts_at(index)
        if layout is not None and parts is not None and all(self._replaces(site_of(index, part)) for part in parts.modules):
            return layout.zeros(self.rows, self._anatomy.pool)
        output = inner(*args, **kwargs)
        if layout is None:
            self._anatomy.idle_layouts[index, path] = Layout.of(output, self.rows, what=f"{path} of block {index}")
        return output

    def _draft(self, site: Site, live: Callable[[], Tensor | None]) -> Tensor:
        """Look a draft up."""
        self.notes.pure = False
        if isinstance(self._substitute, Drafted):
            self._substitute.reached(site, live, self.notes.features)
        return self._substitute[site]

    def _stand_in(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is returned in the place of a block that is forecast as a whole."""
        layout, site = self._anatomy.layouts[site_of(index)], self._residuals.get(index, site_of(index))
        live = None if site.since is None else layout.join(self._starts.at(site))
        draft = self._draft(site, lambda: stream_of(self._anatomy.block(index), args, kwargs) if live is None else live)
        return layout.unpack(draft if live is None else live + draft)

    def _look_ahead(self, index: int | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See what lies in front of the first block, and judge by it."""
        probed = None if self._probe is None or self._probe.block >= 0 or not self.forecasting else self._probe.site
        wanted = {place for place in self._see if place in (TIME, STREAM, MODULATED)} | ({probed} if probed is not None else set())
        if not wanted or index is None:
            return
        block, second = self._anatomy.block(index), self._anatomy.order[index] in self._anatomy.wires.second
        found = {place: own_tokens(block, args, kwargs, front_of(place, block, args, kwargs, self.rows, second=second)) for place in wanted}
        self.notes.seen |= {place: tensor for place, tensor in found.items() if place in self._see}
        if MODULATED in found and not self._anatomy.modulated and self._live is None and not is_compiled(block):
            self._witness = Witness(block, found[MODULATED])
        if probed is not None:
            self._decide(self._judged(probed, found[probed], None))

    def _decide(self, any_forecast: bool) -> None:
        if any_forecast and OUTPUT in self._substitute:
            raise Abandoned
        self._live = self._live if any_forecast else None  # nothing is forecast: go on computing

    def _replaces(self, site: Site) -> bool:
        if self._live is None or self._bypass or site not in self._substitute:
            return False
        return self._probe is None or self._probe.on == "draft" or site.block > self._probe.block

    def _all_parts(self, index: int) -> bool:
        parts = self._anatomy.parts_at(index)
        return parts is not None and all(site_of(index, part) in self._substitute for part in parts.modules)

    def _compute(self, wire: int, index: int | None, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the block, with those of its parts replaced that are substituted."""
        self.block_rows += self.rows
        output = inner(*args, **kwargs)
        self.called.append(wire)
        if index is None or index >= self._anatomy.depth:
            return output
        site, layout = site_of(index), self._anatomy.layouts.get(site_of(index))
        if self._record and layout is None:
            hidden = stream_of(self._anatomy.block(index), args, kwargs)
            try:
                self._anatomy.layouts[site] = Layout.of(
                    output, self.rows, hidden=hidden, shards=self._shards, second=wire in self._anatomy.wires.second, what=self._name(index)
                )
            except UnsupportedModelError:
                # Where the model's output stands in for the last block, nobody needs to know what the others
                # return.
                if self._anatomy.claims(site) and (site in self._record or not self._anatomy.output_for_last):
                    raise
                return output
        elif self._whole is not None and layout is not None and not layout.fits(output, self.rows):
            if layout.rows_are_second(output, self.rows, self._whole):
                self._anatomy.wires.second.add(wire)
                raise Unlike(f"the rows of what {self._name(index)} returns are not where they seemed to be")
            raise UnsupportedModelError(f"{self._name(index)} returns something else for {self.rows} of the {self._whole} rows alone")
        if site in self._record:
            self.notes.add(site, output, self._name(index))
        self.notes.block(index, output, args, kwargs)
        if self._live is None and self._record and index not in self._anatomy.assemblies:
            self._try_assemblies(index, args, kwargs, output)
        return output

    def _forecast_parts(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assemble, block = self._anatomy.assemblies.get(index), self._anatomy.block(index)
        if assemble is not None and self._all_parts(index) and not leaves_out_hooks(block):
            return assemble(block, args, kwargs, self._returned(index, self._substitute), self._shared)
        return inner(*args, **kwargs)  # its parts are replaced where they are called

    def _returned(self, index: int, features: Mapping[Site, Tensor]) -> dict[str, Any]:
        """What the parts of a block return if these are their features."""
        parts = self._anatomy.parts_at(index)
        assert parts is not None
        return {part: self._anatomy.layouts[site_of(index, part)].unpack(features[site_of(index, part)]) for part in parts.modules}

    def _judge_input(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        assert self._probe is not None
        layout, site = self._anatomy.layouts[site_of(index)], self._probe.site
        forecast = layout.evidence(layout.unpack(self._substitute[site])) if site in self._substitute else None
        self._decide(self._ask(site, args, kwargs, self.notes.shown(site, output), forecast))

    def _judge_draft(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.block_rows += self.rows
        self._bypass = True
        try:
            computed = inner(*args, **kwargs)
        finally:
            self._bypass = False
        site, layout = site_of(index), self._anatomy.layouts[site_of(index)]
        whole = index in self._residuals or site in self._substitute
        forecast = self._stand_in(index, args, kwargs) if whole else self._forecast_parts(index, inner, args, kwargs)
        if not self._ask(site, args, kwargs, layout.evidence(computed), layout.evidence(forecast)):
            raise Abandoned
        return computed if self._probe is not None and self._probe.use == "computed" else forecast

    def _ask(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], computed: Tensor, forecast: Tensor | None) -> bool:
        """Show the evidence of a block to the judge."""
        block = self._anatomy.block(site.block)
        return self._judged(site, own_tokens(block, args, kwargs, computed), None if forecast is None else own_tokens(block, args, kwargs, forecast))

    def _judged(self, site: Site, computed: Tensor, forecast: Tensor | None) -> bool:
        others = {place: Evidence(place, tensor, None) for place, tensor in self.notes.seen.items() if place != site}
        return self._judge is None or self._judge(Evidence(site, computed, forecast, others=others))

    def _try_assemblies(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Compare the ways of putting the block together from its recorded parts with what it returned, bit
        for bit.
        """
        parts = self._anatomy.parts_at(index)
        if parts is None or not parts.assemblies or not all(site_of(index, part) in self.notes.features for part in parts.modules):
            return
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(output)):
            return
        block, features = self._anatomy.block(index), Copies(self.notes.features)
        found = self.assembled[index] = []
        for way in parts.assemblies:
            try:
                found.append(same_bits(way(block, args, kwargs, self._returned(index, features), self._shared), output))
            except Exception:  # a block that is not what its name says, or whose weights are where only its own hooks find them: it goes on being run
                found.append(False)
            if found[-1] and not self._all_ways:
                return

    def _name(self, index: int) -> str:
        return f"block {index} ({type(self._anatomy.block(index)).__name__})"
