"""Recorded features as a host: vectors with the same inner products, or the tensors themselves. One row for
each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.adapters.arrays import ArrayBackbone
from foreseer.backbone import Pass
from foreseer.errors import OptionError
from foreseer.types import OUTPUT, Evidence, Probe, Site
from foreseer.workbench.trace import Trace

__all__ = ["RecordedHost", "rotated", "stored_features", "vectors_of"]

Features = Mapping[Site, NDArray[Any]]
"""``site -> (S, T, ...)``."""

ROUNDING = 0.02
"""Tensors kept in half precision have the norms of those that were recorded to this part."""


class RecordedHost(ArrayBackbone):
    """A denoiser given by what full computation recorded; ``inputs`` is the step's index.

    Sites that were not recorded are never shown to anybody. What runs behind a forecast is what full
    computation recorded there: open loop. The output is of no meaning, a zero for each row.

    Args:
        features: ``site -> (S, T, ...)``; a sample's rows are part of its feature.
        depth: Number of blocks, L.
        who: The policy, for messages.
    """

    def __init__(self, features: Features, *, depth: int, who: str = "policy") -> None:
        self._features, self._who = features, who
        nothing = np.zeros((len(next(iter(features.values()))), 1))
        super().__init__(lambda site, index: features[site][:, index] if site in features else nothing, depth=depth)

    def require(self, sites: Collection[Site]) -> None:
        """Refuse a policy that forecasts or compares sites that were not recorded. Raises `OptionError`."""
        missing = [str(site) for site in sites if site not in self._features]
        if missing:
            there = ", ".join(map(str, self._features))
            raise OptionError(f"{self._who!r} needs features of {', '.join(sorted(missing))}, which were not recorded; there are {there}: record with --sites")

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
        """See `foreseer.backbone.Backbone.forward`. Raises `OptionError` for a probe on a draft: what a block
        makes of a forecast was not recorded.
        """
        if probe is not None and probe.on == "draft":
            raise OptionError(
                f"{self._who!r} computes block {probe.block} on its forecast input, which needs the model: what comes of it was not recorded. "
                f"Run it with the observer `ledger`: foreseer compare --policies {self._who} --observers ledger:path=ledger.json"
            )
        if probe is not None:
            self.require([Site(probe.block)])
        done = super().forward(inputs, rows=rows, substitute=substitute, probe=probe, judge=judge, record=record)
        features = dict(done.features)
        if OUTPUT in features and OUTPUT in self._features:
            output = self._features[OUTPUT][:, inputs]
            features[OUTPUT] = torch.from_numpy(np.ascontiguousarray(output if rows is None else output[list(rows)]))
        count = self.rows(inputs) if rows is None else len(rows)
        return attrs.evolve(done, output=np.zeros((count, 1)), features=features)


def vectors_of(trace: Trace, stream: str) -> dict[Site, NDArray[np.float64]]:
    """Return ``(S, T, T)`` for each recorded site: vectors that have the inner products of the features."""
    return {site: trace.embedding(site, stream) for site in trace.sites}


def rotated(features: Mapping[Site, NDArray[np.float64]], *, seed: int = 0) -> dict[Site, NDArray[np.float64]]:
    """Turn all vectors of a site by one random rotation, another for each site: lengths and angles stay, sums
    of absolute values do not.
    """
    random = np.random.default_rng(seed)
    return {site: values @ np.linalg.qr(random.normal(size=(values.shape[-1],) * 2))[0] for site, values in features.items()}


def stored_features(trace: Trace, beside: Path) -> dict[Site, NDArray[Any]] | None:
    """Return the tensors that were kept with a trace, ``site -> (S, T, ...)`` float32 of its first stream;
    None where they were not.

    Args:
        trace: The recording.
        beside: Its file.

    Raises:
        OptionError: The trace names a folder that is not there, is damaged, or holds the tensors of another
            recording.
    """
    if not trace.features:
        return None
    from foreseer.workbench.features_store import FeatureStore

    store = FeatureStore.open(beside.parent / trace.features)
    stream = trace.streams[0]
    found = {site: np.asarray(store.read(site, stream), dtype=np.float32) for site in trace.sites}
    for site, features in found.items():
        norms, wanted = np.linalg.norm(features.reshape(*features.shape[:2], -1), axis=2), trace.norms(site, stream)
        if norms.shape != wanted.shape or not np.allclose(norms, wanted, rtol=ROUNDING):
            raise OptionError(f"the tensors in {str(beside.parent / trace.features)!r} are not those of this trace: at {site} their norms differ; record again")
    return found
