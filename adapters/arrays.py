"""Recorded or closed-form features as a host: no model, no torch module, just arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.backbone import Pass, live_blocks
from foreseer.errors import OptionError
from foreseer.types import OUTPUT, Evidence, Probe, Site

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

    >>> host = ArrayBackbone(lambda site, t: np.full((2, 3), float(t)), depth=4)
    >>> host.forward(0.5, substitute={}).output.shape
    (2, 3)
    """

    def __init__(self, feature: Callable[[Site, Any], NDArray[Any]], *, depth: int, parts: Sequence[str] = ()) -> None:
        self._feature, self._depth, self._parts = feature, depth, tuple(parts)

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

    def forward(
        self,
        inputs: Any,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`."""
        live = live_blocks(self._depth, substitute, probe)
        features: dict[Site, Tensor] = {}
        spent = 0

        def compute(site: Site) -> Tensor:
            array = np.asarray(self._feature(site, inputs))
            tensor = torch.from_numpy(np.ascontiguousarray(array if rows is None else array[list(rows)]))
            if site in record:
                features[site] = tensor
            return tensor

        def run(block: int, stream: Tensor | None) -> Tensor:
            """Compute a block as a whole."""
            if not self._parts:
                return compute(Site(block))
            total = sum((compute(Site(block, part)) for part in self._parts), torch.zeros(()) if stream is None else stream)
            assert isinstance(total, Tensor)
            if Site(block) in record:
                features[Site(block)] = total
            return total

        def draft(block: int, stream: Tensor | None) -> Tensor | None:
            """The block's forecast output, or None where it is not forecast as a whole."""
            if Site(block) in substitute:
                return substitute[Site(block)]
            if self._parts and all(Site(block, part) in substitute for part in self._parts):
                return sum((substitute[Site(block, part)] for part in self._parts), torch.zeros(()) if stream is None else stream)
            return None

        if OUTPUT in substitute and probe is None:
            return Pass(substitute[OUTPUT].numpy(), {}, 0)
        stream: Tensor | None = None
        forecasting = bool(substitute)
        for block in range(self._depth):
            here = probe is not None and probe.block == block
            real = not forecasting or (probe is not None and probe.on == "input" and block <= probe.block)
            if not real and not live[block]:
                continue
            count = len(rows) if rows is not None else self.rows(inputs)
            before, forecast = stream, None if real else draft(block, stream)
            if real or forecast is None or here:
                spent += count
                stream = run(block, before)
            if here and probe is not None and judge is not None and stream is not None:
                shown = substitute[Site(block)] if forecast is None else forecast
                go_on = judge(Evidence(Site(block), stream, shown))
                if not go_on and probe.on == "draft":
                    return Pass(None, {}, spent)
                forecasting = forecasting and go_on
                if forecasting and OUTPUT in substitute:
                    return Pass(substitute[OUTPUT].numpy(), features, spent)
            if forecast is not None:
                stream = forecast
        if OUTPUT in record and stream is not None:
            features[OUTPUT] = stream
        return Pass(None if stream is None else stream.numpy(), features, spent)

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Return a copy of ``output`` with these rows replaced."""
        merged = np.array(output)
        merged[list(rows)] = part
        return merged
