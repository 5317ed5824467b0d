"""A stream that does as another one did."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from foreseer.outcome import Outcome
from foreseer.types import Plan, Step

__all__ = ["Follower"]


@attrs.frozen(eq=False)
class Follower:
    """Plans in a policy's place what the leading stream's session did in the same step, without judging
    again.

    Attributes:
        latest: How the other stream's last step ended, of the same run; None before its first.
    """

    latest: Callable[[], Outcome | None]

    def before_step(self, step: Step) -> Plan | None:
        """Return what the leader did; None where it was not called in this step.

        Args:
            step: As the whole run counts it.
        """
        led = self.latest()
        if led is None or led.step.index != step.index:
            return None
        if led.full:
            return Plan(reason="computed as the first stream was")
        return Plan(forecast=led.plan.forecast, compute=led.computed, reason="as the first stream")
