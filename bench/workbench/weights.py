"""The weights of any installed linear predictor, asked for through its hook and for many anchors at once."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.plugins import Part
from foreseer.types import History, Late, Run, Site, Weights
from foreseer.workbench.trace import squared_error

__all__ = ["LinearWeights"]

Array = NDArray[np.float64]


class _LookedError(Exception):
    """A predictor asked for the features themselves."""


@attrs.frozen(eq=False)
class LinearWeights:
    """Weights of a predictor.

    Args:
        name: For messages.
        plugin: A predictor.
        run: The shape of the run to forecast; its rows do not matter.
        site: What is forecast.
    """

    name: str
    plugin: Any
    run: Run
    site: Site

    @functools.cached_property
    def _part(self) -> Part:
        return Part(self.plugin)

    @functools.cached_property
    def anchors(self) -> int:
        """How many computed features it looks at."""
        return self._setup(1)

    def of(self, anchors: Array, target: int) -> Array | None:
        """Return the weights of N forecasts of one step.

        Args:
            anchors: ``(N, K)`` step indices of the computed steps, newest first, NaN where there are fewer; K
                is at most `anchors`.
            target: The step to forecast.

        Returns:
            ``(N, K)``, 0 where there is no anchor; None where the predictor is not able.

        Raises:
            OptionError: The predictor is not linear: it looks at the features, or returns a forecast instead
                of weights.
        """
        self._setup(len(anchors))
        history = History(np.array(anchors, dtype=float), self._no_features)
        draft: Weights | Tensor | Late | None = None
        try:
            drafts = self._part.predict_features(self.run.step(target), (self.site,), history)
            if drafts is None:
                return None
            draft = drafts[self.site]
        except _LookedError:
            pass
        if not isinstance(draft, Weights):
            what = "looks at the features" if draft is None else "returns no weights"
            raise OptionError(f"predictor={self.name!r} is not linear: it {what}, and inner products cannot score it; record with --features to replay it")
        return draft.values

    def _each(self, anchors: Array, target: int) -> tuple[Array, NDArray[np.bool_]]:
        """As `of`, with ``(N,)`` whether the predictor is able: it abstains for all rows of a run together."""
        found = self.of(anchors, target)
        if found is not None:
            return found, np.ones(len(anchors), dtype=bool)
        if len(anchors) == 1:
            return np.zeros(anchors.shape), np.zeros(1, dtype=bool)
        one_by_one = [self._each(row[None], target) for row in anchors]
        return np.concatenate([values for values, _ in one_by_one]), np.concatenate([able for _, able in one_by_one])

    def squared_errors(self, gram: Array, anchors: Array, target: int) -> Array:
        """Return ``(S, N)`` the squared L2 errors of N forecasts of one step; infinite where it is not able.
        Takes ``(S, T, T)`` inner products, and the rest as `of`; raises as that does.
        """
        found, able = self._each(anchors, target)
        behind = np.full((len(anchors), 1), target)
        index = np.concatenate([np.nan_to_num(anchors).astype(np.int64), behind], axis=1)
        coefficients = np.concatenate([found, np.full((len(anchors), 1), -1.0)], axis=1)
        return np.where(able, squared_error(gram, index, coefficients), np.inf)

    def _setup(self, rows: int) -> int:
        return self._part.setup(attrs.evolve(self.run, rows=rows, groups=tuple(range(rows)))).at(self.site)

    @staticmethod
    def _no_features(site: Site) -> Tensor:
        raise _LookedError
