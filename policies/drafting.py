"""Small parts that schedules and gates share: which sites are forecast, and how long each row was drafted."""

from __future__ import annotations

from typing import Literal

from foreseer.outcome import Outcome
from foreseer.schedule_plan import Target
from foreseer.types import OUTPUT, STREAM, Needs, Run, Site, Step

__all__ = ["DraftCounter", "Target", "Whole", "draft_needs", "site_at", "whole_of"]

Whole = Literal["last_block", "residual", "residual_after_first", "output"]
"""Targets that are one site."""


class DraftCounter:
    """How far each row's last computed step is behind, in steps, those not called in between included."""

    def __init__(self, rows: int) -> None:
        self._computed, self._next = [-1] * rows, 0

    def commit(self, outcome: Outcome) -> None:
        """Count a finished step."""
        index = outcome.step.index
        self._computed = [index if computed else last for last, computed in zip(self._computed, outcome.computed, strict=True)]
        self._next = index + 1

    def exhausted(self, most: int, step: Step | None = None) -> tuple[bool, ...]:
        """``(R,)`` rows not computed in the ``most`` steps before ``step``; None: the one to come."""
        index = self._next if step is None else step.index
        return tuple([index - last > most for last in self._computed])


def whole_of(run: Run, target: Target) -> Site:
    """Return the one site that stands for a step as a whole.

    Args:
        run: The run.
        target: ``"last_block"``: the last block's output. ``"residual"``: what all blocks add to the stream
            that enters the first, so that the current step's input stays live, as TeaCache and MagCache have
            it. ``"residual_after_first"``: what those behind the first add to its output, which is computed
            (First Block Cache). ``"output"``: the denoiser's output. A host without residuals has the last
            block's output in their place.
    """
    site = site_at(target, run.depth)
    return site if STREAM in run.places else site.end


def site_at(target: Target, depth: int) -> Site:
    """Return the site of `whole_of` in a model of so many blocks that has residuals."""
    since = {"residual": -1, "residual_after_first": min(0, depth - 2)}.get(target)
    return OUTPUT if target == "output" else Site(depth - 1, since=since)


def draft_needs(run: Run, target: Target, *, verify_block: int | None = None) -> Needs:
    """Return the sites that a draft forecasts.

    Args:
        run: The run.
        target: ``"modules"``: every module part, so that norms, modulation and gates of the current step stay
            live. Else see `whole_of`.
        verify_block: Where the draft will be verified by computing that block on its draft input, or None.

    Returns:
        The sites, and a note where the model has none of them and the last block is forecast instead.
    """
    parts = tuple(site for site in run.sites if site.part != "block")
    if target == "modules" and parts:
        return Needs(sites=parts)
    site = whole_of(run, target)
    note = ""
    if target == "modules":
        note = "this model's blocks have no known module parts, or most of the work lies outside of them; the last block's output is forecast instead"
    elif target.startswith("residual") and site.since is None:
        note = "this host does not say what enters its blocks; the last block's output is forecast instead of what was added"
    if verify_block is None or site == OUTPUT:
        return Needs(sites=(site,), note=note)
    since = site.since  # the block needs an input, and its own forecast to be compared with
    blocks = {verify_block, max(verify_block - 1, 0), run.depth - 1} - set(range(0 if since is None else since + 1))
    return Needs(sites=tuple(Site(block, since=since) for block in sorted(blocks)), note=note)
