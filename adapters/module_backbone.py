"""Any PyTorch model with a list of blocks as a host: calls of its blocks are intercepted, its code is not touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from foreseer.adapters.assemblies import Assemble
from foreseer.adapters.layouts import Layout, Pool, same_output
from foreseer.adapters.parts import Parts
from foreseer.adapters.rows import count_rows, merge_rows, select_rows, take_rows
from foreseer.adapters.walk import Abandoned, Unlike, Walk
from foreseer.adapters.wires import Wires
from foreseer.backbone import Pass
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.transfer import on_device
from foreseer.trial import broken_rows
from foreseer.types import OUTPUT, Evidence, Probe, Site
from foreseer.vote import Vote

__all__ = ["Call", "ModuleBackbone", "Rewired"]

ROW_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far a row computed alone may be from the same row in a batch, relative L2; other batch sizes run other kernels. 16-bit dtypes: 0.05."""


WORTH = 0.5
"""Share of the blocks' work that must lie in their parts. Where it is less, forecasting them all leaves most of a step to be computed."""
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)
"""What a model raises that cannot run in a way that is tried. What somebody raises to stop it is of a class of its own, and is let through."""


class Call(NamedTuple):
    """The arguments of one evaluation, and what to call with them."""

    inner: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Rewired(Exception):  # noqa: N818  (not an error: the evaluation begins anew)
    """The host has learnt that its sites are others than it said, or that what it knew does not hold for this call. A session on it must begin anew.

    Attributes:
        changed: What is other than when the model was examined, so that it must be examined anew; empty where it was just examined.
    """

    def __init__(self, changed: str = "") -> None:
        super().__init__(changed)
        self.changed = changed


