"""Where the rows of a batch lie in what a model's blocks are called with and return: learnt, never guessed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from foreseer.errors import UnsupportedModelError

__all__ = ["Cut", "Seams", "UnlearntError"]


class UnlearntError(UnsupportedModelError):
    """What is known of a model does not suffice yet to cut its batch."""


class Seams:
    """See the module.

    What a place was given in calls of different numbers of rows is compared: a tensor that grew with them holds
    them in the dimension that did, and one that did not is for all rows. So a place is known from the second
    number on.
    """

    def __init__(self) -> None:
        self._first: dict[object, tuple[int, list[torch.Size | None]]] = {}
        self._known: dict[object, tuple[tuple[int, int] | None, ...]] = {}

    def learn(self, place: object, value: Any, rows: int) -> None:
        """Look at what a place is given in a call of so many rows."""
        first = self._first.get(place)
        if first is None:
            self._first[place] = rows, _shapes(_flat(value)[0])
        elif first[0] != rows and place not in self._known:
            with contextlib.suppress(UnsupportedModelError):  # said where somebody wants it cut
                self._known[place] = self._compare(place, _flat(value)[0], rows)

    def cut(self, place: object, value: Any, counts: Sequence[int]) -> Cut:
        """Cut what a place is given into pieces of so many rows each.

        Raises:
            UnlearntError: Where its rows lie is not known yet.
            UnsupportedModelError: They do not lie in one dimension.
        """
        leaves, spec = _flat(value)
        if place not in self._known:
            self._known[place] = self._compare(place, leaves, sum(counts))
        known = self._known[place]
        if len(known) != len(leaves):
            raise UnsupportedModelError("what its blocks are given is structured otherwise in a larger batch")
        for leaf, at in zip(leaves, known, strict=True):
            if at is not None and (leaf.ndim <= at[0] or leaf.shape[at[0]] != sum(counts) * at[1]):
                raise UnsupportedModelError("its blocks return something for other rows than they are given")
        return Cut(leaves, spec, known, counts)

    def join(self, place: object, pieces: Sequence[Any]) -> Any:
        """Return what has these pieces, in their order. Raises as `cut`."""
        if place not in self._known:
            raise UnlearntError("where the rows of its batch lie is not known yet")
        return _joined([_flat(piece) for piece in pieces], self._known[place])

    def _compare(self, place: object, leaves: Sequence[Any], rows: int) -> tuple[tuple[int, int] | None, ...]:
        before, shapes = self._first.get(place, (rows, []))
        if before == rows:
            raise UnlearntError("where the rows of its batch lie is not known yet")
        if len(shapes) != len(leaves):
            raise UnsupportedModelError("what its blocks are given is structured otherwise in a larger batch")
        if odd := next((leaf for leaf in leaves if not _is_for_all(leaf)), None):
            raise UnsupportedModelError(f"its blocks are given, or return, a {type(odd).__name__}, which may hold rows")
        return tuple(_rows_in(was, now, before, rows) for was, now in zip(shapes, _shapes(leaves), strict=True))


class Cut:
    """What was cut. Each piece is made when it is asked for.

    Args:
        leaves: What there was, flat; ``spec`` says how it was structured.
        spec: See ``leaves``.
        known: Of each leaf in which dimension rows lie, and how many entries each has; None where it has none.
        counts: Rows of each piece.
    """

    def __init__(self, leaves: Sequence[Any], spec: TreeSpec | None, known: Sequence[tuple[int, int] | None], counts: Sequence[int]) -> None:
        self._leaves, self._spec, self._known, self._counts = leaves, spec, known, counts
        self._ends = list(itertools.accumulate(counts))
        self._made: dict[int, Any] = {}

    def piece(self, index: int) -> Any:
        """Return a piece, each time the same."""
        if index not in self._made:
            self._made[index] = self._narrowed(self._ends[index] - self._counts[index], self._counts[index])
        return self._made[index]

    def of(self, pieces: Sequence[int]) -> Any:
        """Return several pieces as one; ``pieces`` rise."""
        if len(pieces) == len(self._counts):
            return _whole(list(self._leaves), self._spec)
        first, last = pieces[0], pieces[-1]
        start = self._ends[first] - self._counts[first]
        if last - first + 1 == len(pieces):
            return self._narrowed(start, self._ends[last] - start)
        return _joined([_flat(self.piece(index)) for index in pieces], self._known)

    def _narrowed(self, start: int, many: int) -> Any:
        cut = [leaf if at is None else leaf.narrow(at[0], start * at[1], many * at[1]) for leaf, at in zip(self._leaves, self._known, strict=True)]
        return _whole(cut, self._spec)


def _joined(pieces: Sequence[tuple[list[Any], TreeSpec | None]], known: Sequence[tuple[int, int] | None]) -> Any:
    joined = [pieces[0][0][i] if at is None else torch.cat([leaves[i] for leaves, _ in pieces], at[0]) for i, at in enumerate(known)]
    return _whole(joined, pieces[0][1])


def _flat(value: Any) -> tuple[list[Any], TreeSpec | None]:
    """Return a value's leaves and how they are structured: None for a lone tensor, which is most of them."""
    return ([value], None) if isinstance(value, Tensor) else tree_flatten(value)


def _whole(leaves: list[Any], spec: TreeSpec | None) -> Any:
    return leaves[0] if spec is None else tree_unflatten(leaves, spec)


def _is_for_all(leaf: Any) -> bool:
    """Whether it is a tensor, or surely holds none: what is of another class may hold tensors with rows."""
    return leaf is None or isinstance(leaf, (Tensor, bool, int, float, str, torch.dtype, torch.device, torch.Size)) or callable(leaf)


def _rows_in(was: torch.Size | None, now: torch.Size | None, before: int, rows: int) -> tuple[int, int] | None:
    """Return which dimension of a tensor grew with the rows, and how many entries each row has in it; None where
    it did not grow.
    """
    if was == now:
        return None
    grown = [] if was is None or now is None or len(was) != len(now) else [(d, a, b) for d, (a, b) in enumerate(zip(was, now, strict=True)) if a != b]
    if len(grown) == 1:
        ((dim, a, b),) = grown
        if a * rows == b * before and b % rows == 0:
            return dim, b // rows
    raise UnsupportedModelError("its rows do not lie in one dimension of what its blocks are given")


def _shapes(leaves: Sequence[Any]) -> list[torch.Size | None]:
    return [leaf.shape if isinstance(leaf, Tensor) else None for leaf in leaves]
