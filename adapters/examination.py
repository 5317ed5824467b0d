"""The examination of a model: nothing about it is believed, and what was learnt is held against each later
step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from foreseer.adapters.anatomy import Anatomy, Rewired
from foreseer.adapters.calls import Call
from foreseer.adapters.layouts import Layout
from foreseer.adapters.notes import Unlike
from foreseer.adapters.rows import batch_of
from foreseer.adapters.sameness import same_output
from foreseer.adapters.substitutes import Copies
from foreseer.adapters.visits import Visits
from foreseer.adapters.walk import Walk
from foreseer.backbone import Pass
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.types import Site
from foreseer.vote import Vote

__all__ = ["FAILURES", "Attempt", "Examination"]

FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)
"""What a model raises that cannot run in a way that is tried. What somebody raises to stop it is of a class
of its own, and is let through.
"""

Attempt = Callable[..., Visits[tuple[Pass, Walk]]]
"""``(inputs, rows, substitute)``: what a pass wants; of it comes what it was, and its walk."""


class Examination:
    """See the module.

    Args:
        anatomy: Where what is found out is put.
        vote: The processes that share the rows' tokens; what one finds out holds for all. None for one.
        attempt: Makes a pass.
    """

    def __init__(self, anatomy: Anatomy, vote: Vote | None, attempt: Attempt) -> None:
        self._anatomy, self._vote, self._attempt = anatomy, vote, attempt

    def hold(self, done: Pass, walk: Walk, claimed: frozenset[Site]) -> None:
        """Hold a computed pass against what was learnt.

        Raises:
            Rewired: It is another.
        """
        anatomy = self._anatomy
        if walk.called != anatomy.called:
            raise Rewired("the model calls other blocks than when it was examined")
        if anatomy.output is not None and not anatomy.output.fits(done.output, walk.rows):
            raise Rewired("the model's output has another shape or dtype than when it was examined")
        if walk.revived or walk.repeated & claimed or claimed - walk.notes.features.keys() != anatomy.from_output(claimed - walk.notes.features.keys()):
            raise Rewired("the blocks call other parts than when the model was examined")

    def check(self, inputs: Call, done: Pass, walk: Walk, claimed: frozenset[Site]) -> Visits[None]:
        """Compare what was just computed with what a forecast of the very same features gives."""
        if not self._anatomy.wires.opaque and walk.called != self._anatomy.order:
            if len(set(walk.called)) < len(walk.called) or not walk.called:
                why = "none of its blocks was called" if not walk.called else "a block is called several times in one evaluation"
                if claimed and not (self._anatomy.output_for_last and claimed == self._anatomy.from_output(claimed)):
                    raise self._anatomy.fall_back(claimed, why)
            else:
                self._anatomy.reorder(walk.called)
                raise Rewired
        silent = frozenset(site for site in claimed if site.part not in ("block", "output") and site not in done.features)
        if silent:  # a part that this kind of call does not use (LTX-2 without one of its cross attentions)
            self._anatomy.silent |= silent
            self._anatomy.reorder(self._anatomy.order)
            raise Rewired
        self._anatomy.called = walk.called
        if walk.repeated & claimed:
            raise self._anatomy.fall_back(claimed, "a part of a block is called several times")
        if claimed and any(layout.doubtful for layout in self._anatomy.layouts.values()):
            yield from self._look_for_rows(inputs)
        self._choose_assemblies(walk.assembled, done.output)
        try:
            batch = batch_of(inputs.args, inputs.kwargs)
            self._anatomy.output = Layout.of(done.output, batch.rows, listed=batch.listed, what=self._anatomy.name)
        except UnsupportedModelError:
            if claimed:
                raise
        # A residual's sum is rounded: what is looked at is the output of its last block.
        made = (claimed - self._anatomy.from_output(claimed)) & done.features.keys()
        features = {site.end: done.features[site] if site.since is None else walk.notes.ends[site.end] for site in made}
        if features:
            try:
                again, _ = yield from self._attempt(inputs, None, Copies(features))
                same, why = same_output(done.output, again.output), "its output changes where recorded features stand in for computed ones"
            except ContractError:
                raise
            except FAILURES as error:
                same, why = False, f"it cannot run on forecast features ({type(error).__name__}: {error})"
            if not self.agreed([same], done.output)[0]:
                raise self._anatomy.fall_back(claimed, why)

    def _choose_assemblies(self, found: Mapping[int, Sequence[bool]], output: Any) -> None:
        """Take of each block the first way of putting it together that equals it in all processes."""
        agreed = iter(self.agreed([equal for each in found.values() for equal in each], output))
        for index, each in found.items():
            parts, equal = self._anatomy.parts_at(index), [next(agreed) for _ in each]
            ways = parts.assemblies if parts is not None else ()
            self._anatomy.assemblies[index] = next((way for way, good in zip(ways, equal, strict=False) if good), None)

    def agreed(self, findings: Sequence[bool], output: Any) -> list[bool]:
        """Return which findings all processes have made. Their next passes must be the same, or they wait for
        each other for ever.

        Args:
            findings: What this process found; as many in every process.
            output: Something computed, for its device.
        """
        if self._vote is None or not findings:
            return list(findings)
        device = next((leaf.device for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        missing = torch.tensor([not found for found in findings], dtype=torch.float32, device=device)
        return [not value for value in self._vote.max(missing).tolist()]

    def _look_for_rows(self, inputs: Call) -> Visits[None]:
        """Evaluate one row alone, to see which dimension is shorter then.

        Raises:
            Rewired: It is another than was believed.
        """
        try:
            yield from self._attempt(inputs, [0], {})
        except Unlike:
            self._anatomy.reorder(self._anatomy.order)
            raise Rewired from None
        except ContractError:
            raise
        except FAILURES:
            return
