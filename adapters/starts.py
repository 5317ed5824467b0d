"""What lies where residuals start: the streams into block 0, and behind blocks, as one pass meets them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from foreseer.adapters.anatomy import Anatomy
from foreseer.adapters.arguments import named_arguments, stream_of
from foreseer.types import Site

__all__ = ["Starts"]


class Starts:
    """See the module. A residual is taken stream by stream. A stream that a block returns and that was not
    there where the residual starts is forecast as it is.

    Args:
        anatomy: What is known of the model. Under which name a block hands each of its streams on is learnt.
        rows: Rows of the pass.
        wanted: The blocks behind which residuals start; -1 for in front of block 0.
        clone: Keep copies, because something writes to the tensors afterwards.

    Attributes:
        versions: The tensors that were kept, and how often each had been written to.
    """

    def __init__(self, anatomy: Anatomy, rows: int, wanted: Collection[int], *, clone: bool) -> None:
        self._anatomy, self._rows, self._wanted, self._clone = anatomy, rows, wanted, clone
        self._streams: dict[int, dict[str, Tensor]] = {}
        self._returned: tuple[int, list[Any]] | None = None
        self.versions: list[tuple[Tensor, int]] = []

    def arrive(self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A block is called."""
        if not self._wanted or (index and self._returned is None):
            return
        named = {name: value for name, value in named_arguments(block, args, kwargs).items() if isinstance(value, Tensor)}
        if index == 0 and -1 in self._wanted:
            self._keep(-1, named)
        if self._returned is not None and self._returned[0] == index - 1:
            self._learn(index - 1, self._returned[1], named, stream_of(block, args, kwargs))
        self._returned = None

    def _learn(self, index: int, leaves: Sequence[Any], named: Mapping[str, Tensor], stream: Tensor | None) -> None:
        """Look under which names the next block is given what one returned, or where in its stream that lies."""
        known = {id(value): name for name, value in named.items()}
        names = tuple(known.get(id(leaf), "") for leaf in leaves)
        if any(names):
            self._anatomy.handed_on[index] = names
            return
        for name, leaf in zip(self._names(index, len(leaves)), leaves, strict=True):
            fits = isinstance(leaf, Tensor) and stream is not None and leaf.ndim == stream.ndim > 1 and leaf.shape[1] < stream.shape[1]
            if name and fits and not leaf.is_meta and stream is not None:
                ends = (stream[:, : leaf.shape[1]], stream[:, stream.shape[1] - leaf.shape[1] :])
                place = next((i for i, end in enumerate(ends) if end.shape == leaf.shape and torch.equal(end, leaf)), None)
                if place is not None:
                    self._anatomy.joined[name] = bool(place)

    def leave(self, index: int, output: Any, *, learn: bool) -> None:
        """A block returns something, computed or forecast."""
        if not self._wanted:
            return
        leaves = tree_leaves(output)
        if learn:
            self._returned = (index, leaves)
        if index in self._wanted:
            self._keep(index, {name or str(i): leaf for i, (name, leaf) in enumerate(zip(self._names(index, len(leaves)), leaves, strict=True))})

    def _keep(self, index: int, named: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in named.items() if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1}
        self._streams[index] = {name: value.clone() for name, value in kept.items()} if self._clone else kept
        if not self._clone:
            self.versions += [(value, value._version) for value in kept.values() if not value.is_inference()]

    def _names(self, index: int, count: int) -> tuple[str, ...]:
        """The names under which a block hands on what it returns: what the nearest block of as many streams
        was seen to do; empty where that is not known.
        """
        known = (self._anatomy.handed_on[i] for i in sorted(self._anatomy.handed_on, key=lambda i: abs(i - index)))
        return next((names for names in known if len(names) == count), ("",) * count)

    def at(self, site: Site) -> list[Tensor]:
        """Return what a residual starts from: for each stream of its block's output one tensor, rows in front,
        zeros where it was not there.
        """
        assert site.since is not None
        layout, given = self._anatomy.layouts[site.end], self._streams.get(site.since, {})
        found, matched = layout.starts(given, self._names(site.block, layout.count), self._rows, self._anatomy.joined)
        if not matched:
            self._anatomy.note(
                f"what {self._anatomy.name} returns behind block {site.block} is laid out otherwise than where {site} starts: it is forecast as it is"
            )
        return found
