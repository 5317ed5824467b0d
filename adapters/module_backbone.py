"""Any PyTorch model with a list of blocks as a host: calls of its blocks are intercepted, its code is not
touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.adapters.anatomy import Anatomy, Rewired
from foreseer.adapters.calls import Call
from foreseer.adapters.examination import Examination
from foreseer.adapters.fronts import latent_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.notes import Abandoned, Unlike
from foreseer.adapters.rows import Batch, batch_of, count_rows, merge_rows, take_rows
from foreseer.adapters.some_rows import SomeRows
from foreseer.adapters.substitutes import OutputFor
from foreseer.adapters.visits import Visit, Visits, alone
from foreseer.adapters.walk import Walk
from foreseer.adapters.wires import Wires
from foreseer.backbone import Ask, Pass
from foreseer.errors import UnsupportedModelError
from foreseer.trial import broken_rows
from foreseer.types import LATENT, OUTPUT, Evidence, Probe, Site
from foreseer.vote import Vote

__all__ = ["ModuleBackbone"]


class ModuleBackbone:
    """A `torch.nn.Module` called with arguments of one signature; satisfies `foreseer.backbone.Backbone`.

    Sites are every block's output, its module parts where they are known, and the model's output. Nothing
    about the model is believed: on the first computed step what was just recorded is substituted, and the
    output must be the same bit for bit. Where it is not, the host says so and falls back: from module parts
    to the last block, from the last block to the output. And what was learnt holds while calls look like the
    one that it was learnt from: in every later step the shapes that arrive at the first block and those of
    what is recorded are compared with it. Before rows are evaluated alone for the first time, they are
    compared with the same rows of the batch.

    Args:
        wires: The model's interceptions, which several backbones may share.
        vote: The processes that share the rows' tokens; what one finds out about the model holds for all.
            None for one.
        learnt: What was learnt about it before; None for nothing.

    Attributes:
        anatomy: What was learnt about the model.
        spent: Block-rows that no `Pass` has accounted for yet: those of evaluations that had to begin anew.
    """

    def __init__(self, wires: Wires, vote: Vote | None = None, *, learnt: Mapping[str, Any] | None = None) -> None:
        self.wires, self.vote = wires, vote
        self.anatomy = Anatomy(wires, learnt)
        self._examination = Examination(self.anatomy, vote, self._pass)
        self._some = SomeRows(self.anatomy, self._examination, self._pass, self._add_output)
        self.spent = 0
        self._batch = Batch(0)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.anatomy.depth

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output, block after block."""
        return self.anatomy.sites

    @property
    def places(self) -> tuple[Site, ...]:
        """What can be seen in front of block 0: see `foreseer.Run.places`."""
        return self.anatomy.places

    def watch(self, sites: Collection[Site], claimed: frozenset[Site] | None = None) -> None:
        """Intercept what these sites need.

        Args:
            sites: To be recorded.
            claimed: See `Anatomy`.
        """
        self.anatomy.claimed = claimed
        self.wires.watch({self.anatomy.order[site.block] for site in sites if site.part not in ("block", "output")})

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
        see: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`; `visits`, made with nobody beside."""
        return alone(self.visits(inputs, Ask(rows=rows, substitute=substitute, probe=probe, judge=judge, record=record, see=see)))

    def visits(self, inputs: Call, ask: Ask) -> Visits[Pass]:
        """Want what a session asks for.

        Raises:
            Rewired: The self-check of the first computed step failed, so that the sites have changed; or
                something is other than it was then.
        """
        anatomy, rows, substitute, probe, judge, see = self.anatomy, ask.rows, ask.substitute, ask.probe, ask.judge, ask.see
        record = frozenset(ask.record)
        claimed, known = anatomy.claimed_of(record), anatomy.knows(record)
        for site in anatomy.from_output(substitute) - {OUTPUT}:
            substitute = OutputFor(substitute, site, _latent(inputs) if site.end == OUTPUT else None)
        if probe is not None and judge is not None and probe.site == LATENT and substitute:
            substitute = substitute if judge(Evidence(LATENT, _latent(inputs), None)) else {}
            probe = judge = None
        if OUTPUT in substitute and probe is not None and (probe.on == "draft" or (self.anatomy.output_for_last and probe.block == anatomy.last.block)):
            raise UnsupportedModelError(
                "this model's last block cannot be forecast on its own, only its output, and a forecast of the output cannot be verified at that block; "
                "choose a policy without such a probe, for example taylorseer with target='output'"
            )
        if OUTPUT in substitute and probe is None:
            assert self.anatomy.output is not None
            return Pass(self.anatomy.output.unpack(substitute[OUTPUT]), {}, 0, seen={LATENT: _latent(inputs)} if LATENT in see else {})
        if rows is not None:
            done = yield from self._some.visits(inputs, rows, substitute, record, see)
            self.spent -= done.block_rows
            done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
            return done
        try:
            done, walk = yield from self._pass(inputs, None, substitute, probe, judge, record, see)
        except UnsupportedModelError as error:
            if substitute or not claimed or known:
                raise
            raise self.anatomy.fall_back(claimed, str(error)) from None
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        if walk.forecasting and substitute:
            done = attrs.evolve(done, finite=self._finite(done.output))
        elif record and known and anatomy.called and not walk.called:  # an early return, of which there is nothing to record
            walk.notes.features.clear()
            record = frozenset()
        elif record and known:
            self._examination.hold(done, walk, claimed)
        elif record:
            yield from self._examination.check(inputs, done, walk, claimed)
            anatomy.examined |= {record, claimed}
        if not (substitute and walk.forecasting):
            self._add_output(done, walk, record)
        self.spent -= done.block_rows
        if not substitute:  # a computed step also accounts for its self-check, and for what came to nothing before it
            done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
        return done

    def _add_output(self, done: Pass, walk: Walk, record: Collection[Site]) -> None:
        """Record the model's output, where it is wanted, also in the place of the last block's."""
        layout = self.anatomy.output
        if layout is None:
            return
        for site in self.anatomy.from_output(record):
            feature = layout.pack(done.output).detach()
            if site.since is not None and site.end == OUTPUT:
                latent = walk.latent()
                if latent.shape != feature.shape:
                    raise UnsupportedModelError(
                        f"{self.anatomy.name} makes {tuple(feature.shape)} of a latent of shape {tuple(latent.shape)}: "
                        "what it adds to the latent is no residual; choose another target"
                    )
                feature = feature - latent
            walk.notes.features[site] = feature

    def _finite(self, output: Any) -> Sequence[bool] | None:
        """``(rows,)`` whether an output is finite, where looking is free."""
        if output is None or self.anatomy.output is None or not self.anatomy.output.on_cpu:
            return None
        feature = self.anatomy.output.pack(output)
        broken = broken_rows(feature)
        return [row not in broken for row in range(len(feature))] if broken else None

    def features_of(self, inputs: Call, record: Collection[Site]) -> Mapping[Site, Tensor]:
        """Return the features of one computed pass, without checking anything; on the meta device they are
        shapes.
        """
        done, walk = alone(self._pass(inputs, None, {}, record=record))
        if OUTPUT in record:
            walk.notes.features[OUTPUT] = Layout.of(done.output, walk.rows, listed=self._batch.listed, what=self.anatomy.name).pack(done.output)
        return walk.notes.features

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Scatter the rows of ``part`` into ``output``, whatever structure the model returns."""
        return merge_rows(output, rows, part, self._batch)

    def _pass(
        self,
        inputs: Call,
        rows: Sequence[int] | None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
        see: Collection[Site] = (),
    ) -> Visits[tuple[Pass, Walk]]:
        args, kwargs = inputs.args, inputs.kwargs
        self._batch = batch_of(args, kwargs)
        total = self._batch.rows
        if rows is not None:
            args, kwargs = take_rows((args, kwargs), rows, total, listed=self._batch.listed)
        whole = None if rows is None else total
        count = total if rows is None else len(rows)
        # A host that writes into a block's output in place would change the recorded feature. It is seen by
        # the tensors' version counters; then, and under inference mode, which has none, features are cloned.
        # The pass that showed it is repeated once.
        clone = self.anatomy.clone or torch.is_inference_mode_enabled()
        voting: dict[str, Any] = {} if self.vote is None else {"shards": self.vote.processes, "all_ways": True}

        judge = None if judge is None else _once(judge)

        def begin() -> Walk:
            walk = Walk(self.anatomy, count, substitute, probe, judge, record, see, clone=clone, whole=whole, **voting)
            walk.latent = functools.partial(latent_of, args, kwargs, Batch(count, self._batch.listed))
            if LATENT in see:
                walk.notes.seen[LATENT] = walk.latent()
            return walk

        visit = Visit(self.wires, Call(inputs.inner, args, kwargs), begin)
        while True:
            try:
                output = yield visit
            except Abandoned:
                output = None
                if OUTPUT in substitute and visit.walk.forecasting and self.anatomy.output is not None:
                    output = self.anatomy.output.unpack(substitute[OUTPUT])
            finally:
                walk = visit.walk
                spent = self.depth * count if self.wires.opaque else walk.block_rows
                self.spent += spent
            if clone or walk.notes.untouched:
                return Pass(output, walk.notes.features, spent, seen=walk.notes.seen), walk
            clone = self.anatomy.clone = True
            visit.again()


def _latent(inputs: Call) -> Tensor:
    return latent_of(inputs.args, inputs.kwargs, batch_of(inputs.args, inputs.kwargs))


def _once(judge: Callable[[Evidence], bool]) -> Callable[[Evidence], bool]:
    """A judge that is asked once, however often a pass is made anew."""
    answers: list[bool] = []

    def judged(evidence: Evidence) -> bool:
        answers[:] = answers or [judge(evidence)]
        return answers[0]

    return judged
