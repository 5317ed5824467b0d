"""Which processes share a sample's tokens, and how they vote. torch.distributed is touched only where one is
found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from torch import Tensor, nn

from foreseer.errors import OptionError, UnsupportedModelError
from foreseer.vote import Vote

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["GroupVote", "check_process_group", "vote_for"]


@attrs.frozen
class GroupVote:
    """A `foreseer.vote.Vote` by one all-reduce over a process group."""

    group: ProcessGroup

    @property
    def processes(self) -> int:
        """Size of the group."""
        return torch.distributed.get_world_size(self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Add up over the group."""
        total = values.clone(memory_format=torch.contiguous_format)  # all_reduce writes into it
        torch.distributed.all_reduce(total, torch.distributed.ReduceOp.SUM, group=self.group)
        return total

    def max(self, values: Tensor) -> Tensor:
        """Take the largest over the group."""
        most = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self.group)
        return most


def check_process_group(group: Any) -> None:
    """Raise `OptionError` for what is neither None, ``"auto"`` nor a process group."""
    if group is None or (isinstance(group, str) and group == "auto"):
        return
    if not (torch.distributed.is_available() and isinstance(group, torch.distributed.ProcessGroup)):
        hint = "; give mesh.get_group()" if hasattr(group, "get_group") else ""
        raise OptionError(f"process_group={group!r} is unknown; write 'auto', None, or a torch.distributed process group{hint}")


def vote_for(model: nn.Module, group: ProcessGroup | Literal["auto"] | None) -> Vote | None:
    """Return the vote of a model's processes; None where each decides for itself.

    Args:
        model: The denoiser.
        group: As in `foreseer.attach`. ``"auto"`` looks for what ``enable_parallelism`` of diffusers leaves
            on a model.

    Raises:
        UnsupportedModelError: diffusers' context parallelism is enabled but keeps its group elsewhere than we
            know.
    """
    if group is None:
        return None
    found: Any = group
    if isinstance(group, str):
        config = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
        if config is None:
            return None
        try:
            found = config._flattened_mesh.get_group()
        except AttributeError:
            raise UnsupportedModelError(
                f"context parallelism is enabled on this {type(model).__name__}, but its process group was not found; give attach(..., process_group=...)"
            ) from None
    vote = GroupVote(found)
    return vote if vote.processes > 1 else None
