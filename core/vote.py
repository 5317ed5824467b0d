"""How processes that each hold a part of a sample come to one decision.

Under context (sequence) parallelism every process sees its own tokens only, so each would measure another error and decide for itself; the
next all-to-all inside the model would then wait for a process that has left it. Two places could be made to agree:

- *The sums.* A metric is a function of sums over a row's entries, and sums over tokens add up over processes. One all-reduce of the sums,
  before anyone divides, gives every process the error of the whole sample: what a single process would have measured. This is what
  `foreseer.Evidence.error` does, and what every built-in gate uses.
- *The verdicts.* A gate that computes its error by hand, or that was written before there was a vote, cannot be helped that way. Its
  verdicts are voted instead: a row is accepted where every process accepts it, and its error is the largest. That is not the error of the
  whole sample, but it is the same everywhere.

A `Ballot` does the second where the first was not done, so that each judged step costs one all-reduce either way, and a plugin whose author
has never heard of any of this cannot make a run hang.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Ballot", "Vote"]


class Vote(Protocol):
    """An all-reduce over the processes that share a sample's tokens. Every one of them must make the same calls in the same order.

    The result must be the same on all processes bit for bit, as it is with gloo and NCCL, which reduce each entry in one place.
    """

    @property
    def processes(self) -> int:
        """How many vote."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; a new tensor of the same shape and dtype."""

    def max(self, values: Tensor) -> Tensor:
        """Return the largest over the processes, entry by entry; a new tensor."""


class Ballot:
    """The vote on one verdict: sums where the gate hands them in, else its verdicts.

    Attributes:
        cast: Whether the gate's sums were voted on.
    """

    def __init__(self, vote: Vote) -> None:
        self._vote = vote
        self.cast = False

    def __call__(self, sums: Tensor) -> Tensor:
        """Add a metric's sums up over the processes; any shape."""
        self.cast = True
        return self._vote.sum(sums)

    def settle(self, error: Tensor, accept: Tensor) -> tuple[Tensor, Tensor]:
        """Make ``(R,)`` errors and answers those of all processes, where the sums that they come from were not voted on.

        Returns:
            The largest error, infinite where one process's is not finite, and 1 where every process accepts, else 0; both float32.
        """
        error, refused = error.float(), 1 - accept.float()
        if self.cast:
            return error, 1 - refused
        error, refused = self._vote.max(torch.stack((torch.where(error.isfinite(), error, torch.inf), refused))).unbind(0)
        return error, 1 - refused
