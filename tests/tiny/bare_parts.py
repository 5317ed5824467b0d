"""What the directly called transformers share: the `Bare` record and inputs that change smoothly from step to step."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .common import accepted, drawn, model

FIRST = 0.9
"""The noise level of step 0, in [0, 1]; each step takes 0.1 off."""


@attrs.frozen
class Bare:
    """One transformer class in miniature, and the calls of a sampling loop."""

    name: str
    """The class's name, or "Class:variant"."""
    build: Callable[[], nn.Module]
    """A new model, with equal weights at each call."""
    inputs: Callable[[int, int], dict[str, Any]]
    """`inputs(step, batch)`: the keyword arguments of the call of that step, equal for equal arguments and smooth in the step."""
    notes: str = ""
    """What is odd about this class."""

    @property
    def cls(self) -> str:
        """The class's name."""
        return self.name.partition(":")[0]


def bare(
    name: str,
    inputs: Callable[[int, int], dict[str, Any]],
    *,
    prepare: Callable[[Any], None] = lambda model: None,
    notes: str = "",
    **config: Any,
) -> Bare:
    """A `Bare` from its model's config; `prepare` does what else a new model needs."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            built = model(name.partition(":")[0], **config)
            prepare(built)
            return built

    return Bare(name, build, inputs, notes)


@contextmanager
def quiet() -> Iterator[None]:
    """Let the warnings pass that these models give whatever they are given; every other warning stays as it is."""
    with warnings.catch_warnings(), accepted():
        for message in ("flex_attention called without torch.compile", "`Transformer2DModelOutput` is deprecated"):
            warnings.filterwarnings("ignore", message=message)
        yield


def fixed(text: str, batch: int, *shape: int) -> Tensor:
    """``(batch, *shape)``: what does not change from step to step; row i is the same in every batch."""
    return torch.stack([drawn(f"{text} {row}", *shape) for row in range(batch)])


def moving(text: str, step: int, batch: int, *shape: int) -> Tensor:
    """``(batch, *shape)``: latents on their way, along a straight line."""
    return fixed(text, batch, *shape) + 0.05 * step * fixed(f"{text}, slope", batch, *shape)


def noise(step: int, batch: int, scale: float = 1.0) -> Tensor:
    """``(batch,)``: the timestep, which falls."""
    return torch.full((batch,), scale * (FIRST - 0.1 * step))


def clock(step: int, batch: int, scale: float = 1.0) -> Tensor:
    """``(batch,)``: the timestep of models in which noise is 0 and data is 1."""
    return torch.full((batch,), scale * (1 - FIRST + 0.1 * step))


def grid(*sides: int) -> Tensor:
    """``(tokens, axes)``: the positions of a grid."""
    return torch.cartesian_prod(*(torch.arange(side) for side in sides)).reshape(-1, len(sides))
