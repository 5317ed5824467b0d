"""Which models cannot be driven now, and which are driven already."""

from __future__ import annotations

import re
import weakref
from typing import Any

from torch import nn

from foreseer.errors import ContractError, OptionError, UnsupportedModelError
from foreseer.storage import Storage

__all__ = ["mark", "refuse", "refuse_cache", "refuse_options", "refuse_unreachable", "unmark"]

_attached: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def refuse(model: nn.Module, *, attached: bool = False) -> None:
    """Raise if a model cannot be driven: a cache of diffusers is enabled, or somebody is attached to it
    (unless that is who asks, ``attached``).
    """
    if model in _attached and not attached:
        raise ContractError(
            f"this {type(model).__name__} has policy {_attached[model]} attached already; detach it first: leave its `with`, or call its detach(), or "
            "foreseer.detach(...) with this pipeline or model if you have lost it. Pipelines that share a model share its policy"
        )
    refuse_cache(model)
    for path, module in model.named_modules():
        hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
        if caching := next((name for name in hooks if re.search("cache|fbc|broadcast", name)), ""):
            raise UnsupportedModelError(
                f"a cache of diffusers is applied to {path or 'the whole'} of this {type(model).__name__} by the hook {caching!r}; take it off first, "
                "or build the model anew"
            )


def refuse_cache(model: nn.Module) -> None:
    """Raise `UnsupportedModelError` if a cache of diffusers is enabled on a model, by its ``enable_cache``."""
    # asked of the class first: a module looks long for an attribute that it does not have
    if getattr(type(model), "is_cache_enabled", None) is not None and model.is_cache_enabled:
        raise UnsupportedModelError(f"a diffusers cache is enabled on this {type(model).__name__}; call its disable_cache() first")


def refuse_unreachable(pipeline: Any, name: str, model: nn.Module, *, intact: bool) -> None:
    """Raise `ContractError` if calls of a denoiser no longer arrive at who drives it: ``intact`` says whether
    nobody has put anything around it or its blocks. ``pipeline`` is None for a bare model.
    """
    if not intact:
        raise ContractError("the model was compiled or wrapped after foreseer was attached, so its calls no longer arrive; compile first, attach last")
    if pipeline is not None and getattr(pipeline, name) is not model:
        raise ContractError(
            f"the pipeline's {name} was exchanged or compiled after foreseer was attached, so its calls no longer arrive; compile first, attach last"
        )


def refuse_options(on_error: object, storage: object) -> None:
    """Raise `OptionError` for what is no way to meet errors of a policy, or no storage."""
    if on_error not in ("raise", "compute"):
        raise OptionError(f"on_error={on_error!r} is unknown; write 'raise' or 'compute'")
    if storage is not None and not isinstance(storage, Storage):
        raise OptionError(f"storage={storage!r} is a {type(storage).__name__}; write foreseer.Storage(dtype=..., device=..., max_bytes=...), or None")


def mark(model: nn.Module, policy: str) -> None:
    """Note that a policy is attached to a model."""
    _attached[model] = policy


def unmark(model: nn.Module) -> None:
    """Note that none is any more."""
    _attached.pop(model, None)
