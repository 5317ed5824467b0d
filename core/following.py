"""A stream that does as another one did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from foreseer.types import Plan, Step

if TYPE_CHECKING:
    from foreseer.session import Session

__all__ = ["Follower"]


@attrs.frozen(eq=False)
class Follower:
    """Plans in a policy's place what the leading stream's session did in the same step, without judging again.

    Attributes:
        leader: The other stream's session, of the same run.
    """

    leader: Session

    def before_step(self, step: Step) -> Plan | None:
        """Return what the leader did; None where it was not called in this step.

        Args:
            step: As the whole run counts it.
        """
        led = self.leader.latest
        if led is None or led.step.index != step.index:
            return None
        if led.full:
            return Plan(reason="computed as the first stream was")
        return Plan(forecast=led.plan.forecast, compute=led.computed, reason="as the first stream")
