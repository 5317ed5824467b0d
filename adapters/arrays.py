"""Recorded or closed-form features as a host: no model, no torch module, just arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.backbone import Pass
from foreseer.errors import OptionError
from foreseer.plain_walk import plain_walk
from foreseer.types import LATENT, STREAM, Evidence, Probe, Site

__all__ = ["ArrayBackbone"]


class ArrayBackbone:
    """A denoiser given by its features; satisfies `foreseer.backbone.Backbone`.

    Without parts, a block's output is its own feature. With parts, it is the residual stream: the sum of the
    parts of this block and of all before it. The denoiser's output is the last block's, as a numpy array.
    Features do not depend on one another, so a forecast never changes what is computed
    behind it: what a policy does is then a matter of arithmetic alone.

    Args:
        feature: ``(site, inputs) -> (R, ...)`` array of a part, or of a block where there are no parts.
            ``inputs`` is what is handed to `foreseer.Session.evaluate`: a time, a step index, anything.
        depth: Number of blocks, L.
        parts: Names of each block's parts, in execution order; empty for blocks as a whole.
        stream: ``inputs -> (R, ...)`` what enters block 0, like a block's output in shape and dtype; None
            leaves it open, and there are no residuals then. Parts are added to it.

    >>> host = ArrayBackbone(lambda site, t: np.full((2, 3), float(t)), depth=4)
    >>> host.forward(0.5, substitute={}).output.shape
    (2, 3)
    """

    def __init__(
        self,
        feature: Callable[[Site, Any], NDArray[Any]],
        *,
        depth: int,
        parts: Sequence[str] = (),
        stream: Callable[[Any], NDArray[Any]] | None = None,
    ) -> None:
        self._feature, self._depth, self._parts, self._stream = feature, depth, tuple(parts), stream

    @classmethod
    def recorded(cls, features: Mapping[Site, NDArray[Any]]) -> ArrayBackbone:
        """Replay recorded features, ``site -> (T, R, ...)``; ``inputs`` is the step index.

        Raises:
            OptionError: The sites are not those of blocks 0..L-1, each with the same parts.
        """
        depth = 1 + max(site.block for site in features)
        parts = [site.part for site in features if site.block == 0 and site.part != "block"]
        expected = {Site(b, p) for b in range(depth) for p in (parts or ["block"])}
        if set(features) != expected:
            raise OptionError(f"recorded features must cover {depth} blocks with the parts {parts or ['block']}; got {sorted(map(str, features))}")
        return cls(lambda site, index: features[site][index], depth=depth, parts=parts)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self._depth

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output."""
        return tuple(Site(b, part) for b in range(self._depth) for part in (*self._parts, "block"))

    def rows(self, inputs: Any) -> int:
        """Leading dimension of the first feature."""
        return len(self._feature(self.sites[0], inputs))

    @property
    def places(self) -> tuple[Site, ...]:
        """What lies in front of block 0, where that is given: the latent, which is the stream too."""
        return () if self._stream is None else (LATENT, STREAM)

    def forward(
        self,
        inputs: Any,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
        see: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`."""

        def tensor(array: NDArray[Any]) -> Tensor:
            values = np.asarray(array)
            return torch.from_numpy(np.ascontiguousarray(values if rows is None else values[list(rows)]))

        count, before = self.rows(inputs) if rows is None else len(rows), None if self._stream is None else tensor(self._stream(inputs))
        done = plain_walk(
            lambda site: tensor(self._feature(site, inputs)),
            depth=self._depth,
            parts=self._parts,
            rows=count,
            places={} if before is None else dict.fromkeys(self.places, before),
            substitute=substitute,
            probe=probe,
            judge=judge,
            record=record,
            see=see,
        )
        return attrs.evolve(done, output=None if done.output is None else done.output.numpy())

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Return a copy of ``output`` with these rows replaced."""
        merged = np.array(output)
        merged[list(rows)] = part
        return merged
