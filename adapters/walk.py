"""One walk over the blocks of a module: what each intercepted call does."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from foreseer.adapters.assemblies import leaves_out_hooks
from foreseer.adapters.layouts import Layout
from foreseer.errors import UnsupportedModelError
from foreseer.types import OUTPUT, Evidence, Probe, Site

if TYPE_CHECKING:
    from foreseer.adapters.module_backbone import ModuleBackbone

__all__ = ["Abandoned", "Walk", "live_blocks"]


class Abandoned(BaseException):
    """Ends a pass that need not go on: its draft was rejected, or its output is forecast. Not an Exception, so that no host swallows it on the way."""


def live_blocks(depth: int, forecast: Collection[Site], probe: Probe | None) -> list[bool]:
    """``(L,)`` which blocks' outputs somebody needs, the probe included. A block is dead if the next needed output behind it is forecast as a whole."""
    live = [False] * depth
    needed = OUTPUT not in forecast
    for index in reversed(range(depth)):
        drafted = probe is not None and probe.on == "draft" and probe.block == index
        live[index] = needed or drafted
        if live[index]:
            needed = drafted or Site(index) not in forecast
    if probe is not None and probe.on == "input":
        for index in range(probe.block + 1):
            live[index] = True
    return live


class Walk:
    """The state of one pass.

    Args:
        host: The backbone.
        rows: Rows in this pass.
        substitute, probe, judge, record: As in `foreseer.backbone.Backbone.forward`.
        clone: Record copies, because something writes to the tensors afterwards.
    """

    def __init__(
        self,
        host: ModuleBackbone,
        rows: int,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None,
        judge: Callable[[Evidence], bool] | None,
        record: Collection[Site],
        *,
        clone: bool,
    ) -> None:
        self._host, self._rows = host, rows
        self._substitute, self._probe, self._judge, self._record, self._clone = substitute, probe, judge, record, clone
        self.thread = threading.get_ident()
        self.features: dict[Site, Tensor] = {}
        self.block_rows = 0
        self.called: list[int] = []
        self.assembled: dict[int, list[bool]] = {}  # by block, whether each way of putting it together from its parts equals it
        self.repeated = False
        self._versions: list[tuple[Tensor, int]] = []
        self._live = live_blocks(host.depth, substitute, probe) if substitute else None
        self._bypass = False

    @property
    def forecasting(self) -> bool:
        """Whether substitutes are in use: some were given, and no judge has refused all rows."""
        return self._live is not None

    def block(self, wire: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        index = self._host.position(wire)
        if index is None or self._live is None:
            return self._compute(wire, index, inner, args, kwargs)
        probe = self._probe
        if probe is not None and index <= probe.block and probe.on == "input":
            output = self._compute(wire, index, inner, args, kwargs)
            if index == probe.block:
                self._judge_input(index, output)
            return output
        if not self._live[index]:
            return self._host.layouts[index].zeros(self._rows, self._host.pool)
        site = Site(index)
        if probe is not None and probe.block == index:
            return self._judge_draft(index, inner, args, kwargs)
        if site in self._substitute:
            return self._host.layouts[index].unpack(self._substitute[site])
        if self._all_parts(index):
            return self._forecast_parts(index, inner, args, kwargs)
        return self._compute(wire, index, inner, args, kwargs)

    def part(self, wire: int, part: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside the block."""
        index = self._host.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        site = Site(index, part)
        if self._replaces(site):
            return self._host.part_layouts[site].unpack(self._substitute[site])
        output = inner(*args, **kwargs)
        if site in self._record:
            if site in self.features:
                self.repeated = True
            if site not in self._host.part_layouts:
                self._host.part_layouts[site] = Layout.of(output, self._rows, what=f"{part} of block {index}")
            self._keep(site, self._host.part_layouts[site].pack(output))
        return output

    def idle(self, wire: int, path: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A submodule is called whose result nobody reads if the block's parts are forecast."""
        index = self._host.position(wire)
        if index is None:
            return inner(*args, **kwargs)
        layout = self._host.idle_layouts.get((index, path))
        parts = self._host.parts_at(index)
        if layout is not None and parts is not None and all(self._replaces(Site(index, part)) for part in parts.modules):
            return layout.zeros(self._rows, self._host.pool)
        output = inner(*args, **kwargs)
        if layout is None:
            self._host.idle_layouts[index, path] = Layout.of(output, self._rows, what=f"{path} of block {index}")
        return output

    def untouched(self) -> bool:
        """Whether nobody wrote to a recorded feature since it was recorded."""
        return all(tensor._version == version for tensor, version in self._versions)

    def _replaces(self, site: Site) -> bool:
        probe = self._probe
        behind = probe is None or probe.on == "draft" or site.block > probe.block
        return self._live is not None and behind and not self._bypass and site in self._substitute

    def _all_parts(self, index: int) -> bool:
        parts = self._host.parts_at(index)
        return parts is not None and all(Site(index, part) in self._substitute for part in parts.modules)

    def _compute(self, wire: int, index: int | None, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the block, with those of its parts replaced that are substituted."""
        self.block_rows += self._rows
        output = inner(*args, **kwargs)
        self.called.append(wire)
        if index is None or index >= self._host.depth:
            return output
        if self._record and index not in self._host.layouts:
            hidden, shards = _hidden(self._host.block(index), args, kwargs), self._host.vote.processes if self._host.vote else 1
            try:
                self._host.layouts[index] = Layout.of(output, self._rows, hidden=hidden, shards=shards, what=self._name(index))
            except UnsupportedModelError:
                # Where the model's output stands in for the last block, nobody needs to know what the others return.
                if Site(index) in self._record or not self._host.output_for_last:
                    raise
        elif self._live is None and not self._record and index in self._host.layouts:  # rows on their own, in the self-check
            self._host.layouts[index].check_rows(output, self._rows, what=self._name(index))
        site = Site(index)
        if site in self._record:
            self._keep(site, self._host.layouts[index].pack(output))
        if self._live is None and self._record and index not in self._host.assemblies:
            self._try_assemblies(index, args, kwargs, output)
        return output

    def _forecast_parts(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assemble, block = self._host.assemblies.get(index), self._host.block(index)
        if assemble is not None and self._all_parts(index) and not leaves_out_hooks(block):
            return assemble(block, args, kwargs, self._returned(index, self._substitute))
        return inner(*args, **kwargs)  # its parts are replaced where they are called

    def _returned(self, index: int, features: Mapping[Site, Tensor]) -> dict[str, Any]:
        """What the parts of a block return if these are their features."""
        parts = self._host.parts_at(index)
        assert parts is not None
        return {part: self._host.part_layouts[Site(index, part)].unpack(features[Site(index, part)]) for part in parts.modules}

    def _judge_input(self, index: int, output: Any) -> None:
        assert self._judge is not None
        layout, site = self._host.layouts[index], Site(index)
        evidence = Evidence(site, layout.evidence(output), layout.evidence(layout.unpack(self._substitute[site])))
        if not self._judge(evidence):
            self._live = None  # nothing is forecast: go on computing
        elif OUTPUT in self._substitute:
            raise Abandoned

    def _judge_draft(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._judge is not None
        self.block_rows += self._rows
        self._bypass = True
        try:
            computed = inner(*args, **kwargs)
        finally:
            self._bypass = False
        site, layout = Site(index), self._host.layouts[index]
        forecast = layout.unpack(self._substitute[site]) if site in self._substitute else self._forecast_parts(index, inner, args, kwargs)
        if not self._judge(Evidence(site, layout.evidence(computed), layout.evidence(forecast))):
            raise Abandoned
        return forecast

    def _try_assemblies(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Compare the ways of putting the block together from its recorded parts with what it returned, bit for bit."""
        host, parts = self._host, self._host.parts_at(index)
        if parts is None or not parts.assemblies or not all(Site(index, part) in self.features for part in parts.modules):
            return
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(output)):
            return
        block, returned = host.block(index), self._returned(index, self.features)
        found = self.assembled[index] = []
        for way in parts.assemblies:
            try:
                found.append(_same_bits(way(block, args, kwargs, returned), output))
            except Exception:  # a block that is not what its name says, or whose weights are where only its own hooks find them: it goes on being run
                found.append(False)
            if found[-1] and host.vote is None:  # under a vote, all processes try as many
                return

    def _keep(self, site: Site, feature: Tensor) -> None:
        feature = feature.detach()
        if self._clone or feature.is_inference():
            self.features[site] = feature.clone()
        else:
            self.features[site] = feature
            self._versions.append((feature, feature._version))

    def _name(self, index: int) -> str:
        return f"block {index} ({type(self._host.block(index)).__name__})"


def _same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs of floating-point tensors are equal in structure, dtype and every number; NaN equals nothing."""
    (made, spec), (wanted, other) = tree_flatten(a), tree_flatten(b)
    return spec == other and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


def _hidden(block: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The stream that a block transforms: its argument `hidden_states`, or else its first tensor."""
    if isinstance(kwargs.get("hidden_states"), Tensor):
        found: Tensor = kwargs["hidden_states"]
        return found
    if args:
        try:
            names = list(inspect.signature(block.forward).parameters)
        except (TypeError, ValueError):
            names = []
        if "hidden_states" in names and names.index("hidden_states") < len(args) and isinstance(args[names.index("hidden_states")], Tensor):
            named: Tensor = args[names.index("hidden_states")]
            return named
    return next((leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
