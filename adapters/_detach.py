"""`detach`: take a policy off a model or pipeline whose attachment nobody holds any more."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from foreseer.errors import ContractError, UnsupportedModelError

if TYPE_CHECKING:
    from foreseer.adapters.attachment import Attachment

__all__ = ["ALL", "detach"]

ALL: weakref.WeakSet[Attachment] = weakref.WeakSet()
"""The attachments that somebody still holds. What an attachment intercepts holds it."""


def detach(target: Any, /) -> bool:
    """Take off every policy that is attached to a pipeline or model, as `Attachment.detach` does: for a notebook
    in which the attachment was lost.

    >>> foreseer.detach(pipe)  # doctest: +SKIP
    True

    Args:
        target: The pipeline, or the model. Of a pipeline each of its modules is looked at, so that what was
            attached to ``pipe.transformer``, or to another pipeline with the same transformer, is detached too.

    Returns:
        Whether anything was attached. Where nothing was, nothing happens.

    Raises:
        ContractError: A run is under way in another thread. Nothing is detached. In this thread it is ended.
        UnsupportedModelError: This is neither a pipeline nor a model.
    """
    parts = [target] if isinstance(target, nn.Module) else _held(target)
    if not parts:
        raise UnsupportedModelError(f"cannot detach from a {type(target).__name__}: a diffusers pipeline or a torch.nn.Module is needed")
    found = [attached for attached in [*ALL] if any(attached.drives(part) for part in (target, *parts))]
    for attached in found:
        if attached.elsewhere:
            raise ContractError(f"another thread is inside of a run of policy {attached.spec}; wait until it has ended, then detach")
    for attached in found:
        attached.detach()
    return bool(found)


def _held(pipeline: Any) -> list[nn.Module]:
    components = pipeline if isinstance(pipeline, Mapping) else getattr(pipeline, "components", None)
    held = {**getattr(pipeline, "__dict__", {}), **(components if isinstance(components, Mapping) else {})}
    return [part for part in held.values() if isinstance(part, nn.Module)]
