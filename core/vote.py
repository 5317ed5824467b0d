"""How processes that each hold a part of a sample come to one decision.

Under context (sequence) parallelism every process sees its own tokens only, so each would measure another
error and decide for itself; the next all-to-all inside the model would then wait for a process that has left
it. Two places could be made to agree:

- *The sums.* A metric is a function of sums over a row's entries, and sums over tokens add up over processes.
  One all-reduce of the sums, before anyone divides, gives every process the error of the whole sample: what a
  single process would have measured. This is what `foreseer.Evidence.error` does, and what every built-in
  gate uses.
- *The verdicts.* A gate that computes its error by hand, or that was written before there was a vote, cannot
  be helped that way. Its verdicts are voted instead: a row is accepted where every process accepts it, and
  its error is the largest. That is not the error of the whole sample, but it is the same everywhere.

A `Ballot` does the second where the first was not done, so that each judged step costs one all-reduce either
way, and a plugin whose author has never heard of any of this cannot make a run hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foreseer.errors import AnswerError

__all__ = ["Ballot", "Electorate", "Vote"]


class Vote(Protocol):
    """An all-reduce over the processes that share a sample's tokens. Every one of them must make the same
    calls in the same order.

    The result must be the same on all processes bit for bit, as it is with gloo and NCCL, which reduce each
    entry in one place.
    """

    @property
    def processes(self) -> int:
        """How many vote."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; a new tensor of the same shape and dtype."""

    def max(self, values: Tensor) -> Tensor:
        """Return the largest over the processes, entry by entry; a new tensor."""


def _none_of(vote: Vote, mine: bool, device: torch.device | None) -> bool:
    """Return whether the answer is no in every process."""
    return not vote.max(torch.tensor([float(mine)], device=device)).item()


class Ballot:
    """The vote on one verdict: sums where the gate hands them in, else its verdicts.

    Args:
        vote: Who votes.
        wary: Whether the gate of some process may raise while others vote. Each vote is then preceded by
            another, on whether all take part; where one does not, the others' gates are told by an
            `AnswerError`, so that nobody waits for it.

    Attributes:
        cast: Whether the gate's sums were voted on.
    """

    def __init__(self, vote: Vote, *, wary: bool = False) -> None:
        self._vote, self._wary, self._dissent = vote, wary, False
        self.cast = False

    @property
    def open(self) -> bool:
        """Whether others may still wait for this process's answer."""
        return self._wary or not self.cast

    def __call__(self, sums: Tensor) -> Tensor:
        """Add a metric's sums up over the processes; any shape."""
        if self._wary and not _none_of(self._vote, False, sums.device):
            self._dissent = True
            raise AnswerError("another process has no sums to add")
        self.cast = True
        return self._vote.sum(sums)

    def settle(self, error: Tensor, accept: Tensor) -> tuple[Tensor, Tensor]:
        """Make ``(R,)`` errors and answers those of all processes, where the sums that they come from were
        not voted on.

        Returns:
            The largest error, infinite where one process's is not finite, and 1 where every process accepts,
            else 0; both float32.
        """
        error, refused = error.float(), 1 - accept.float()
        if self._wary and not self._dissent:
            _none_of(self._vote, True, error.device)  # whoever still has sums to add learns that this process has not
        if self.cast and not self._wary:
            return error, 1 - refused
        error, refused = self._vote.max(torch.stack((torch.where(error.isfinite(), error, torch.inf), refused))).unbind(0)
        return error, 1 - refused


class Electorate:
    """Who decides together: the rows of a sample, and the processes that share its tokens.

    Args:
        groups: ``(R,)`` sample of each row.
        vote: How the processes vote; None for one process.
        wary: Whether a policy that raises abstains, so that it may do so in one process alone: see `Ballot`.

    Attributes:
        alone: Whether there is one process.
        wary: As given.
    """

    def __init__(self, groups: Sequence[int], *, vote: Vote | None = None, wary: bool = False) -> None:
        self._groups = groups if len(set(groups)) < len(groups) else None
        self._vote, self.wary = vote, wary
        self.alone = vote is None

    def share_fate(self, flags: Sequence[bool]) -> list[bool]:
        """Rows of one sample share one fate: a flagged row flags its whole sample."""
        if self._groups is None or True not in flags:
            return list(flags)
        flagged = {group for group, flag in zip(self._groups, flags, strict=True) if flag}
        return [group in flagged for group in self._groups]

    def add(self, values: Tensor) -> Tensor:
        """Add sums over a row's tokens up over the processes that share them."""
        return values if self._vote is None else self._vote.sum(values)

    def ballot(self) -> Ballot | None:
        """Return what one verdict is voted with; None where nobody votes."""
        return None if self._vote is None else Ballot(self._vote, wary=self.wary)

    def stopped(self, failed: bool, device: torch.device | None) -> bool:
        """Return whether the policy failed in any process, so that none may go on with a forecast.

        Args:
            failed: Whether it did in this one.
            device: Where processes meet.
        """
        return self.wary and self._vote is not None and not _none_of(self._vote, failed, device)
