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
from foreseer.adapters.examination import FAILURES, Examination
from foreseer.adapters.fronts import latent_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.notes import RaggedError, Unlike
from foreseer.adapters.rows import Batch, batch_of, count_rows, merge_rows, select_rows, take_rows
from foreseer.adapters.sameness import row_tolerance, same_output
from foreseer.adapters.substitutes import OutputFor
from foreseer.adapters.walk import Abandoned, Walk
from foreseer.adapters.wires import Wires
from foreseer.backbone import Pass
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.transfer import on_device
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
        """See `foreseer.backbone.Backbone.forward`.

        Raises:
            Rewired: The self-check of the first computed step failed, so that the sites have changed; or
                something is other than it was then.
        """
        anatomy = self.anatomy
        record = frozenset(record)
        claimed, known = record if anatomy.claimed is None else record & anatomy.claimed, record in anatomy.examined
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
            return self._some_rows(inputs, rows, substitute, record, see)
        try:
            done, walk = self._pass(inputs, None, substitute, probe, judge, record, see)
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
            self._examination.check(inputs, done, walk, claimed)
            anatomy.examined.add(record)
        if not (substitute and walk.forecasting):
            self._add_output(done, walk, record)
        self.spent -= done.block_rows
        if not substitute:  # a computed step also accounts for its self-check, and for what came to nothing before it
            done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
        return done

    def _some_rows(self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site], see: Collection[Site]) -> Pass:
        """Evaluate some rows without the others. Before that is done for the first time, both ways are
        compared; where they differ, all rows are evaluated.
        """
        resumed = frozenset(substitute)  # rows that resume behind a block skip what is before it: another comparison
        try:
            part, why = self._alone(inputs, rows, substitute, record, see) if self.anatomy.separable else (None, "")
        except RaggedError as ragged:  # of these rows, in this step: others may be as long alone as among all
            self.anatomy.note(f"{self.anatomy.name}: {ragged}; so a rejection of such rows computes the whole batch")
            done = self._among_all(inputs, rows, record, see)
        else:
            if part is None or resumed not in self.anatomy.compared:
                whole = self._among_all(inputs, rows, record, see)
                tolerance = row_tolerance(whole.output, whole.features)
                differs = part is not None and not same_output(whole.output, part.output, tolerance=tolerance)
                if self.anatomy.separable and not self._examination.agreed([not why and not differs], whole.output)[0]:
                    self.anatomy.separable = False
                    why = why or "a row computed alone differs from the same row in the batch"
                    self.anatomy.note(f"{self.anatomy.name}: {why}; so a rejection computes the whole batch")
                self.anatomy.compared.add(resumed)
            done = part if part is not None and self.anatomy.separable else whole
        self.spent -= done.block_rows
        done, self.spent = attrs.evolve(done, check_block_rows=self.spent), 0
        return done

    def _alone(
        self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site], see: Collection[Site]
    ) -> tuple[Pass | None, str]:
        """Evaluate some rows without the others. Returns the pass, or None and why it cannot be.

        Raises:
            RaggedError: They are shaped otherwise alone.
            Rewired: They are not where they seemed to be.
        """
        try:
            part, walk = self._pass(inputs, rows, substitute, record=record, see=see)
        except RaggedError:
            raise
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        except UnsupportedModelError as error:
            return None, f"its batch cannot be cut: {error}"
        except ContractError:
            raise
        except FAILURES as error:
            return None, f"its batch cannot be cut ({type(error).__name__}: {error})"
        self._add_output(part, walk, record)
        missing = [str(site) for site in record if self.anatomy.claims(site) and site not in walk.notes.features]
        return (None, f"{', '.join(missing)} is not computed for some rows alone") if missing else (part, "")

    def _among_all(self, inputs: Call, rows: Sequence[int], record: Collection[Site], see: Collection[Site]) -> Pass:
        """Evaluate all rows, and return some."""
        try:
            done, walk = self._pass(inputs, None, {}, record=record, see=see)
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        self._add_output(done, walk, record)
        features, seen = ({site: tensor[on_device(rows, tensor.device)] for site, tensor in found.items()} for found in (done.features, done.seen))
        return attrs.evolve(done, output=select_rows(done.output, rows, self._batch), features=features, seen=seen)

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
        done, walk = self._pass(inputs, None, {}, record=record)
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
    ) -> tuple[Pass, Walk]:
        if self.wires.walk is not None:
            raise ContractError("a second evaluation of this model began before the first had ended; give each thread a model of its own")
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
        while True:
            walk = Walk(self.anatomy, count, substitute, probe, judge, record, see, clone=clone, whole=whole, **voting)
            walk.latent = functools.partial(latent_of, args, kwargs, Batch(count, self._batch.listed))
            if LATENT in see:
                walk.notes.seen[LATENT] = walk.latent()
            self.wires.walk = walk
            try:
                output = inputs.inner(*args, **kwargs)
            except Abandoned:
                output = None
                if OUTPUT in substitute and walk.forecasting and self.anatomy.output is not None:
                    output = self.anatomy.output.unpack(substitute[OUTPUT])
            finally:
                self.wires.walk = None
                spent = self.depth * count if self.wires.opaque else walk.block_rows
                self.spent += spent
            if clone or walk.notes.untouched:
                return Pass(output, walk.notes.features, spent, seen=walk.notes.seen), walk
            clone = self.anatomy.clone = True


def _latent(inputs: Call) -> Tensor:
    return latent_of(inputs.args, inputs.kwargs, batch_of(inputs.args, inputs.kwargs))
