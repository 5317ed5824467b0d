"""What gates have in common that add up how far something moves from step to step, and compute when the sum
has grown too large.

They differ in what they look at. The rest is one rule: a step at the start or at the end is computed; in any
other a row's sum grows by what the step adds, its forecast is used while the sum is below a threshold, and
computing sets the sum to 0.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer import History, OptionError, Outcome, Plan, Run, Step, Verdict, Weights, hookimpl
from foreseer.metrics import Metric
from foreseer.transfer import on_device

__all__ = ["DISTANCE", "GatheringGate", "reused"]


def _distance(then: Tensor, now: Tensor) -> tuple[Tensor, ...]:
    wide = torch.promote_types(now.dtype, torch.float32)
    return ((now.to(wide) - then.to(wide)).abs().flatten(1).sum(1),)


DISTANCE = Metric("distance", _distance, lambda total: total)
"""sum|now - then|."""


def reused(history: History) -> Weights:
    """Return the weights of each row's last computed feature."""
    values = np.zeros(history.anchors.shape)
    values[:, 0] = 1.0
    return Weights(values)


@attrs.define(eq=False)
class GatheringGate:
    """Gate, of which a method adds ``setup``, what to plan and what to look at.

    Sums live on the host, as numbers: a verdict is the sum with this step's part, and `commit` reads it back
    from the outcome. Nothing here waits for the device.

    Attributes:
        threshold: Forecast while the sum is below it (strict, as in every released gate of this kind).
        decide: ``"row"``: each sample by its own sum. ``"batch"``: one sum over all rows, as released.
        verified: Every forecast was judged in its own step.
    """

    verified: ClassVar[bool] = True
    threshold: float
    decide: Literal["row", "batch"]
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _sums: list[float] = attrs.field(factory=list, init=False, repr=False)
    _first: int = attrs.field(default=1, init=False, repr=False)
    _end: float = attrs.field(default=math.inf, init=False, repr=False)

    def begin(self, run: Run, *, first: int, last: int, name: str) -> None:
        """Start with nothing gathered.

        Args:
            run: The run.
            first: Steps that are computed at its start.
            last: Likewise at its end.
            name: Of the policy, for messages.

        Raises:
            OptionError: Steps at the end are to be computed, and nobody said where that is.
        """
        if last and run.num_steps is None:
            raise OptionError(f"{name} computes the last step and must know which it is: give the run timesteps= or num_steps=")
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        self._sums, self._first = [0.0] * run.rows, max(first, 1)
        self._end = run.num_steps - last if last and run.num_steps is not None else math.inf

    def computed(self, step: Step) -> Plan | None:
        """Return the plan of a step that is computed whatever was gathered; None for any other."""
        if step.index < self._first:
            return Plan(reason="warm-up")
        return Plan(reason="last step") if step.index >= self._end else None

    def judge(self, added: Tensor) -> Verdict:
        """Add up. ``added`` is ``(R,)`` float32, what this step adds to each row's sum; where it is not
        finite the session has the row computed.
        """
        total = added + on_device(np.asarray(self._sums), added.device, added.dtype)
        return Verdict(total, torch.lt(total, self.threshold), self.threshold)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Keep the sums of the rows that were forecast."""
        for row, (computed, error) in enumerate(zip(outcome.computed, outcome.error, strict=True)):
            if computed:
                self._sums[row] = 0.0
            elif math.isfinite(error):
                self._sums[row] = error
