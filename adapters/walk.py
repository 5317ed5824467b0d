"""One walk over the blocks of a module: what each intercepted call does."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from foreseer.adapters.arguments import first_tensor, own_tokens, stream_of
from foreseer.adapters.assemblies import Assemble, leaves_out_hooks, tried
from foreseer.adapters.calls import is_compiled
from foreseer.adapters.fronts import Witness, front_of
from foreseer.adapters.layouts import Layout, Pool
from foreseer.adapters.notes import Abandoned, Notes
from foreseer.adapters.pass_plan import PassPlan
from foreseer.adapters.starts import Starts
from foreseer.adapters.substitutes import Copies
from foreseer.backbone import Drafted
from foreseer.site import Site, site_of
from foreseer.types import MODULATED, OUTPUT, STREAM, TIME, Evidence, Probe

if TYPE_CHECKING:
    from foreseer.adapters.anatomy import Anatomy

__all__ = ["Walk"]


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
        position: Returns where in the order of execution a block is; None where it has no place.
        called: The blocks that were computed, in their order.
        notes: What was recorded and seen.
        latent: Returns what the model was called with.
        repeated: Parts that were called more than once.
        revived: Whether a part was called that was not called before.
        plan: What is forecast, and what is computed.
        beside: Whether others share this call of the model, so that blocks are run, or put together, for all.
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
        self._anatomy, self.position, self.rows, self._whole, self._all_ways = anatomy, anatomy.position, rows, whole, all_ways
        self._substitute, self._probe, self._judge, self._record, self._see = substitute, probe, judge, record, see
        met = (*record, *see, *substitute, *(() if probe is None else (probe.site,)))
        self._starts = Starts(anatomy, rows, {site.since for site in met if site.since is not None and site.block >= 0}, clone=clone)
        self.notes = Notes(anatomy, rows, record, see, self._starts, clone=clone, whole=whole, shards=shards)
        self.latent: Callable[[], Tensor]
        self._witness: Witness | None = None
        self.plan = PassPlan(anatomy, substitute, probe)
        self.block_rows, self.called, self._shared = 0, list[int](), dict[object, Tensor]()
        self.assembled: dict[int, list[bool]] = {}  # by block, whether each way of putting it together from its parts equals it
        self.repeated: set[Site] = set()
        self.revived = self._arrived = self.beside = False

    @property
    def forecasting(self) -> bool:
        """Whether substitutes are in use."""
        return self.plan.forecasting

    @property
    def examining(self) -> bool:
        """Whether this pass is to find out what the model is, so that nothing may be beside it."""
        unseen = MODULATED in self._see and not self._anatomy.modulated
        known = not self._record or self._anatomy.knows(self._record)
        computes = self._whole is None and not self.forecasting
        return isinstance(self._substitute, Copies) or (computes and (unseen or not known))

    def block(self, wire: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        self.arrive(wire, args, kwargs)
        return self.answer(wire, inner, args, kwargs)

    def arrive(self, wire: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what a block is called with."""
        index = self._anatomy.position(wire)
        if not self._arrived:
            self._arrived = True
            self.notes.arrive(args, kwargs)
            self._look_ahead(index, args, kwargs)
        if index is not None:
            self._starts.arrive(index, self._anatomy.block(index), args, kwargs)

    def answer(self, wire: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the block that has arrived returns."""
        index = self._anatomy.position(wire)
        if index is None:
            return self._compute(wire, index, inner, args, kwargs)
        with self._witness or contextlib.nullcontext():
            output = self._block(wire, index, inner, args, kwargs)
        self._anatomy.modulated |= self._witness is not None
        self._witness = None
        self._starts.leave(index, output, learn=not self.forecasting and frozenset(self._record) not in self._anatomy.examined)
        return output

    def passes_by(self, wire: int) -> bool:
        """Whether nothing is to be done at a block, which is not run and whose output nobody reads."""
        index = self._anatomy.position(wire)
        return self._arrived and index is not None and not self.plan.live(index) and not self._starts.wanted

    def minds(self, wire: int, part: str = "block") -> bool:
        """Whether it does anything with a block, or a part of one, but run it."""
        index = self._anatomy.position(wire)
        if index is None or (site := site_of(index, part)) in self._record or site in self._anatomy.silent:
            return True
        return self.plan.replaces(site) if part != "block" else self.heeds(wire) or self.plan.ways(index) != ("computed",)

    def heeds(self, wire: int) -> bool:
        """Whether what a block is called with matters beyond the block itself."""
        index = self._anatomy.position(wire)
        return not self._arrived or bool(self._starts.wanted or self._see) or self._probe is not None or (index is not None and self.plan.stands_in(index))

    def zeros(self, wire: int, part: str, rows: int, pool: Pool) -> Any:
        """Return what stands for so many rows of a block or part that nobody reads."""
        self.notes.pure = False
        return self._anatomy.layouts[site_of(self._anatomy.position(wire) or 0, part)].zeros(rows, pool)

    def _block(self, wire: int, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ways, probe = self.plan.ways(index), self._probe
        if "judged" in ways:
            return self._judge_draft(index, inner, args, kwargs)
        if "forecast" in ways:
            return self._forecast_parts(index, inner, args, kwargs)
        if "computed" in ways:
            output = self._compute(wire, index, inner, args, kwargs)
            if probe is not None and probe.on == "input" and index == probe.block and self.forecasting:
                self._judge_input(index, args, kwargs, output)
            return output
        if self.plan.live(index):
            return self._stand_in(index, args, kwargs)
        return self.zeros(wire, "block", self.rows, self._anatomy.pool)

    def part(self, wire: int, part: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside the block."""
        return self.answer_part(wire, part, lambda: inner(*args, **kwargs), lambda: first_tensor(args, kwargs))

    def answer_part(self, wire: int, part: str, run: Callable[[], Any], live: Callable[[], Tensor | None]) -> Any:
        """Return what a part of a block returns: ``run`` runs it, ``live`` returns what it is called with."""
        index = self._anatomy.position(wire)
        if index is None:
            return run()
        site = site_of(index, part)
        if self.plan.replaces(site):
            return self._anatomy.layouts[site].unpack(self._draft(site, live))
        output = run()
        if site in self._anatomy.silent and self._record and not self.forecasting:
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
        layout = self.idles(wire, path)
        if layout is not None:
            return layout.zeros(self.rows, self._anatomy.pool)
        output = inner(*args, **kwargs)
        if (index, path) not in self._anatomy.idle_layouts:
            self._anatomy.idle_layouts[index, path] = Layout.of(output, self.rows, what=f"{path} of block {index}")
        return output

    def idles(self, wire: int, path: str) -> Layout | None:
        """The layout of a submodule whose result nobody reads; None where somebody does."""
        index = self._anatomy.position(wire)
        return self._anatomy.idle_layouts.get((index, path)) if index is not None and self.plan.idles(index) else None

    def _draft(self, site: Site, live: Callable[[], Tensor | None]) -> Tensor:
        """Look a draft up."""
        self.notes.pure = False
        if isinstance(self._substitute, Drafted):
            self._substitute.reached(site, live, self.notes.features)
        return self._substitute[site]

    def _stand_in(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is returned in the place of a block that is forecast as a whole."""
        layout, site = self._anatomy.layouts[site_of(index)], self.plan.residuals.get(index, site_of(index))
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
        if MODULATED in found and not self._anatomy.modulated and not self.forecasting and not is_compiled(block):
            self._witness = Witness(block, found[MODULATED])
        if probed is not None:
            self._decide(self._judged(self.notes.evidence(probed, args, kwargs, found[probed], None)))

    def _decide(self, any_forecast: bool) -> None:
        if not any_forecast:
            self.plan.refuse()
        elif OUTPUT in self._substitute:
            raise Abandoned

    def _compute(self, wire: int, index: int | None, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the block, with those of its parts replaced that are substituted."""
        self.block_rows += self.rows
        output = inner(*args, **kwargs)
        self.called.append(wire)
        if index is None or index >= self._anatomy.depth:
            return output
        self.notes.computed(wire, index, output, args, kwargs)
        if not self.forecasting and self._record and index not in self._anatomy.assemblies:
            self._try_assemblies(index, args, kwargs, output)
        return output

    def _forecast_parts(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wire = self._anatomy.order[index]
        assemble = None if self.beside else self.assembly(wire)
        if assemble is not None:
            return assemble(self._anatomy.block(index), args, kwargs, self.returned(wire), self._shared)
        return inner(*args, **kwargs)  # its parts are replaced where they are called

    def assembly(self, wire: int) -> Assemble | None:
        """The way in which a block is put together of its parts, all of them forecast; None where it is run."""
        index = self._anatomy.position(wire)
        found = None if index is None or not self.plan.all_parts(index) else self._anatomy.assemblies.get(index)
        return None if found is None or leaves_out_hooks(self._anatomy.wires.blocks[wire]) else found

    def returned(self, wire: int) -> dict[str, Any]:
        """What the parts of a block return, all of them forecast."""
        return self._returned(self._anatomy.order.index(wire), self._substitute)

    def _returned(self, index: int, features: Mapping[Site, Tensor]) -> dict[str, Any]:
        """What the parts of a block return if these are their features."""
        parts = self._anatomy.parts_at(index)
        assert parts is not None
        return {part: self._anatomy.layouts[site_of(index, part)].unpack(features[site_of(index, part)]) for part in parts.modules}

    def _judge_input(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        assert self._probe is not None
        layout, site = self._anatomy.layouts[site_of(index)], self._probe.site
        forecast = layout.evidence(layout.unpack(self._substitute[site])) if site in self._substitute else None
        self._decide(self._judged(self.notes.evidence(site, args, kwargs, self.notes.shown(site, output), forecast)))

    def _judge_draft(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.block_rows += self.rows
        self.plan.bypass = True
        try:
            computed = inner(*args, **kwargs)
        finally:
            self.plan.bypass = False
        site, layout = site_of(index), self._anatomy.layouts[site_of(index)]
        forecast = self._stand_in(index, args, kwargs) if self.plan.stands_in(index) else self._forecast_parts(index, inner, args, kwargs)
        if not self._judged(self.notes.evidence(site, args, kwargs, layout.evidence(computed), layout.evidence(forecast))):
            raise Abandoned
        return computed if self._probe is not None and self._probe.use == "computed" else forecast

    def _judged(self, evidence: Evidence) -> bool:
        return self._judge is None or self._judge(evidence)

    def _try_assemblies(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Compare ways of putting the block together from its recorded parts with what it returned."""
        parts = self._anatomy.parts_at(index)
        if parts is None or not parts.assemblies or not all(site_of(index, part) in self.notes.features for part in parts.modules):
            return
        block, features = self._anatomy.block(index), Copies(self.notes.features)
        made = (functools.partial(way, block, args, kwargs, self._returned(index, features), self._shared) for way in parts.assemblies)
        self.assembled[index] = tried(made, output, all_ways=self._all_ways)
