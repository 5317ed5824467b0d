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
        self._seen: MutableMapping[Tensor, dict[object, object]] = WeakIdKeyDictionary()

    def of(self, call: Call) -> object:
        """Return what calls must have in common to be made as one.

        Raises:
            UnsupportedModelError: The rows of this one cannot be put beside others; the text says why.
        """
        rows, latents = batch_of(call.args, call.kwargs).rows, latents_of(call.args, call.kwargs)
        given = [*zip(names_of(self._model, call.args), call.args, strict=True), *sorted(call.kwargs.items())]
        kinds = tuple((name, self._kind(value, rows, name, value is latents)) for name, value in given)
        return getattr(call.inner, "states", ()), kinds

    def _kind(self, value: Any, rows: int, name: str, latents: bool = False) -> object:
        if isinstance(value, Tensor):
            dim = _dimension(value, rows, name)
            if dim is None:
                return ("shared", self._look(value, _numbers), value.dtype, value.device)
            shape = ((), ()) if _is_one(value, rows) else (value.shape[:dim], value.shape[dim + 1 :])
            return ("rows", shape, value.dtype, value.device, value.ndim > 1 and not latents and self._look(value, _is_nothing))
        if holds_state(name, value):
            raise UnsupportedModelError(f"{name} holds the state of its rows")
        if is_row_list(value, rows):
            raise UnsupportedModelError(f"{name or 'an argument'} is a list with a tensor for each row")
        if isinstance(value, dict):
            return (dict, tuple((str(key), self._kind(entry, rows, str(key))) for key, entry in value.items()))
        if isinstance(value, (list, tuple)):
            return (type(value), tuple(self._kind(entry, rows, name) for entry in value))
        return value if value is None or isinstance(value, (bool, int, float, str)) else (type(value), id(value))

    def _look(self, tensor: Tensor, look: Callable[[Tensor], object]) -> object:
        """Return what a look at a tensor says; inference tensors do not tell whether they were written to."""
        if tensor.is_inference():
            return look(tensor)
        seen, key = self._seen.setdefault(tensor, {}), (look, tensor._version)
        if key not in seen:
            seen.clear()
            seen[key] = look(tensor)
        return seen[key]


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

    def joined(tensors: Sequence[Tensor], dim: int, name: str) -> Tensor:
        return torch.cat([tensor.reshape(1).expand(many) if _is_one(tensor, many) else tensor for tensor, many in zip(tensors, rows, strict=True)], dim)

    return _made(model, calls, rows[0], joined)


def other_call(model: nn.Module, call: Call) -> Call:
    """Return a call like this one, in which the numbers of its rows are others. Indices stay in range, and masks
    and tokens as they are: other tokens may be others in number.
    """

    def other(tensors: Sequence[Tensor], dim: int, name: str) -> Tensor:
        (tensor,) = tensors
        if "mask" in name or tensor.dtype == torch.bool or (tensor.ndim > 1 and not tensor.is_floating_point()):
            return tensor
        if tensor.ndim > 1:
            return tensor * -2 + 0.25 * bool(tensor.any())
        return tensor * 0.75 if tensor.is_floating_point() else (tensor - 1).clamp(min=0)

    return _made(model, [call], batch_of(call.args, call.kwargs).rows, other)


_OfRows = Callable[[Sequence[Tensor], int, str], Tensor]
"""``(one tensor of each call, the dimension of its rows, its name) -> tensor``."""


def _made(model: nn.Module, calls: Sequence[Call], rows: int, of_rows: _OfRows) -> Call:
    """Make a call of calls that are alike, the first of which has so many rows: what holds rows is made anew."""

    def made(values: Sequence[Any], name: str) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            dim = _dimension(first, rows, name)
            return first if dim is None else of_rows(values, dim, name)
        if isinstance(first, dict):
            return {key: made([value[key] for value in values], str(key)) for key in first}
        if isinstance(first, (list, tuple)):
            return type(first)(made([value[i] for value in values], name) for i in range(len(first)))
        return first

    args = tuple(made([call.args[i] for call in calls], name) for i, name in enumerate(names_of(model, calls[0].args)))
    return Call(calls[0].inner, args, {name: made([call.kwargs[name] for call in calls], name) for name in calls[0].kwargs})


def _dimension(tensor: Tensor, rows: int, name: str) -> int | None:
    return 0 if _is_one(tensor, rows) else row_dimension(tensor, rows, name)


def _is_one(tensor: Tensor, rows: int) -> bool:
    """Whether a tensor is one number for all rows; then it can be one for each."""
    return not tensor.ndim or (tensor.shape == (1,) and rows > 1)
