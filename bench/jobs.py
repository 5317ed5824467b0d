"""What a benchmark hands out, a lane on a batch, and what comes back: values that travel between machines."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor

from foreseer.bench.lanes import LaneOf, Solved
from foreseer.bench.likeness import Drawn
from foreseer.bench.peers import PeerSpec
from foreseer.bench.results import Counted, LaneResult, Unit
from foreseer.registry import PolicySpec
from foreseer.report import Report

__all__ = ["Beside", "Given", "Job", "Measured"]

Given = PolicySpec | Solved | PeerSpec | LaneOf
"""What drives a lane."""


@attrs.frozen(eq=False, kw_only=True)
class Job:
    """One lane on one batch.

    Attributes:
        lane: Without its units.
        given: What drives it; None for the bare model.
        number: Of the batch.
        indices: Its samples.
        batches: How many batches there are.
        warm_up: Whether the lane draws a sample before, where it has not done so.
    """

    lane: LaneResult
    given: Given | None
    number: int
    indices: tuple[int, ...]
    batches: int
    warm_up: bool = False


@attrs.frozen(eq=False, kw_only=True)
class Beside:
    """What full computation came to on a batch.

    Attributes:
        drawn: What it drew.
        seconds: How long its one draw took where this lane is timed; None where it is to be drawn there.
        truth: The batch's images of the converged reference; None where nobody has them at hand.
    """

    drawn: Drawn
    seconds: float | None = None
    truth: Tensor | None = None


@attrs.frozen(eq=False, kw_only=True)
class Measured:
    """What a lane came to on a batch.

    Attributes:
        unit: Its figures and times.
        drawn: What it drew.
        counted: What it cost, where that was counted.
        reports: Of each stream, the account of the policy that drove it; empty for none.
        truth: See `Beside`; of full computation alone.
        agreements: See `foreseer.bench.reference.Reference`, of these samples.
    """

    unit: Unit
    drawn: Drawn
    counted: Counted | None
    reports: Mapping[str, Report]
    truth: Tensor | None
    agreements: Mapping[int, float]
