"""Small parts that schedules and gates share: which sites are forecast, and how long each row has been
drafted.
"""

from __future__ import annotations

from typing import Literal

from foreseer.outcome import Outcome
from foreseer.types import OUTPUT, Needs, Run, Site, Step

__all__ = ["DraftCounter", "Target", "draft_needs"]

Target = Literal["modules", "last_block", "output"]


class DraftCounter:
    """How far behind each row's last computed step is, in steps: as many as it was forecast in a row, and
    more where the stream was not called in between.
    """

    def __init__(self, rows: int) -> None:
        self._computed, self._next = [-1] * rows, 0

    def commit(self, outcome: Outcome) -> None:
        """Count a finished step."""
        index = outcome.step.index
        self._computed = [index if computed else last for last, computed in zip(self._computed, outcome.computed, strict=True)]
        self._next = index + 1

    def exhausted(self, most: int, step: Step | None = None) -> tuple[bool, ...]:
        """``(R,)`` rows that were not computed in the ``most`` steps before ``step``; None takes the step
        behind the last finished one.
        """
        index = self._next if step is None else step.index
        return tuple([index - last > most for last in self._computed])


def draft_needs(run: Run, target: Target, *, verify_block: int | None = None) -> Needs:
    """Return the sites that a draft forecasts.

    Args:
        run: The run.
        target: ``"modules"``: every module part, so that norms, modulation and gates of the current step stay
            live. ``"last_block"``: the last block's output. ``"output"``: the denoiser's output.
        verify_block: Where the draft will be verified by computing that block on its draft input, or None.

    Returns:
        The sites, and a note where the model has no module parts and the last block is forecast instead.
    """
    if target == "output":
        return Needs(sites=(OUTPUT,))
    parts = tuple(site for site in run.sites if site.part != "block")
    note = ""
    if target == "modules":
        if parts:
            return Needs(sites=parts)
        note = "this model's blocks have no known module parts, or most of the work lies outside of them; the last block's output is forecast instead"
    blocks = {run.depth - 1}
    if verify_block is not None:  # the block needs an input, and its own forecast to be compared with
        blocks |= {verify_block, max(verify_block - 1, 0)}
    return Needs(sites=tuple(Site(b) for b in sorted(blocks)), note=note)
