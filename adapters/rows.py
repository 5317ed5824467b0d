"""Rows of a call's arguments and results: counting, taking a subset, and putting it back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.transfer import on_device

__all__ = [
    "Batch", "batch_of", "copies_in", "count_rows", "holds_state", "is_row_list", "latents_in_words", "latents_of", "merge_rows", "row_dimension",
    "select_rows", "take_rows",
]  # fmt: skip

_BATCH_FREE = re.compile(r"rope|rotary|freqs|(?<!input)(?<!segment)_ids$|^indices_|img_shapes|pos_embed|^transformer_options$")
"""Names of positions in diffusers' models: no batch dimension, unless they have three dimensions or more
(HiDream's ``img_ids``). ComfyUI's ``transformer_options`` say how a call is made: rows of one sample are
evaluated together, so that its chunks stay as many.
"""
_LAYERS_FIRST = ("encoder_hidden_states_llama3",)
"""Arguments with a dimension of layers in front of the batch (HiDream)."""
_STATE = re.compile(r"cache|past_key_values")


@attrs.frozen
class Batch:
    """How a call holds its rows.

    Attributes:
        rows: How many there are.
        listed: Dimensions of each of its latents where they are a list of one tensor for each row (Z-Image),
            else 0: lists of streams (video and audio) hold all rows in each entry.
    """

    rows: int
    listed: int = 0


def is_row_list(value: Any, rows: int, listed: int = 0) -> bool:
    """Whether something in a call of so many rows, or returned by it, is a list with one tensor for each; the
    one place where that is decided.

    A list as long as the rows are many is, but where each of its tensors is as long too: then it is several
    tensors that hold all rows (ControlNet residuals, video and audio), unless the call's latents are
    ``listed`` (see `Batch`) and these are shaped like such latents or like a text.
    """
    if not isinstance(value, list) or len(value) != rows or not all(isinstance(entry, Tensor) for entry in value):
        return False
    whole = all(entry.ndim and len(entry) == rows for entry in value)
    return not whole or (listed > 0 and all(entry.ndim in (2, listed) for entry in value))


def batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    """Return how a call holds its rows.

    They are the leading dimension of ``hidden_states`` or of the first tensor, or what a list of them holds.
    Where the text embedding and the timesteps both say otherwise and are not one for all rows, or where the
    tokens' ids have one dimension only, the call is one packed row (Cosmos 3).

    Raises:
        ContractError: There is no tensor with a batch dimension.
    """
    ids = kwargs.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 1:
        return Batch(1)
    stream = latents_of(args, kwargs)
    named = [found for name in ("encoder_hidden_states", "timestep") if (found := _lengths(kwargs.get(name)))]
    if isinstance(stream, (list, tuple)):
        return _batch_of_several(stream, [*named, *({len(v)} for v in args if isinstance(v, Tensor) and v.ndim == 1)], (*args, *kwargs.values()))
    if stream is None:
        raise ContractError("the model was called without a tensor that has a batch dimension")
    rows = len(stream)
    packed = len(named) == 2 and not any(rows in lengths for lengths in named)
    broadcast = stream.ndim > 2 and all(1 in lengths for lengths in named)
    return Batch(1 if packed and not broadcast else rows)


def count_rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Count the rows of a call; see `batch_of`."""
    return batch_of(args, kwargs).rows


def latents_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a model is called with: ``hidden_states``, or the first that may hold rows; None without."""
    return kwargs.get("hidden_states", next((v for v in (*args, *kwargs.values()) if _lengths(v)), None))


def latents_in_words(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Say what one row of a call's latents looks like, as `foreseer.Run.latent`; several are joined by +."""
    batch, found = batch_of(args, kwargs), list[str]()
    for tensor in tree_leaves(latents_of(args, kwargs)):
        if isinstance(tensor, Tensor):
            with_rows = not batch.listed and tensor.ndim and len(tensor) == batch.rows
            shape = "x".join(map(str, tensor.shape[1:] if with_rows else tensor.shape))
            found.append(f"{shape} {str(tensor.dtype).removeprefix('torch.')}")
    return " + ".join(dict.fromkeys(found) if batch.listed else found)


def _lengths(value: Any) -> set[int]:
    """How many rows a value may hold: of several tensors as many as there are, or as each has."""
    if isinstance(value, Tensor):
        return {len(value)} if value.ndim else set()
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(entry, Tensor) for entry in value):
        return set()
    fronts = {len(entry) if entry.ndim > 2 else 0 for entry in value}  # a text of one row has two dimensions
    return {len(value)} | (fronts if len(fronts) == 1 else set()) - {0}


def _batch_of_several(latents: Sequence[Any], others: Sequence[set[int]], given: Sequence[Any]) -> Batch:
    """Several latents are one tensor for each row, or several streams that each hold all rows. The other
    arguments tell, or else that streams differ.
    """
    many, fronts = len(latents), {len(entry) if entry.ndim else 0 for entry in latents}
    (front,) = fronts if len(fronts) == 1 else (0,)
    if front == many:  # both say so many rows: texts that lie in a list of as many, none of which holds all rows, lie there as the latents do
        streams = not any(_lengths(v) and is_row_list(v, many, 2) for v in given if v is not latents)
    elif any(front in lengths for lengths in others):
        streams = front > 0
    else:
        streams = front > 0 and not any(many in lengths for lengths in others) and len({entry.shape for entry in latents}) > 1
    return Batch(front) if streams else Batch(many, latents[0].ndim)