class ModuleBackbone:
    """A `torch.nn.Module` called with arguments of one signature; satisfies `foreseer.backbone.Backbone`.

    Sites are every block's output, its module parts where they are known, and the model's output. Nothing about the
    model is believed: on the first computed step what was just recorded is substituted, and the output must be the same
    bit for bit. Where it is not, the host says so and falls back: from module parts to the last block, from the last
    block to the output. And what was learnt holds while calls look like the one that it was learnt from: in every later step the shapes that arrive at
    the first block and those of what is recorded are compared with it. Before rows are evaluated alone for the first time, they are compared with the
    same rows of the batch.

    Args:
        wires: The model's interceptions, which several backbones may share.
        vote: The processes that share the rows' tokens; what one finds out about the model holds for all. None for one.

    Attributes:
        order: The blocks in the order in which they are executed, as indices into ``wires.blocks``.
        separable: Whether a row computed alone equals the same row in the batch; not known to be otherwise.
        claimed: The sites that a policy may forecast, so that they must be right; None for all. What only an observer wants to see is merely shown.
        silent: Parts that this kind of call does not use.
        arrival: Shapes and dtypes that arrive at the first block; None before the model was examined.
        output_for_last: Whether the model's output stands in for the last block's.
        notes: What was found out, in sentences.
        spent: Block-rows that no `Pass` has accounted for yet: those of evaluations that had to begin anew.
    """

    def __init__(self, wires: Wires, vote: Vote | None = None) -> None:
        self.wires, self.vote = wires, vote
        self.notes: list[str] = list(wires.notes)
        self.version = wires.version
        self.separable, self._rows_known = True, False
        self.claimed: frozenset[Site] | None = None
        self.spent = 0
        self._parts_work = wires.covered >= WORTH
        self.silent: frozenset[Site] = frozenset()
        self.output_for_last = wires.opaque
        self._clone = False
        if wires.opaque:
            self.notes.append("the model is compiled as a whole, so that only its output can be forecast; compile its blocks (compile_repeated_blocks) instead")
        self._set_order(list(range(len(wires.blocks))))

    def _set_order(self, order: list[int]) -> None:
        self.order = order
        self._positions = {wire: index for index, wire in enumerate(order)}
        self.pool: Pool = {}
        self.layouts: dict[int, Layout] = {}
        self.part_layouts: dict[Site, Layout] = {}
        self.idle_layouts: dict[tuple[int, str], Layout] = {}
        # The way of putting a block together that was found to equal it bit for bit, or None where none did.
        self.assemblies: dict[int, Assemble | None] = {}
        self.arrival: list[tuple[torch.Size, torch.dtype]] | None = None
        self._output_layout: Layout | None = None
        self._checked: set[frozenset[Site]] = set()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.order)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output, block after block."""
        if self.wires.opaque:
            return (Site(self.depth - 1),)
        found: list[Site] = []
        for index in range(self.depth):
            parts = self.parts_at(index)
            found += [*(Site(index, part) for part in (parts.modules if parts else ())), Site(index)]
        return tuple(found)

    def block(self, index: int) -> nn.Module:
        """The block of that index."""
        return self.wires.blocks[self.order[index]]

    def parts_at(self, index: int) -> Parts | None:
        """How that block is cut into parts, those that are not called left out; None where it is not."""
        parts = self.wires.parts[self.order[index]] if self._parts_work else None
        if parts is None or not self.silent:
            return parts
        called = {part: path for part, path in parts.modules.items() if Site(index, part) not in self.silent}
        if len(called) == len(parts.modules):
            return parts
        return attrs.evolve(parts, modules=called, assemblies=()) if called else None  # an assembly wants all parts

    def position(self, wire: int) -> int | None:
        """Where in the order of execution a block is; None if it is not part of it."""
        return self._positions.get(wire)

    def claims(self, site: Site) -> bool:
        """Whether a policy may forecast this site."""
        return self.claimed is None or site in self.claimed

    def watch(self, sites: Collection[Site], claimed: frozenset[Site] | None = None) -> None:
        """Intercept what these sites need.

        Args:
            sites: To be recorded.
            claimed: See there.
        """
        self.claimed = claimed
        self.wires.watch({self.order[site.block] for site in sites if site.part != "block" and site != OUTPUT})

    def rows(self, inputs: Call) -> int:
        """Leading dimension of the first tensor argument."""
        return count_rows(inputs.args, inputs.kwargs)

    def forward(
        self,
        inputs: Call,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`.

        Raises:
            Rewired: The self-check of the first computed step failed, so that the sites have changed; or something is other than it was then.
        """
        last = Site(self.depth - 1)
        claimed, known = frozenset(site for site in record if self.claims(site)), frozenset(record) in self._checked
        if self.output_for_last and last in substitute:
            substitute = _Renamed(substitute, last)
        if OUTPUT in substitute and probe is not None and (probe.on == "draft" or (self.output_for_last and probe.block == last.block)):
            raise UnsupportedModelError(
                "this model's last block cannot be forecast on its own, only its output, and a forecast of the output cannot be verified at that block; "
                "choose a policy without such a probe, for example taylorseer with target='output'"
            )
        if OUTPUT in substitute and probe is None:
            assert self._output_layout is not None
            return Pass(self._output_layout.unpack(substitute[OUTPUT]), {}, 0)
        if rows is not None:
            return self._some_rows(inputs, rows, substitute, record)
        try:
            done, walk = self._pass(inputs, None, substitute, probe, judge, record)
        except UnsupportedModelError as error:
            if substitute or not claimed or known:
                raise
            raise self._fall_back(claimed, str(error)) from None
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        if walk.forecasting and substitute:
            done = attrs.evolve(done, finite=self._finite(done.output))
        elif record and known:
            self._hold(inputs, done, walk, claimed)
        elif record:
            self._self_check(inputs, done, walk, claimed)
            self._checked.add(frozenset(record))
        if not (substitute and walk.forecasting):
            self._add_output(done, walk, record)
        self.spent -= done.block_rows
        if not substitute:  # a computed step also accounts for its self-check, and for what came to nothing before it
            done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
        return done

    def _some_rows(self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site]) -> Pass:
        """Evaluate some rows without the others. Before that is done for the first time, both ways are compared; where they differ, all rows are evaluated."""
        part, why = self._alone(inputs, rows, substitute, record) if self.separable else (None, "")
        if part is None or not self._rows_known:
            whole = self._among_all(inputs, rows, record)
            tolerance = ROW_TOLERANCE.get(_precision(whole.output, whole.features), 0.05)
            differs = part is not None and not same_output(whole.output, part.output, tolerance=tolerance)
            if self.separable and not self.agreed([not why and not differs], whole.output)[0]:
                self.separable = False
                why = why or "a row computed alone differs from the same row in the batch"
                self.notes.append(f"{type(self.wires.model).__name__}: {why}; so a rejection computes the whole batch")
            self._rows_known = True
        done = part if part is not None and self.separable else whole
        self.spent -= done.block_rows
        done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
        return done

    def _alone(self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site]) -> tuple[Pass | None, str]:
        """Evaluate some rows without the others. Returns the pass, or None and why it cannot be.

        Raises:
            Rewired: They are not where they seemed to be.
        """
        try:
            part, walk = self._pass(inputs, rows, substitute if self._rows_known else {}, record=record)
        except Unlike:
            self._set_order(self.order)
            raise Rewired from None
        except UnsupportedModelError as error:
            return None, f"its batch cannot be cut: {error}"
        except ContractError:
            raise
        except FAILURES as error:
            return None, f"its batch cannot be cut ({type(error).__name__}: {error})"
        self._add_output(part, walk, record)
        missing = [str(site) for site in record if self.claims(site) and site not in walk.features]
        return (None, f"{', '.join(missing)} is not computed for some rows alone") if missing else (part, "")

    def _among_all(self, inputs: Call, rows: Sequence[int], record: Collection[Site]) -> Pass:
        """Evaluate all rows, and return some."""
        try:
            done, walk = self._pass(inputs, None, {}, record=record)
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        self._add_output(done, walk, record)
        features = {site: feature[on_device(rows, feature.device)] for site, feature in done.features.items()}
        return attrs.evolve(done, output=select_rows(done.output, rows, self.rows(inputs)), features=features)

    def _add_output(self, done: Pass, walk: Walk, record: Collection[Site]) -> None:
        """Record the model's output, where it is wanted, also in the place of the last block's."""
        for site in (OUTPUT, *([Site(self.depth - 1)] if self.output_for_last else ())):
            if site in record and self._output_layout is not None:
                walk.features[site] = self._output_layout.pack(done.output).detach()

    def _finite(self, output: Any) -> Sequence[bool] | None:
        """``(rows,)`` whether an output is finite, where looking is free."""
        if output is None or self._output_layout is None or not self._output_layout.on_cpu:
            return None
        feature = self._output_layout.pack(output)
        broken = broken_rows(feature)
        return [row not in broken for row in range(len(feature))] if broken else None

    def _hold(self, inputs: Call, done: Pass, walk: Walk, claimed: frozenset[Site]) -> None:
        """Hold a computed pass against what was learnt.

        Raises:
            Rewired: It is another.
        """
        wanted = claimed - ({OUTPUT, Site(self.depth - 1)} if self.output_for_last else {OUTPUT})
        if self._output_layout is not None and not self._output_layout.fits(done.output, self.rows(inputs)):
            raise Rewired("the model's output has another shape or dtype than when it was examined")
        if self.wires.opaque or (self.output_for_last and not wanted):
            return
        if walk.called != self.order:
            raise Rewired("the model calls other blocks than when it was examined")
        if walk.revived or walk.repeated & wanted or not wanted <= walk.features.keys():
            raise Rewired("the blocks call other parts than when the model was examined")

    def features_of(self, inputs: Call, record: Collection[Site]) -> Mapping[Site, Tensor]:
        """Return the features of one computed pass, without checking anything; on the meta device they are shapes."""
        done, walk = self._pass(inputs, None, {}, record=record)
        if OUTPUT in record:
            walk.features[OUTPUT] = Layout.of(done.output, self.rows(inputs), what=type(self.wires.model).__name__).pack(done.output)
        return walk.features

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Scatter the rows of ``part`` into ``output``, whatever structure the model returns."""
        return merge_rows(output, rows, part)

    def _pass(
        self,
        inputs: Call,
        rows: Sequence[int] | None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
    ) -> tuple[Pass, Walk]:
        if self.wires.walk is not None:
            raise ContractError("a second evaluation of this model began before the first had ended; give each thread a model of its own")
        args, kwargs = inputs.args, inputs.kwargs
        total = count_rows(args, kwargs)
        if rows is not None:
            args, kwargs = take_rows((args, kwargs), rows, total)
        whole = None if rows is None else total
        count = total if rows is None else len(rows)
        # A host that writes into a block's output in place would change the recorded feature. It is seen by the tensors' version counters; then, and under
        # inference mode, which has none, features are cloned. The pass that showed it is repeated once.
        clone = self._clone or torch.is_inference_mode_enabled()
        while True:
            walk = Walk(self, count, substitute, probe, judge, record, clone=clone, whole=whole)
            self.wires.walk = walk
            try:
                output = inputs.inner(*args, **kwargs)
            except Abandoned:
                output = None
                if OUTPUT in substitute and walk.forecasting and self._output_layout is not None:
                    output = self._output_layout.unpack(substitute[OUTPUT])
            finally:
                self.wires.walk = None
                spent = self.depth * count if self.wires.opaque else walk.block_rows
                self.spent += spent
            if clone or walk.untouched():
                return Pass(output, walk.features, spent), walk
            clone = self._clone = True

    def _self_check(self, inputs: Call, done: Pass, walk: Walk, claimed: frozenset[Site]) -> None:
        """Compare what was just computed with what a forecast of the very same features gives."""
        if not self.wires.opaque and walk.called != self.order:
            if len(set(walk.called)) < len(walk.called) or not walk.called:
                why = "none of its blocks was called" if not walk.called else "a block is called several times in one evaluation"
                if claimed and not (self.output_for_last and claimed <= {OUTPUT, Site(self.depth - 1)}):
                    raise self._fall_back(claimed, why)
            else:
                self._set_order(walk.called)
                raise Rewired
        silent = frozenset(site for site in claimed if site.part not in ("block", "output") and site not in done.features)
        if silent:  # a part that this kind of call does not use (LTX-2 without one of its cross attentions)
            self.silent |= silent
            self._set_order(self.order)
            raise Rewired
        if walk.repeated & claimed:
            raise self._fall_back(claimed, "a part of a block is called several times")
        if claimed and any(layout.doubtful for layout in (*self.layouts.values(), *self.part_layouts.values())):
            self._alone(inputs, [0], {}, ())
        self._choose_assemblies(walk.assembled, done.output)
        try:
            self._output_layout = Layout.of(done.output, self.rows(inputs), what=type(self.wires.model).__name__)
        except UnsupportedModelError:
            if claimed:
                raise
        own = {OUTPUT, Site(self.depth - 1)} if self.output_for_last else {OUTPUT}
        features = {site: done.features[site] for site in (claimed - own) & done.features.keys()}
        if features:
            try:
                again, _ = self._pass(inputs, None, _Copies(features))
                same, why = same_output(done.output, again.output), "its output changes where recorded features stand in for computed ones"
            except ContractError:
                raise
            except FAILURES as error:
                same, why = False, f"it cannot run on forecast features ({type(error).__name__}: {error})"
            if not self.agreed([same], done.output)[0]:
                raise self._fall_back(claimed, why)

    def _choose_assemblies(self, found: Mapping[int, Sequence[bool]], output: Any) -> None:
        """Take of each block the first way of putting it together that equals it in all processes."""
        agreed = iter(self.agreed([equal for each in found.values() for equal in each], output))
        for index, each in found.items():
            parts, equal = self.parts_at(index), [next(agreed) for _ in each]
            ways = parts.assemblies if parts is not None else ()
            self.assemblies[index] = next((way for way, good in zip(ways, equal, strict=False) if good), None)

    def agreed(self, findings: Sequence[bool], output: Any) -> list[bool]:
        """Return which findings all processes have made. Their next passes must be the same, or they wait for each other for ever.

        Args:
            findings: What this process found; as many in every process.
            output: Something computed, for its device.
        """
        if self.vote is None or not findings:
            return list(findings)
        device = next((leaf.device for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        missing = torch.tensor([not found for found in findings], dtype=torch.float32, device=device)
        return [not value for value in self.vote.max(missing).tolist()]

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
        self._set_order(self.order)
        return True

    def _fall_back(self, record: Collection[Site], why: str) -> Rewired:
        """Give up the finest level that is in use, and say why."""
        name = type(self.wires.model).__name__
        if self._parts_work and any(site.part not in ("block", "output") for site in record):
            self._parts_work = False
            self.notes.append(f"{name}: module parts cannot be forecast: {why}")
        elif not self.output_for_last:
            self.output_for_last = True
            self.notes.append(f"{name}: the last block cannot be forecast on its own, its output is forecast instead: {why}")
        else:
            raise UnsupportedModelError(f"{name} cannot be driven: {why}")
        self._set_order(self.order)
        return Rewired()


def _precision(output: Any, features: Mapping[Site, Tensor]) -> torch.dtype:
    """The dtype that says how far apart equal rows may be: of the features, or else of the output."""
    leaves = [*features.values(), *(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))]
    return leaves[0].dtype if leaves else torch.float32


class _Copies(Mapping[Site, Tensor]):
    """Substitutes that a model may write into, copied one by one as they are reached, so that no second set of features is held."""

    def __init__(self, given: Mapping[Site, Tensor]) -> None:
        self._given = given

    def __getitem__(self, site: Site) -> Tensor:
        return self._given[site].clone()

    def __contains__(self, site: object) -> bool:
        return site in self._given

    def __iter__(self) -> Iterator[Site]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


class _Renamed(Mapping[Site, Tensor]):
    """Substitutes in which the model's output stands in for the last block."""

    def __init__(self, given: Mapping[Site, Tensor], last: Site) -> None:
        self._given, self._last = given, last

    def __getitem__(self, site: Site) -> Tensor:
        return self._given[self._last if site == OUTPUT else site]

    def __contains__(self, site: object) -> bool:
        return site == OUTPUT or (site != self._last and site in self._given)

    def __iter__(self) -> Iterator[Site]:
        return (OUTPUT if site == self._last else site for site in self._given)

    def __len__(self) -> int:
        return len(self._given)
