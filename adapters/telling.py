"""What the arguments of a call tell about whose it is: its text, and its timestep."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

__all__ = ["TEXTS", "Text", "Time"]

TEXTS = re.compile(r"encoder_hidden_states|text|prompt|caption|cap_|pooled|embeds|global_hidden|label|^context|^input_ids|^y$")
"""Names of arguments that tell one stream from another: the same numbers in every step of a generation."""
TIMES = ("timestep", "timesteps", "t", "sigma")
MOST_TIMES = 4096


class _Kept(NamedTuple):
    """What to know a tensor by: its numbers, for its owner may write others into it.

    Off the CPU a look at them makes the host wait. Memory that nobody wrote to since, and that is held so
    that nobody else gets it, has the same.
    """

    numbers: Tensor
    memory: Tensor | None
    version: int | None


@attrs.frozen(eq=False)
class Text:
    """All of the text of a call, in whatever containers it came.

    Attributes:
        places: Names, keys and indices under which each of the leaves lies.
        leaves: Tensors, and what else there is.
    """

    places: tuple[object, ...]
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Text:
        """Find the text among a call's arguments."""
        texts = {name: given[name] for name in sorted(given) if _is_text(name)}
        found = [leaf for name, value in texts.items() if isinstance(value, _HOLDERS) for leaf in _leaves(value, (name,))]
        return cls(tuple(place for place, _ in found), tuple(leaf for _, leaf in found))

    @property
    def free(self) -> bool:
        """Whether looking at it is free."""
        return all(leaf.device.type == "cpu" for leaf in self.leaves if isinstance(leaf, Tensor))

    def kept(self) -> Text:
        """What later ones are held against."""
        return Text(self.places, tuple(_kept(leaf) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves))

    def is_in(self, given: Text, *, look: bool) -> bool:
        """Whether a call brings this text, which was kept.

        Args:
            given: What it brings.
            look: Look also where that is not free.
        """
        pairs = zip(self.leaves, given.leaves, strict=False)
        return self.places == given.places and all(_alike(known, leaf, look) for known, leaf in pairs)


_HOLDERS = (Tensor, list, tuple, dict)


def _leaves(value: Any, place: tuple[object, ...]) -> Iterator[tuple[object, Any]]:
    if not isinstance(value, (list, tuple, dict)):
        yield place, value
        return
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(inside, (*place, key))


@functools.cache
def _is_text(name: str) -> bool:
    return TEXTS.search(name) is not None


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _kept(leaf: Tensor) -> _Kept:
    return _Kept(leaf.detach().clone(), None if leaf.device.type == "cpu" else leaf, _version(leaf))


def _alike(known: Any, given: Any, look: bool) -> bool:
    if not isinstance(known, _Kept) or not isinstance(given, Tensor):
        return type(known) is type(given) and bool(known == given)
    numbers, memory, version = known
    if (numbers.shape, numbers.dtype, numbers.device) != (given.shape, given.dtype, given.device):
        return False
    if memory is not None and memory.data_ptr() == given.data_ptr() and version == _version(given):
        return True
    return (memory is None or look) and torch.equal(numbers, given)


@attrs.frozen
class Time:
    """The timesteps that a call brings, one or one for each token, and how well its dtype tells two apart."""

    values: frozenset[float]
    eps: float

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Time | None:
        """Find them among a call's arguments, where looking is free."""
        value = next((given[name] for name in TIMES if given.get(name) is not None), None)
        if isinstance(value, Tensor):
            if value.device.type != "cpu" or not 0 < value.numel() <= MOST_TIMES:
                return None
            eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
            return cls(frozenset(value.flatten().tolist()), eps)
        return cls(frozenset((float(value),)), 0.0) if isinstance(value, (int, float)) else None

    def joined(self, other: Time | None) -> Time:
        """All of the timesteps of two calls of a step."""
        return self if other is None else Time(self.values | other.values, max(self.eps, other.eps))

    def is_another(self, than: Time) -> bool:
        """Whether each brings a timestep that the other has not: tokens that are given bring one that stays."""
        return not (self.values <= than.values or than.values <= self.values)

    def rounds(self, one: float, other: float) -> bool:
        """Whether two timesteps may look the same here."""
        return abs(one - other) <= self.eps * max(abs(one), abs(other))
