"""Rows of a call's arguments and results: counting, taking a subset, and putting it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foreseer.errors import ContractError

__all__ = ["count_rows", "merge_rows", "take_rows"]

_BATCH_FREE = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "img_shapes", "freqs_cis", "rotary_emb"})
"""Arguments of diffusers' models that have no batch dimension, whatever their shape."""


def count_rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Leading dimension of the first tensor with one, positional arguments first. Raises `ContractError` if there is none."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim > 0:
            return value.shape[0]
    raise ContractError("the model was called without a tensor that has a batch dimension")


def take_rows(value: Any, rows: Sequence[int], total: int, *, name: str = "") -> Any:
    """Return the given rows of everything in ``value`` that has ``total`` of them: tensors, and lists of tensors of that length."""
    if name in _BATCH_FREE:
        return value
    if isinstance(value, Tensor):
        return value[torch.tensor(rows, device=value.device)] if value.ndim and value.shape[0] == total else value
    if isinstance(value, dict):
        return {key: take_rows(entry, rows, total, name=str(key)) for key, entry in value.items()}
    if isinstance(value, list) and len(value) == total and all(isinstance(entry, Tensor) for entry in value):
        return [value[row] for row in rows]
    if type(value) in (list, tuple):
        return type(value)(take_rows(entry, rows, total) for entry in value)
    return value


def merge_rows(output: Any, rows: Sequence[int], part: Any) -> Any:
    """Return ``output`` with its rows ``rows`` replaced by ``part``; tensors are copied, structures rebuilt. Raises `ContractError` on an unknown one."""
    if isinstance(output, Tensor):
        merged = output.clone()
        merged[torch.tensor(rows, device=output.device)] = part
        return merged
    if isinstance(output, Mapping):  # diffusers' output classes are ordered dictionaries with fields
        return type(output)(**{key: merge_rows(output[key], rows, part[key]) for key in output})
    if type(output) in (list, tuple):
        return type(output)(merge_rows(o, rows, p) for o, p in zip(output, part, strict=True))
    if output is None:
        return None
    raise ContractError(f"the model returned a {type(output).__name__}, whose rows cannot be put together; decide for the whole batch instead")
