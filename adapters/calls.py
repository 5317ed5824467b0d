"""Intercepting calls of a module, without touching its forward or its class.

`torch.nn.Module.__call__` first looks at `_compiled_call_impl` (that is where `module.compile()` puts the compiled
call). Setting it on the instance puts our function outside torch.compile, outside torch's forward hooks and outside
the wrappers of accelerate and diffusers, whatever the order in which they came. The attribute is private to torch, so
this file checks on import that it works and falls back to the instance's `forward`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from foreseer.errors import ContractError

__all__ = ["Call", "Interception", "intercept", "is_compiled", "is_hooked", "own_forward"]


class Call(NamedTuple):
    """The arguments of one evaluation, and what to call with them."""

    inner: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _probe_attribute() -> str:
    module = nn.Identity()
    module._compiled_call_impl = lambda *args, **kwargs: "seen"
    return "_compiled_call_impl" if module(torch.zeros(())) == "seen" else "forward"


_ATTRIBUTE = _probe_attribute()


def _dynamo_is_at_work() -> bool:
    """Whether torch.compile is looking at the frames that run now."""
    callback = getattr(sys.modules.get("torch._C._dynamo.eval_frame"), "get_eval_frame_callback", None)
    return callback is not None and callable(callback())


class Interception:
    """One intercepted module. `restore` puts back exactly what was there."""

    def __init__(self, module: nn.Module, around: Around) -> None:
        self.module = module
        self._before = module.__dict__.get(_ATTRIBUTE, _ABSENT)
        plain = module._call_impl if _ATTRIBUTE == "_compiled_call_impl" else module.forward
        inner = self._before if callable(self._before) else plain

        def call(*args: Any, **kwargs: Any) -> Any:
            if _dynamo_is_at_work():
                raise ContractError(
                    f"this {type(module).__name__} is called through torch.compile while a policy is attached to it, which would compile foreseer too: "
                    "attach to what torch.compile returned, or compile the blocks (compile_repeated_blocks) before attaching"
                )
            return around(inner, args, kwargs)

        call._torchdynamo_disable = True  # type: ignore[attr-defined]  # called, and not traced
        _ours.add(call)
        self._call = call
        object.__setattr__(module, _ATTRIBUTE, call)

    @property
    def intact(self) -> bool:
        """Whether calls still come here. ``module.compile()`` after attaching would have replaced the interception."""
        return self.module.__dict__.get(_ATTRIBUTE) is self._call

    def restore(self) -> None:
        """Undo the interception; does nothing where something else has replaced it since."""
        if not self.intact:
            return
        if self._before is _ABSENT:
            object.__delattr__(self.module, _ATTRIBUTE)
        else:
            object.__setattr__(self.module, _ATTRIBUTE, self._before)


_ABSENT = object()
_ours: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def intercept(module: nn.Module, around: Around) -> Interception:
    """Route calls of ``module`` through ``around(inner, args, kwargs)`` until `Interception.restore`."""
    return Interception(module, around)


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of a module go through torch.compile: ``module.compile()``, or the wrapper that ``torch.compile(module)`` returns."""
    own = module.__dict__.get("_compiled_call_impl")
    return (callable(own) and own not in _ours) or type(module).__name__ == "OptimizedModule"


def own_forward(module: nn.Module) -> Any:
    """The `forward` that somebody has put on this very module, as accelerate's and diffusers' hooks do; None where nobody has."""
    own = module.__dict__.get("forward")
    return None if own in _ours else own


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody takes part in a module's calls: by torch's forward hooks, or by a `forward` of the instance."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or own_forward(module) is not None
