"""What a host gives the engine: one small protocol, implemented by the adapters.

A host is whatever evaluates the denoiser: a diffusers model, a plain PyTorch module, recorded arrays. The
engine knows none of them; it asks for passes over the blocks, and every decision about rows is made on its
side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, Protocol

import attrs
from torch import Tensor

from foreseer.site import Site, site_of
from foreseer.types import Evidence, Probe

__all__ = ["Ask", "Backbone", "Drafted", "Pass", "carry_out", "live_blocks", "places_of"]


@attrs.frozen(eq=False, kw_only=True)
class Ask:
    """A pass that a session asks for: the arguments of `Backbone.forward`, and where its rows go.

    Attributes:
        rows, substitute, probe, judge, record, see: See there.
        into: An output whose ``rows`` those of this pass replace; None where the pass has all rows.
    """

    rows: Sequence[int] | None = None
    substitute: Mapping[Site, Tensor] = attrs.field(factory=dict)
    probe: Probe | None = None
    judge: Callable[[Evidence], bool] | None = None
    record: Collection[Site] = ()
    see: Collection[Site] = ()
    into: Any = None

    def put(self, done: Pass, backbone: Backbone) -> Pass:
        """Return what came of it, with its rows where they belong."""
        if self.into is None or self.rows is None:
            return done
        return attrs.evolve(done, output=backbone.merge(self.into, self.rows, done.output))


@attrs.frozen(eq=False)
class Pass:
    """One walk over the blocks.

    Attributes:
        output: The denoiser's output in the host's own form. Meaningless if the judge rejected every row of a
            draft probe.
        features: Recorded features of the sites that were computed for real, each ``(rows, ...)``, detached.
            Complete if nothing was substituted.
        block_rows: Blocks that were evaluated x rows, counted by the host.
        check_block_rows: Those that the host spent on checking itself, on top.
        finite: ``(rows,)`` whether the output's rows are finite; None where the host did not look, since
            looking is not free.
        seen: What was computed for real at the places that were to be seen, as `Evidence.computed` shows it.
    """

    output: Any = attrs.field(repr=False)
    features: Mapping[Site, Tensor] = attrs.field(repr=False)
    block_rows: int
    check_block_rows: int = 0
    finite: Sequence[bool] | None = None
    seen: Mapping[Site, Tensor] = attrs.field(factory=dict, repr=False)


class Drafted(Mapping[Site, Tensor]):
    """Substitutes that may depend on what arrives where they are used; a host that finds one tells it."""

    def reached(self, site: Site, live: Callable[[], Tensor | None], features: Mapping[Site, Tensor] | None = None) -> None:
        """Say what a site is given in this pass, and what was recorded in it so far, as `foreseer.types.Live`
        says, before it is looked up.
        """


def live_blocks(depth: int, forecast: Collection[Site], probe: Probe | None) -> list[bool]:
    """Return ``(L,)`` which blocks' outputs somebody needs, the probe included. A block is dead if the next
    needed output behind it is forecast as a whole, or as a residual that starts behind or at it.
    """
    live = [False] * depth
    residuals = {site.block: site.since for site in forecast if site.since is not None}
    needed = set() if any(site.block < 0 for site in forecast) else {depth - 1}  # the output
    for index in reversed(range(depth)):
        drafted = probe is not None and probe.on == "draft" and probe.block == index
        live[index] = index in needed or drafted
        if live[index] and index in residuals:
            needed.add(residuals[index])
        if live[index] and (drafted or (index not in residuals and site_of(index) not in forecast)):
            needed.add(index - 1)
    if probe is not None and probe.on == "input":
        live[: probe.block + 1] = [True] * (probe.block + 1)
    return live


class Backbone(Protocol):
    """A denoiser whose blocks the engine can substitute, probe and record. Bound to one model, not to one
    input.

    A host that can look in front of block 0 says so by a property ``places`` (see `foreseer.Run.places`), and
    is then given ``see``.
    """

    @property
    def depth(self) -> int:
        """Number of blocks, L."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that can be recorded and substituted, in execution order."""

    def rows(self, inputs: Any) -> int:
        """Return the number of rows, R, of an evaluation."""

    def forward(
        self,
        inputs: Any,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
    ) -> Pass:
        """Evaluate the denoiser once.

        Args:
            inputs: The evaluation's arguments, in the host's own form.
            rows: Return these rows only, in this order; None for all. A host whose rows cannot be evaluated
                without the others evaluates them all.
            substitute: Features to use instead of computing them. Read lazily: an entry is looked up when its
                site is reached, and what is found there may be written to. Blocks whose output nobody needs
                are not evaluated.
            probe: Block to compute as evidence. With ``on="input"``, substitutes take effect behind it.
            judge: Called once with the evidence. True: go on substituting. False: no row may be forecast;
                after an input probe the pass goes on computing everything, after a draft probe it stops
                there.
            record: Sites whose computed features to return.
        """

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Return ``output`` with the given rows replaced by ``part`` (the output of a pass over these rows)."""


def places_of(backbone: Backbone) -> tuple[Site, ...]:
    """Return the places in front of block 0 that a host has; none where it says nothing of them."""
    return tuple(getattr(backbone, "places", ()))


def carry_out(step: Generator[Ask, Pass, Any], backbone: Backbone, inputs: Any) -> Any:
    """Carry out what a session's step asks for, pass by pass, and return its output.

    Args:
        step: A session's step: see `foreseer.Session.step`.
        backbone: The host.
        inputs: The evaluation's arguments, in the host's own form.
    """
    done: Any = None
    while True:
        try:
            ask = step.send(done)
        except StopIteration as end:
            return end.value
        see: dict[str, Any] = {"see": ask.see} if ask.see else {}  # a host that has no places knows no such argument
        done = ask.put(backbone.forward(inputs, rows=ask.rows, substitute=ask.substitute, probe=ask.probe, judge=ask.judge, record=ask.record, **see), backbone)
