"""Calls of one model as one call, row by row: which can be, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from foreseer.adapters.arguments import names_of
from foreseer.adapters.calls import Call
from foreseer.adapters.rows import batch_of, holds_state, is_row_list, latents_of, row_dimension
from foreseer.errors import UnsupportedModelError

__all__ = ["Likenesses", "join_calls", "other_call"]


class Likenesses:
    """Says which calls of a model can be made as one.

    A tensor that all rows share (positions, say) must hold the same numbers in all of them. And one that is all
    zeros is another than one that is not: models tell by that whether they are given an image. Tensors are
    looked at once, and again when somebody has written to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: MutableMapping[Tensor, tuple[int | None, object]] = WeakIdKeyDictionary()

    def of(self, call: Call) -> object:
        """Return what calls must have in common to be made as one.

        Raises:
            UnsupportedModelError: The rows of this one cannot be put beside others; the text says why.
        """
        rows, names = batch_of(call.args, call.kwargs).rows, names_of(self._model, call.args)
        latents = latents_of(call.args, call.kwargs)
        given = [*zip(names, call.args, strict=True), *sorted(call.kwargs.items())]
        return getattr(call.inner, "autocast", ()), tuple((name, self._kind(value, rows, name, value is latents)) for name, value in given)

    def _kind(self, value: Any, rows: int, name: str, latents: bool = False) -> object:
        if isinstance(value, Tensor):
            dim = _dimension(value, rows, name)
            shape = ((), ()) if _is_one(value, rows) else (value.shape[:dim], value.shape[dim + 1 :]) if dim is not None else self._seen(value, _numbers)
            nothing = dim is not None and value.ndim > 1 and not latents and self._seen(value, _is_nothing)
            return ("rows" if dim is not None else "shared", shape, value.dtype, value.device, nothing)
        if holds_state(name, value):
            raise UnsupportedModelError(f"{name} holds the state of its rows")
        if is_row_list(value, rows):
            raise UnsupportedModelError(f"{name or 'an argument'} is a list with a tensor for each row")
        if isinstance(value, dict):
            return (dict, tuple((str(key), self._kind(entry, rows, str(key))) for key, entry in value.items()))
        if isinstance(value, (list, tuple)):
            return (type(value), tuple(self._kind(entry, rows, name) for entry in value))
        return value if value is None or isinstance(value, (bool, int, float, str)) else (type(value), id(value))

    def _seen(self, tensor: Tensor, look: Callable[[Tensor], object]) -> object:
        """Look at a tensor, once, and again when somebody has written to it."""
        version = None if tensor.is_inference() else tensor._version
        known = self._known.get(tensor)
        if known is None or version is None or known[0] != version:
            known = self._known[tensor] = version, look(tensor)
        return known[1]


def _numbers(tensor: Tensor) -> object:
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tuple(tensor.shape), hashlib.sha256(numbers.tobytes()).hexdigest()


def _is_nothing(tensor: Tensor) -> object:
    return not bool(tensor.any())


def join_calls(model: nn.Module, calls: Sequence[Call]) -> Call:
    """Return one call with the rows of all, in their order. The calls are alike, as `Likenesses` says.

    A number that is one for all rows of a call, as a timestep may be, becomes one for each row.
    """
    rows = [batch_of(call.args, call.kwargs).rows for call in calls]
    names = names_of(model, calls[0].args)
    args = tuple(_join([call.args[i] for call in calls], rows, name) for i, name in enumerate(names))
    kwargs = {name: _join([call.kwargs[name] for call in calls], rows, name) for name in calls[0].kwargs}
    return Call(calls[0].inner, args, kwargs)


def other_call(call: Call) -> Call:
    """Return a call like this one, in which the numbers of its rows are others. Indices stay in range, and masks
    and tokens as they are: other tokens may be others in number.
    """
    rows = batch_of(call.args, call.kwargs).rows
    return Call(call.inner, tuple(_other(value, rows, "") for value in call.args), {name: _other(value, rows, name) for name, value in call.kwargs.items()})


def _other(value: Any, rows: int, name: str) -> Any:
    if isinstance(value, Tensor) and _dimension(value, rows, name) is not None and value.dtype != torch.bool and "mask" not in name:
        if value.is_floating_point():
            return value * 0.75 if value.ndim < 2 else value * -2 + 0.25 * bool(value.any())
        return (value - 1).clamp(min=0) if value.ndim < 2 else value
    if isinstance(value, dict):
        return {key: _other(entry, rows, str(key)) for key, entry in value.items()}
    return type(value)(_other(entry, rows, name) for entry in value) if type(value) in (list, tuple) else value


def _join(values: Sequence[Any], rows: Sequence[int], name: str) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        dim = _dimension(first, rows[0], name)
        if dim is None:
            return first
        return torch.cat([value.reshape(1).expand(many) if _is_one(value, many) else value for value, many in zip(values, rows, strict=True)], dim)
    if isinstance(first, dict):
        return {key: _join([value[key] for value in values], rows, str(key)) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_join([value[i] for value in values], rows, name) for i in range(len(first)))
    return first


def _dimension(tensor: Tensor, rows: int, name: str) -> int | None:
    return 0 if _is_one(tensor, rows) else row_dimension(tensor, rows, name)


def _is_one(tensor: Tensor, rows: int) -> bool:
    """Whether a tensor is one number for all rows; then it can be one for each."""
    return not tensor.ndim or (tensor.shape == (1,) and rows > 1)