def copies_in(args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int) -> int:
    """How many times the batch holds each sample: 2 where a pipeline concatenates its latents with themselves
    for guidance, 1 where it does not.

    The latents are compared, which is one device sync. Samples that were started from equal noise look like
    copies too: they then share one fate, which is safe.
    """
    stream, batch = latents_of(args, kwargs), batch_of(args, kwargs)
    if rows != batch.rows or rows not in _lengths(stream):
        return 1
    for copies in (4, 3, 2):  # guidance with several perturbed branches first: four equal parts are two equal halves too
        if rows % copies:
            continue
        size = rows // copies
        parts = [tree_leaves(take_rows(stream, range(i * size, (i + 1) * size), rows, listed=batch.listed)) for i in range(copies)]
        if all(torch.equal(a, b) for part in parts[1:] for a, b in zip(parts[0], part, strict=True)):
            return copies
    return 1


def holds_state(name: str, value: Any) -> bool:
    """Whether an argument holds what a call may write to: rows on their own would leave their own in it."""
    return value is not None and _STATE.search(name) is not None


def row_dimension(tensor: Tensor, total: int, name: str = "") -> int | None:
    """Return which dimension of an argument of that name holds the rows of a call; None where it is for all."""
    if _BATCH_FREE.search(name) and tensor.ndim < 3:
        return None
    if name in _LAYERS_FIRST and tensor.ndim > 2 and tensor.shape[1] == total:
        return 1
    return 0 if tensor.ndim and len(tensor) == total else None


def take_rows(value: Any, rows: Sequence[int], total: int, *, listed: int = 0, name: str = "") -> Any:
    """Return the given rows of everything in ``value`` that has ``total`` of them: tensors, and lists of
    tensors (see `is_row_list`) or of lists.

    Raises:
        UnsupportedModelError: ``value`` holds state, which an evaluation of some rows would spoil for the
            others.
    """
    if holds_state(name, value):
        raise UnsupportedModelError(f"{name} holds the state of all rows")
    if isinstance(value, Tensor):
        dim = row_dimension(value, total, name)
        return value if dim is None else value[(slice(None),) * dim + (on_device(rows, value.device),)]
    if _BATCH_FREE.search(name):
        return type(value)(take_rows(entry, rows, total, listed=listed, name=name) for entry in value) if type(value) in (list, tuple) else value
    if isinstance(value, dict):
        shared = ("timestep",) if value.get("timestep_indices") is not None else ()  # the distinct times of a packed sequence (MiniMax-H3)
        return {key: entry if key in shared else take_rows(entry, rows, total, listed=listed, name=str(key)) for key, entry in value.items()}
    if is_row_list(value, total, listed):
        return [value[row] for row in rows]
    if isinstance(value, list) and len(value) == total and all(isinstance(entry, list) for entry in value):  # what each row is made of (JoyImage)
        return [value[row] for row in rows]
    if type(value) in (list, tuple):
        return type(value)(take_rows(entry, rows, total, listed=listed) for entry in value)
    return value


def merge_rows(output: Any, rows: Sequence[int], part: Any, batch: Batch) -> Any:
    """Return ``output`` with its rows ``rows`` replaced by ``part``; tensors are copied, structures rebuilt.
    Raises `ContractError` on an unknown one.
    """
    if isinstance(output, Tensor):
        merged = output.clone()
        merged[on_device(rows, output.device)] = part
        return merged
    if is_row_list(output, batch.rows, batch.listed):
        merged_list = list(output)
        for row, entry in zip(rows, part, strict=True):
            merged_list[row] = entry
        return merged_list
    if isinstance(output, Mapping):  # diffusers' output classes are ordered dictionaries with fields
        return type(output)(**{key: merge_rows(output[key], rows, part[key], batch) for key in output})
    if type(output) in (list, tuple):
        return type(output)(merge_rows(o, rows, p, batch) for o, p in zip(output, part, strict=True))
    if output is None:
        return None
    raise ContractError(f"the model returned a {type(output).__name__}, whose rows cannot be put together; decide for the whole batch instead")


def select_rows(output: Any, rows: Sequence[int], batch: Batch) -> Any:
    """Return these rows of a call's output, in this order; structures are rebuilt. Raises `ContractError` on
    an unknown one.
    """
    if isinstance(output, Tensor):
        return output.reshape(batch.rows, -1, *output.shape[1:])[on_device(rows, output.device)].reshape(-1, *output.shape[1:])
    if is_row_list(output, batch.rows, batch.listed):
        return [output[row] for row in rows]
    if isinstance(output, Mapping):
        return type(output)(**{key: select_rows(output[key], rows, batch) for key in output})
    if type(output) in (list, tuple):
        return type(output)(select_rows(entry, rows, batch) for entry in output)
    if output is None:
        return None
    raise ContractError(f"the model returned a {type(output).__name__}, whose rows cannot be taken apart; decide for the whole batch instead")
