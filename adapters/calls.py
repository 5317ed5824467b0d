"""Intercepting calls of a module, without touching its forward or its class.

`torch.nn.Module.__call__` first looks at `_compiled_call_impl` (that is where `module.compile()` puts the
compiled call). Setting it on the instance puts our function outside torch.compile, outside torch's forward
hooks and outside the wrappers of accelerate and diffusers, whatever the order in which they came. The
attribute is private to torch, so this file checks on import that it works and falls back to the instance's
`forward`.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from foreseer.errors import ContractError

__all__ = ["ATTRIBUTE", "Call", "Interception", "intercept", "is_compiled", "is_hooked", "own_forward"]


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


ATTRIBUTE = _probe_attribute()


def _dynamo_is_at_work() -> bool:
    """Whether torch.compile is looking at the frames that run now."""
    callback = getattr(sys.modules.get("torch._C._dynamo.eval_frame"), "get_eval_frame_callback", None)
    return callback is not None and callable(callback())


class Interception:
    """One of those who take part in a module's calls. When the last of them has left, exactly what was there
    is put back, in whatever order they leave.
    """

    def __init__(self, module: nn.Module, around: Around) -> None:
        self.module, self._around = module, around
        self._call = _stand_in(module)
        self._call.arounds.append(around)

    @property
    def intact(self) -> bool:
        """Whether calls still come here. ``module.compile()`` after attaching would have replaced the
        interception.
        """
        return self._stands() and self._around in self._call.arounds

    def restore(self) -> None:
        """Take no part any more. What something else has put in our place since stays there."""
        if self._around in self._call.arounds:
            self._call.arounds.remove(self._around)
        if self._call.arounds or not self._stands():
            return
        if self._call.before is _ABSENT:
            object.__delattr__(self.module, ATTRIBUTE)
        else:
            object.__setattr__(self.module, ATTRIBUTE, self._call.before)

    def _stands(self) -> bool:
        return self.module.__dict__.get(ATTRIBUTE) is self._call


def _stand_in(module: nn.Module) -> Any:
    """Return what stands in the place of a module's call and goes through its ``arounds``, the last to come
    first.
    """
    before: Any = module.__dict__.get(ATTRIBUTE, _ABSENT)
    if before in _ours:
        return before
    plain = module._call_impl if ATTRIBUTE == "_compiled_call_impl" else module.forward
    innermost = before if callable(before) else plain
    arounds: list[Around] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if _dynamo_is_at_work():
            raise ContractError(
                f"this {type(module).__name__} is called through torch.compile while a policy is attached to it, which would compile foreseer too: "
                "attach to what torch.compile returned, or compile the blocks (compile_repeated_blocks) before attaching"
            )
        inner = innermost
        for around in tuple(arounds):
            inner = functools.partial(_led, around, inner)
        return inner(*args, **kwargs)

    made: Any = call
    made._torchdynamo_disable = True  # called, and not traced
    made.arounds, made.before = arounds, before
    _ours.add(call)
    object.__setattr__(module, ATTRIBUTE, call)
    return call


def _led(around: Around, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return around(inner, args, kwargs)


_ABSENT = object()
_ours: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def intercept(module: nn.Module, around: Around) -> Interception:
    """Route calls of ``module`` through ``around(inner, args, kwargs)`` until `Interception.restore`."""
    return Interception(module, around)


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of a module go through torch.compile: ``module.compile()``, or the wrapper that
    ``torch.compile(module)`` returns.
    """
    own = module.__dict__.get("_compiled_call_impl")
    return (callable(own) and own not in _ours) or type(module).__name__ == "OptimizedModule"


def own_forward(module: nn.Module) -> Any:
    """The `forward` that somebody has put on this very module, as accelerate's and diffusers' hooks do; None
    where nobody has.
    """
    own = module.__dict__.get("forward")
    return None if own is None or own in _ours else own


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody takes part in a module's calls: by torch's forward hooks, or by a `forward` of the
    instance.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks) or own_forward(module) is not None
