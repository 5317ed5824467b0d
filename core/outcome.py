"""How a step ended."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.types import Plan, Site, Step

__all__ = ["Kind", "Outcome"]


class Kind(enum.StrEnum):
    """What became of a step's rows, and on whose word. All but the last three computed every row."""

    COMPUTED = "computed"
    """The policy planned no forecast, or abstained."""
    FORCED = "forced"
    """`Plan.compute` asked for every row."""
    UNABLE = "unable"
    """Nothing was recorded, or nothing that is near enough, or the predictor abstained."""
    FAILED = "failed"
    """A hook raised or answered with nonsense, under ``on_error="compute"``."""
    OVERRULED = "overruled"
    """The host or the engine could not let the policy decide; `Outcome.reason` says why."""
    REJECTED = "rejected"
    """The gate, or the check for what is not finite, rejected every draft."""
    MIXED = "mixed"
    """Some rows were computed, forced or rejected; the others were forecast."""
    ACCEPTED = "accepted"
    """Every row was forecast, and a gate had looked."""
    FORECAST = "forecast"
    """Every row was forecast, unseen."""


@attrs.frozen(eq=False)
class Outcome:
    """How a step ended. Everything is on the host: reading it costs no device sync.

    Attributes:
        step: The step.
        plan: The plan that was carried out (``Plan()`` where the policy had none, or the engine had to
            compute everything).
        computed: ``(R,)`` True where the row was computed, False where its forecast was used.
        error: ``(R,)`` the gate's error, NaN where nothing was judged.
        accept: ``(R,)`` the gate's answer after merging groups, or None where nothing was judged.
        threshold: The gate's threshold, NaN where nothing was judged.
        block_rows: Blocks evaluated x rows, counted by the host.
        seconds: Host time of the evaluation. On an accelerator, work may still be under way when it is read.
        reason: Why the step went as it did, in a few words.
        kind: What became of the rows.
        products: ``site -> (R, K, K)`` inner products of each row's K newest recorded features, newest first,
            0 where a row has fewer, as they are behind the last computed step; in `commit` alone, for a
            policy whose `Needs` ask for them. Norms, cosines and the distance of any two forecasts that are
            linear in the features follow: ``||F^v - F^w||^2 = (v - w)' G (v - w)``.
    """

    step: Step
    plan: Plan
    computed: tuple[bool, ...]
    error: tuple[float, ...] = attrs.field(repr=False)
    accept: tuple[bool, ...] | None
    threshold: float
    block_rows: int
    seconds: float
    reason: str
    kind: Kind = Kind.COMPUTED
    products: Mapping[Site, NDArray[np.float64]] = attrs.field(factory=dict, repr=False)

    @property
    def full(self) -> bool:
        """Whether every row was computed."""
        return all(self.computed)

    def told_to_policy(self, step: Step, products: Mapping[Site, NDArray[np.float64]]) -> Outcome:
        """Return the outcome with the step as the policy counts it, and with ``products``."""
        return self if step is self.step and not products else attrs.evolve(self, step=step, products=products)
