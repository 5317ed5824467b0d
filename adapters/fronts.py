"""What can be seen in front of a model's first block: its input, and what block 0 is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.adapters.arguments import named_arguments, stream_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.rows import Batch, latents_of
from foreseer.errors import UnsupportedModelError
from foreseer.types import LATENT, MODULATED, STREAM, TIME, Site

__all__ = ["front_of", "latent_of", "places_before"]

TIMES = ("temb", "timestep_proj", "adaln_input", "embedded_timestep", "time_emb", "t_emb", "vec", "emb")
"""What blocks of diffusers' models call the time embedding."""


def places_before(block: nn.Module) -> tuple[Site, ...]:
    """Return the places in front of a model whose first block this is, as far as its signature tells."""
    given = inspect.signature(type(block).forward).parameters
    time = (TIME,) if any(name in given for name in TIMES) else ()
    return (LATENT, *time, STREAM, *((MODULATED,) if _modulation(block, given) else ()))


def _modulation(block: nn.Module, given: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]] | None:
    """Return a block's first norm and, by the name of each of its parameters, which argument of the block it
    takes; None where no embedding reaches it.
    """
    norm = next((child for name, child in block.named_children() if "norm" in name), None)
    if norm is None:
        return None
    taken = {}
    for name in list(inspect.signature(type(norm).forward).parameters)[2:]:
        source = name if name in given else next((time for time in TIMES if time in given), None) if name in ("emb", "temb", "conditioning_embedding") else None
        if source is not None:
            taken[name] = source
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
        UnsupportedModelError: It is not there, or has other rows.
    """
    named, stream = named_arguments(block, args, kwargs), stream_of(block, args, kwargs)
    found = stream
    if place == TIME:
        found = next((named[name] for name in TIMES if isinstance(named.get(name), Tensor)), None)
    modulation = _modulation(block, inspect.signature(type(block).forward).parameters)
    if place == MODULATED and stream is not None and modulation is not None:
        norm, taken = modulation
        dtype = {"hidden_dtype": stream.dtype} if "hidden_dtype" in inspect.signature(type(norm).forward).parameters else {}
        made = norm(stream, **{name: named[source] for name, source in taken.items() if source in named}, **dtype)
        found = made if isinstance(made, Tensor) else made[0]
    if not isinstance(found, Tensor) or not torch.is_floating_point(found):
        raise UnsupportedModelError(f"{type(block).__name__} is given no {place}; choose a policy that looks elsewhere")
    return Layout.of(found, rows, second=second, what=f"the {place} of {type(block).__name__}").pack(found)
