"""Rows of a call's arguments and results: counting, taking a subset, and putting it back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.transfer import on_device

__all__ = ["copies_in", "count_rows", "groups_of", "merge_rows", "select_rows", "take_rows"]

_BATCH_FREE = re.compile(r"rope|rotary|freqs|(?<!input)(?<!segment)_ids$|^indices_|img_shapes|pos_embed")
"""Names of positions in diffusers' models: no batch dimension, unless they have three dimensions or more (HiDream's ``img_ids``)."""
_LAYERS_FIRST = ("encoder_hidden_states_llama3",)
"""Arguments with a dimension of layers in front of the batch (HiDream)."""
_STATE = re.compile(r"cache|past_key_values")
"""Names of what a call may write to. Rows on their own would leave their own in it."""
_ROW_LISTS = ("", "x", "cap_feats", "hidden_states")
"""Where a list of tensors is one tensor for each row (Z-Image); elsewhere it is several tensors that each hold all rows (ControlNet residuals)."""


LABELS = "write whole numbers, one per row, equal for rows of one sample"


def count_rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Count the rows of a call.

    The leading dimension of ``hidden_states`` or of the first tensor; of a leading list, see `_rows_of_list`. Where the text
    embedding and the timesteps both say otherwise, or where the tokens' ids have one dimension only, the call is one packed
    row (Cosmos 3).

    Raises:
        ContractError: There is no tensor with a batch dimension.
    """
    ids = kwargs.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 1:
        return 1
    stream = kwargs.get("hidden_states", next((v for v in (*args, *kwargs.values()) if _length(v)), None))
    others = [_length(kwargs[name]) for name in ("encoder_hidden_states", "timestep") if _length(kwargs.get(name))]
    rows = _rows_of_list(stream, others) if isinstance(stream, list) else _length(stream)
    if not rows:
        raise ContractError("the model was called without a tensor that has a batch dimension")
    return 1 if len(others) == 2 and rows not in others else rows


