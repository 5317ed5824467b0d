"""Laws of whether a model is still what it was: what does the same is the same, whichever object does it."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from foreseer.adapters.likeness import Likeness


class Scale:
    """A hook that is an object."""

    def __init__(self, by: float, seen: list[Any]) -> None:
        self.by, self.seen, self.itself = by, seen, self

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * self.by

    def method(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * self.by


def scaled(by: float, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output * by


def closed(by: float) -> Callable[..., Any]:
    return lambda module, args, output: output * by


def knows_itself(block: nn.Module, by: float) -> Any:
    handle = block.register_forward_hook(lambda module, args, output: (handle, output * by)[1])
    return handle


SEEN: list[Any] = []
HOOKS: dict[str, Callable[[nn.Module, float], Any]] = {
    "closure": lambda block, by: block.register_forward_hook(closed(by)),
    "default": lambda block, by: block.register_forward_hook(lambda module, args, output, by=by: output * by),
    "partial": lambda block, by: block.register_forward_hook(functools.partial(scaled, by)),
    "object": lambda block, by: block.register_forward_hook(Scale(by, SEEN)),
    "method": lambda block, by: block.register_forward_hook(Scale(by, SEEN).method),
    "tensor": lambda block, by: block.register_forward_hook(closed(TENSORS[by])),
    "its own handle": knows_itself,
}
TENSORS: Any = {0.5: torch.tensor(0.5), 0.25: torch.tensor(0.5)}


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_registered_anew_is_the_same_where_it_does_the_same(kind: str) -> None:
    """Law: for functions by code, defaults and closures, for objects by what they hold, for tensors by which they are."""
    net = model()
    block: Any = net[0]
    handle = HOOKS[kind](block, 0.5)
    likeness = Likeness(net)
    handle.remove()
    assert likeness.lost
    handle = HOOKS[kind](block, 0.5)
    assert not likeness.lost
    handle.remove()
    handle = HOOKS[kind](block, 0.25)
    assert likeness.lost
    handle.remove()
    HOOKS[kind](net[1], 0.5)
    assert likeness.lost, "on another block"


def test_hooks_of_the_model_itself_count() -> None:
    """Law: what they do to a call is part of what is forecast."""
    net = model()
    likeness = Likeness(net)
    handle = net.register_forward_pre_hook(lambda module, args: None)
    assert likeness.lost
    handle.remove()
    assert not likeness.lost


def test_the_order_of_hooks_and_another_module_tell() -> None:
    """Law: two hooks are not the same the other way round, and modules are told apart by which they are."""
    net = model()
    block: Any = net[0]
    one, other = closed(0.5), lambda module, args, output: output + 1
    handles = [block.register_forward_hook(each) for each in (one, other)]
    likeness = Likeness(net)
    for handle in handles:
        handle.remove()
    for each in (other, one):
        block.register_forward_hook(each)
    assert likeness.lost
    likeness = Likeness(net)
    net._modules["1"] = nn.Linear(2, 2)
    assert likeness.lost


def test_a_hook_that_holds_the_world_is_told_apart_in_time() -> None:
    """Law: things without end are not looked through to their end; what is not looked into is the same only as one thing."""
    net = model()
    block: Any = net[0]

    def chain() -> Callable[..., Any]:
        rows: list[Any] = [[[float(i)] for i in range(5000)]]
        rows.append(rows)
        return lambda module, args, output: (rows, output)[1]

    handle = block.register_forward_hook(chain())
    likeness = Likeness(net)
    handle.remove()
    block.register_forward_hook(chain())
    assert likeness.lost
