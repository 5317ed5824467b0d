"""What can be seen in front of a model's first block: its input, and what block 0 is given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from foreseer.adapters.arguments import named_arguments, stream_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.rows import Batch, latents_of
from foreseer.errors import ContractError
from foreseer.types import LATENT, MODULATED, STREAM, TIME, Site

__all__ = ["Witness", "front_of", "latent_of", "places_before"]

TIMES = ("temb", "timestep_proj", "adaln_input", "embedded_timestep", "time_emb", "t_emb", "vec", "emb")
"""What blocks of diffusers' models call the time embedding."""


def places_before(block: nn.Module) -> tuple[Site, ...]:
    """Return the places in front of a model whose first block this is, as far as its signature tells."""
    given = inspect.signature(type(block).forward).parameters
    time = (TIME,) if any(name in given for name in TIMES) else ()
    return (LATENT, *time, STREAM, *((MODULATED,) if _modulation(block, given) else ()))


def _modulation(block: nn.Module, given: Collection[str]) -> tuple[nn.Module, dict[str, str]] | None:
    """Return a block's first norm and, by the name of each of its parameters, which argument of the block it
    takes; None where no embedding reaches it, or something else does.
    """
    norm = next((child for name, child in block.named_children() if "norm" in name), None)
    if norm is None:
        return None
    time, taken = next((time for time in TIMES if time in given), None), {}
    for name, parameter in list(inspect.signature(type(norm).forward).parameters.items())[2:]:
        source = name if name in given else time if name in ("emb", "temb", "conditioning_embedding") else None
        if source is not None:
            taken[name] = source
        elif parameter.default is parameter.empty:
            return None
    return (norm, taken) if taken else None


def latent_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Batch) -> Tensor:
    """Return the latent that a model is called with, ``(R, ...)``."""
    return Layout.of(latents_of(args, kwargs), batch.rows, listed=batch.listed, what="the latent").pack(latents_of(args, kwargs))


def front_of(place: Site, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, *, second: bool) -> Tensor:
    """Return what lies at a place in front of block 0, ``(R, ...)``.

    Args:
        place: `TIME`, `STREAM` or `MODULATED`.
        block: Block 0.
        args: Of its call.
        kwargs: Likewise.
        rows: Rows of the call, R.
        second: Whether its streams have their rows in the second dimension.

    Raises:
        ContractError: It is not there.
        UnsupportedModelError: It has other rows.
    """
    named, stream = named_arguments(block, args, kwargs), stream_of(block, args, kwargs)
    found = next((named[name] for name in TIMES if isinstance(named.get(name), Tensor)), None) if place == TIME else stream
    if place == MODULATED and stream is not None and (modulation := _modulation(block, inspect.signature(type(block).forward).parameters)):
        norm, taken = modulation
        dtype = {"hidden_dtype": stream.dtype} if "hidden_dtype" in inspect.signature(type(norm).forward).parameters else {}
        try:
            found = tree_leaves(norm(stream, **{name: named[source] for name, source in taken.items() if source in named}, **dtype))[0]
        except (RuntimeError, TypeError) as error:
            raise ContractError(f"what {type(block).__name__} gives its first norm is made inside of it; choose another signal ({error})") from error
    if not isinstance(found, Tensor) or not torch.is_floating_point(found):
        raise ContractError(f"{type(block).__name__} is given no {place}; choose a policy that looks elsewhere")
    return Layout.of(found, rows, second=second, what=f"the {place} of {type(block).__name__}").pack(found)


class Witness:
    """Sees what a block's first norm returns while the block runs, to hold the modulated input against it;
    leaving raises `ContractError` where they differ.

    Args:
        block: Block 0.
        expected: What was made of the same input outside of it, ``(R, ...)``.
    """

    def __init__(self, block: nn.Module, expected: Tensor) -> None:
        self._block, self._expected, self._same = block, expected, False

    def __enter__(self) -> None:
        modulation = _modulation(self._block, inspect.signature(type(self._block).forward).parameters)
        assert modulation is not None
        self._hook = modulation[0].register_forward_hook(self._look)

    def _look(self, module: nn.Module, args: Any, output: Any) -> None:
        made = tree_leaves(output)[0]
        self._same |= made.numel() == self._expected.numel() and torch.equal(made.reshape(-1), self._expected.reshape(-1))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._hook.remove()
        if kind is None and not self._same:
            name = type(self._block).__name__
            raise ContractError(f"what {name} gives its first norm is made inside of it; choose another signal")