def _length(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else 0
    return len(value) if isinstance(value, list) and value and all(isinstance(entry, Tensor) for entry in value) else 0


def _rows_of_list(latents: list[Any], others: Sequence[int]) -> int:
    """A list of latents has one tensor for each row (Z-Image), or is several streams (video and audio) that each hold all rows."""
    fronts = {entry.shape[0] if entry.ndim else 0 for entry in latents if isinstance(entry, Tensor)}
    if len(fronts) != 1:
        return _length(latents)
    (front,) = fronts
    alike = len({entry.shape for entry in latents}) == 1
    return front if (front in others if others else not alike) else _length(latents)


def copies_in(args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int) -> int:
    """How many times the batch holds each sample: 2 where a pipeline concatenates its latents with themselves for guidance, 1 where it does not.

    The latents are compared, which is one device sync. Samples that were started from equal noise look like copies too: they
    then share one fate, which is safe.
    """
    stream = kwargs.get("hidden_states", next((v for v in (*args, *kwargs.values()) if _length(v)), None))
    if stream is None or _length(stream) != rows:
        return 1
    for copies in (4, 3, 2):  # guidance with several perturbed branches first: four equal parts are two equal halves too
        if rows % copies:
            continue
        size = rows // copies
        parts = [stream[i * size : (i + 1) * size] for i in range(copies)]
        if all(_equal(parts[0], part) for part in parts[1:]):
            return copies
    return 1


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def take_rows(value: Any, rows: Sequence[int], total: int, *, name: str = "") -> Any:
    """Return the given rows of everything in ``value`` that has ``total`` of them: tensors, and lists of tensors or of lists of that length.

    Raises:
        UnsupportedModelError: ``value`` holds state, which an evaluation of some rows would spoil for the others.
    """
    if _STATE.search(name) and value is not None:
        raise UnsupportedModelError(f"{name} holds the state of all rows")
    if _BATCH_FREE.search(name) and not (isinstance(value, Tensor) and value.ndim >= 3):
        return type(value)(take_rows(entry, rows, total, name=name) for entry in value) if type(value) in (list, tuple) else value
    if isinstance(value, Tensor) and name in _LAYERS_FIRST and value.ndim > 2 and value.shape[1] == total:
        return value[:, on_device(rows, value.device)]
    if isinstance(value, Tensor):
        return value[on_device(rows, value.device)] if value.ndim and value.shape[0] == total else value
    if isinstance(value, dict):
        shared = ("timestep",) if value.get("timestep_indices") is not None else ()  # the distinct times of a packed sequence (MiniMax-H3)
        return {key: entry if key in shared else take_rows(entry, rows, total, name=str(key)) for key, entry in value.items()}
    whole = isinstance(value, list) and all(isinstance(entry, Tensor) and entry.ndim and len(entry) == total for entry in value)
    if isinstance(value, list) and len(value) == total and all(isinstance(entry, Tensor) for entry in value) and not (whole and name not in _ROW_LISTS):
        return [value[row] for row in rows]
    if isinstance(value, list) and len(value) == total and all(isinstance(entry, list) for entry in value):  # what each row is made of (JoyImage)
        return [value[row] for row in rows]
    if type(value) in (list, tuple):
        return type(value)(take_rows(entry, rows, total) for entry in value)
    return value


def merge_rows(output: Any, rows: Sequence[int], part: Any) -> Any:
    """Return ``output`` with its rows ``rows`` replaced by ``part``; tensors are copied, structures rebuilt. Raises `ContractError` on an unknown one."""
    if isinstance(output, Tensor):
        merged = output.clone()
        merged[on_device(rows, output.device)] = part
        return merged
    if isinstance(output, list) and len(output) != len(part) and all(isinstance(entry, Tensor) for entry in output):  # one tensor for each row
        merged_list = list(output)
        for row, entry in zip(rows, part, strict=True):
            merged_list[row] = entry
        return merged_list
    if isinstance(output, Mapping):  # diffusers' output classes are ordered dictionaries with fields
        return type(output)(**{key: merge_rows(output[key], rows, part[key]) for key in output})
    if type(output) in (list, tuple):
        return type(output)(merge_rows(o, rows, p) for o, p in zip(output, part, strict=True))
    if output is None:
        return None
    raise ContractError(f"the model returned a {type(output).__name__}, whose rows cannot be put together; decide for the whole batch instead")


def select_rows(output: Any, rows: Sequence[int], total: int) -> Any:
    """Return these rows of an output of ``total`` rows, in this order; structures are rebuilt. Raises `ContractError` on an unknown one."""
    if isinstance(output, Tensor):
        return output.reshape(total, -1, *output.shape[1:])[on_device(rows, output.device)].reshape(-1, *output.shape[1:])
    if isinstance(output, list) and len(output) == total and all(isinstance(entry, Tensor) for entry in output):  # one tensor for each row
        return [output[row] for row in rows]
    if isinstance(output, Mapping):
        return type(output)(**{key: select_rows(output[key], rows, total) for key in output})
    if type(output) in (list, tuple):
        return type(output)(select_rows(entry, rows, total) for entry in output)
    if output is None:
        return None
    raise ContractError(f"the model returned a {type(output).__name__}, whose rows cannot be taken apart; decide for the whole batch instead")


def groups_of(given: Sequence[int] | int | None, rows: int) -> tuple[int, ...]:
    """Return ``(R,)`` which sample each row of a call belongs to.

    Args:
        given: Labels of the rows; or the number of samples, B, where row r belongs to sample r mod B; None where every row is a sample.
        rows: Rows of the call, R.

    Raises:
        ContractError: They do not fit.
    """
    if given is None:
        return tuple(range(rows))
    given = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(given, (bool, str)) or not isinstance(given, (Integral, Iterable)):
        raise ContractError(f"groups={given!r} says no samples; {LABELS}, or the number of samples, or None where each row is one")
    if isinstance(given, Integral):
        if given < 1 or rows % given:
            raise ContractError(f"groups={given} samples do not divide the {rows} rows of the call")
        return tuple(row % int(given) for row in range(rows))
    labels = list(given)
    if len(labels) != rows:
        raise ContractError(f"groups has {len(labels)} labels for the {rows} rows of the call; give one per row, or the number of samples")
    wrong = [label for label in labels if not isinstance(label, Real) or not float(label).is_integer()]
    if wrong:
        raise ContractError(f"groups has the label {wrong[0]!r}; {LABELS}")
    return tuple(int(label) for label in labels)
