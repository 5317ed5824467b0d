"""What a module returns, any structure of tensors, as one feature, and back.

A block of FLUX returns two streams, SD3's last block returns ``(None, hidden)``, Latte folds frames into the
batch, Z-Image returns a list of tensors. The engine wants one tensor per site with the rows in front. A
layout is learnt from one real output: a lone tensor is its own feature, several are laid end to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten  # diffusers registers its output classes there

from foreseer.adapters.places import IN_ORDER, Place
from foreseer.adapters.rows import is_row_list
from foreseer.errors import UnsupportedModelError

__all__ = ["Layout", "Pool"]


@attrs.frozen
class _Leaf:
    """One tensor of an output: ``(rows * folded, *shape)``; if ``second`` the rows are its second dimension
    (ERNIE-Image), if ``listed`` a list of tensors.

    Attributes:
        place: How it lay in memory, as what is handed back then lies too.
    """

    folded: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    listed: bool = False
    second: bool = False
    place: Place = IN_ORDER

    @property
    def size(self) -> int:
        return self.folded * math.prod(self.shape)

    def with_rows(self, value: Any) -> Tensor:
        """The tensor with its rows in front, and nothing folded into them."""
        if self.listed:
            return torch.stack(value)
        tensor: Tensor = value.transpose(0, 1) if self.second else value
        return tensor if self.folded == 1 else tensor.reshape(-1, self.folded, *self.shape)

    def as_returned(self, feature: Tensor) -> Any:
        """The opposite of `with_rows`, from any shape with as many entries."""
        tensor = feature.reshape(-1, *self.shape).to(self.dtype)
        if self.listed:
            return list(self.place.put(tensor).unbind(0))
        return self.place.put(tensor.transpose(0, 1) if self.second else tensor)

    def fits(self, value: Any, rows: int) -> bool:
        """Whether a tensor of so many rows is shaped like this one."""
        if self.listed:
            return isinstance(value, list) and len(value) == rows and all(entry.shape == self.shape and entry.dtype == self.dtype for entry in value)
        wanted = (self.shape[0], rows, *self.shape[1:]) if self.second else (rows * self.folded, *self.shape)
        return isinstance(value, Tensor) and value.shape == wanted and value.dtype == self.dtype and value.device == self.device


Pool = dict[tuple[int, _Leaf], Any]
"""Tensors of zeros by their rows and what they stand for."""


def _is_shard(part: torch.Size, whole: torch.Size, shards: int) -> bool:
    """Whether a tensor is one of ``shards`` parts of another, as equal as can be, cut along one dimension."""
    if len(part) != len(whole):
        return False
    cut = [(p, w) for p, w in zip(part, whole, strict=True) if p != w]
    return len(cut) == 1 and cut[0][0] in (cut[0][1] // shards, -(-cut[0][1] // shards))


@attrs.frozen(eq=False)
class Layout:
    """How one module's outputs are structured, for any number of rows.

    Attributes:
        main: Which leaf a gate compares: the one shaped like the module's hidden states; None to compare all
            of them.
        rows: Of the output that it was learnt from.
    """

    main: int | None
    rows: int
    _spec: TreeSpec = attrs.field(repr=False)
    _leaves: tuple[_Leaf | None, ...]
    _constants: tuple[Any, ...] = attrs.field(repr=False)
    _plain: type | None = attrs.field(repr=False)
    _alone: torch.Size | None = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        output: Any,
        rows: int,
        *,
        hidden: Tensor | None = None,
        shards: int = 1,
        second: bool = False,
        listed: int = 0,
        what: str = "the module",
    ) -> Layout:
        """Learn the layout from an output.

        Args:
            output: Tensors in tuples, lists, dictionaries or diffusers' output classes; None anywhere.
            rows: Rows of the call, R. Each tensor's first dimension must be a multiple of it.
            hidden: The module's hidden states, to tell streams apart.
            shards: Among how many processes the module may divide its tokens, if ``hidden`` is from before.
            second: Take the second dimension for the rows where it is as long as they are many, also where
                the first could be.
            listed: How a call holds its rows, see `Batch`.
            what: For the error.

        Raises:
            UnsupportedModelError: Something in the output is neither a tensor with the call's rows nor a
                constant.
        """
        values, spec = tree_flatten(output, is_leaf=lambda value: is_row_list(value, rows, listed) and len({entry.shape for entry in value}) == 1)
        leaves: list[_Leaf | None] = []
        for value in values:
            if isinstance(value, list):
                leaves.append(_Leaf(1, tuple(value[0].shape), value[0].dtype, value[0].device, listed=True))
            elif isinstance(value, Tensor) and value.is_floating_point():
                if value.ndim > 1 and value.shape[1] == rows and (second or len(value) % rows):
                    leaves.append(_Leaf(1, (value.shape[0], *value.shape[2:]), value.dtype, value.device, second=True, place=Place.of(value)))
                    continue
                if not value.ndim or not len(value) or len(value) % rows:
                    shape = tuple(value.shape)
                    raise UnsupportedModelError(f"{what} returned a tensor of shape {shape}; foreseer needs tensors with the call's {rows} rows")
                leaves.append(_Leaf(len(value) // rows, tuple(value.shape[1:]), value.dtype, value.device, place=Place.of(value)))
            elif value is None or isinstance(value, (bool, int, float, str, Tensor)):
                leaves.append(None)
            else:
                raise UnsupportedModelError(f"{what} returned a {type(value).__name__}; foreseer needs tensors with the call's {rows} rows")
        found = [i for i, leaf in enumerate(leaves) if leaf is not None]
        if not found:
            raise UnsupportedModelError(f"{what} returned no tensor with the call's {rows} rows")
        like = [i for i in found if hidden is not None and isinstance(values[i], Tensor) and values[i].shape == hidden.shape]
        if not like and hidden is not None and shards > 1:
            like = [i for i in found if isinstance(values[i], Tensor) and _is_shard(values[i].shape, hidden.shape, shards)]
        main = found[0] if len(found) == 1 else like[0] if len(like) == 1 else None
        flat = type(output) is tuple and len(values) == len(output) and all(a is b for a, b in zip(values, output, strict=True))
        plain = Tensor if isinstance(output, Tensor) else tuple if flat else None
        constants = tuple(None if leaf else value for leaf, value in zip(leaves, values, strict=True))
        return cls(main, rows, spec, tuple(leaves), constants, plain, output.shape if plain is Tensor else None)

    @property
    def count(self) -> int:
        """How many things an output holds, tensors and constants."""
        return len(self._leaves)

    @property
    def on_cpu(self) -> bool:
        """Whether all of it lies where the host can look at it without waiting."""
        return all(leaf is None or leaf.device.type == "cpu" for leaf in self._leaves)

    def fits(self, output: Any, rows: int) -> bool:
        """Whether an output of so many rows is structured and shaped like the one that this was learnt from.
        Cheap enough for every block of every step.
        """
        if self._alone is not None and rows == self.rows:
            return isinstance(output, Tensor) and output.shape == self._alone and output.dtype is self._leaves[0].dtype  # type: ignore[union-attr]
        try:
            values = self._values(output)
        except ValueError:  # structured otherwise
            return False
        return len(values) == len(self._leaves) and all(leaf is None or leaf.fits(value, rows) for value, leaf in zip(values, self._leaves, strict=True))

    @property
    def doubtful(self) -> bool:
        """Whether rows could be in the second dimension as well as folded into the first."""
        return any(leaf is not None and not leaf.second and leaf.folded > 1 and leaf.shape[:1] == (self.rows,) for leaf in self._leaves) and self.rows > 1

    def rows_are_second(self, output: Any, rows: int, whole: int) -> bool:
        """Whether an output of fewer rows shows that they are in the second dimension, where there are so
        many of them, and not where they seemed to be.
        """
        return any(
            leaf is not None and not leaf.second and isinstance(value, Tensor) and value.ndim > 1 and leaf.folded * whole == len(value)
            and leaf.shape[:1] == (whole,) and value.shape[1] == rows and value.shape[2:] == leaf.shape[1:]
            for value, leaf in zip(self._values(output), self._leaves, strict=False)
        )  # fmt: skip

    def pack(self, output: Any) -> Tensor:
        """Return the feature ``(R, ...)`` of an output."""
        if self._plain is Tensor and (leaf := self._leaves[0]) is not None:
            return leaf.with_rows(output)
        return self.join(self.streams(output))

    def streams(self, output: Any) -> list[Tensor]:
        """Return the tensors of an output one by one, each with its rows in front."""
        return [one.with_rows(value) for value, one in zip(self._values(output), self._leaves, strict=True) if one is not None]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the feature of which these are the `streams`."""
        if len(parts) == 1:
            return parts[0]
        wide = parts[0].dtype
        for part in parts[1:]:
            wide = torch.promote_types(wide, part.dtype)
        return torch.cat([part.reshape(len(part), -1).to(wide) for part in parts], dim=1)

    def unpack(self, feature: Tensor) -> Any:
        """Return the output that has this feature; as many rows as the feature has."""
        if self._plain is Tensor and (leaf := self._leaves[0]) is not None:
            return leaf.as_returned(feature)
        leaves = [one for one in self._leaves if one is not None]
        pieces = [feature] if len(leaves) == 1 else torch.split(feature, [one.size for one in leaves], dim=1)
        return self._put_together([one.as_returned(piece) for piece, one in zip(pieces, leaves, strict=True)])

    def evidence(self, output: Any) -> Tensor:
        """Return what a gate compares of an output: ``(R, ...)``, its main stream or, where that is not
        known, all of it.
        """
        leaf = None if self.main is None else self._leaves[self.main]
        return self.pack(output) if leaf is None or self.main is None else leaf.with_rows(self._values(output)[self.main])

    def starts(self, given: Mapping[str, Tensor], names: Sequence[str], rows: int, joined: Mapping[str, bool]) -> tuple[list[Tensor], bool]:
        """Return for each stream what it was made from, among tensors from before, rows in front: the one of
        its name, else the hidden states, or the only one that is shaped like it, or those that were joined
        into it; zeros where there is none. And whether there was any.

        Args:
            given: The tensors, by name.
            names: Of the output's tensors; empty where that is not known.
            rows: Rows of the call.
            joined: By the names of streams that a block was seen to be given as one, whether each lies at its
                end.
        """
        found, matched = [], False
        for leaf, name in zip(self._leaves, names, strict=True):
            if leaf is None:
                continue
            fitting = {each: tensor for each, tensor in given.items() if leaf.fits(tensor, rows) and (each == name or each not in names)}
            chosen = next((each for each in (name, "hidden_states", *(fitting if len(fitting) == 1 else ())) if each in fitting), None)
            start = torch.zeros((rows * leaf.folded, *leaf.shape), dtype=leaf.dtype, device=leaf.device) if chosen is None else fitting[chosen]
            if chosen is None and leaf.shape and not (leaf.listed or leaf.second):
                for each, last in joined.items():
                    part = given.get(each)
                    if part is not None and part.ndim == start.ndim and part.shape[1] <= start.shape[1] and part[:, :0].shape == start[:, :0].shape:
                        start.narrow(1, start.shape[1] - part.shape[1] if last else 0, part.shape[1]).copy_(part)
                        matched = True
            found.append(leaf.with_rows(start) if chosen is not None or not leaf.listed else start)
            matched |= chosen is not None
        return found, matched

    def main_of(self, streams: Sequence[Tensor]) -> Tensor:
        """Return of an output's `streams` what a gate compares: see `evidence`."""
        kept = [i for i, leaf in enumerate(self._leaves) if leaf is not None]
        return self.join(streams) if self.main is None else streams[kept.index(self.main)]

    def zeros(self, rows: int, pool: Pool) -> Any:
        """Return an output of that shape for somebody who will not look at it.

        Args:
            rows: How many.
            pool: The tensors that were handed out before. One of each shape serves all blocks: one for each
                would hold a model's worth of activations.
        """
        made = []
        for leaf in self._leaves:
            if leaf is not None:
                key = (rows, leaf)
                if key not in pool:
                    with torch.inference_mode(False):  # it outlives the step, and a host may write to it in the next under no_grad
                        pool[key] = leaf.as_returned(torch.zeros((rows * leaf.folded, *leaf.shape), dtype=leaf.dtype, device=leaf.device))
                made.append(pool[key])
        return self._put_together(made)

    def _values(self, output: Any) -> Sequence[Any]:
        """What lies where leaves of the learnt structure are. Raises ValueError where an output is structured
        otherwise.
        """
        if self._plain is None or not issubclass(type(output), self._plain):
            return self._spec.flatten_up_to(output)
        return (output,) if self._plain is Tensor else output  # no tree to be walked

    def _put_together(self, tensors: list[Any]) -> Any:
        if self._plain is Tensor:
            return tensors[0]
        given = iter(tensors)
        return tree_unflatten([constant if leaf is None else next(given) for leaf, constant in zip(self._leaves, self._constants, strict=True)], self._spec)
