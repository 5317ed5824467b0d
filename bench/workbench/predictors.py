"""Predictors as they are asked for in a replay: by name, with their own defaults; and the weights of those
that are linear, for many anchors at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.plugins import Part, policy_hooks
from foreseer.registry import PolicySpec, parse_policy, signature_of
from foreseer.types import History, Late, Run, Site, Weights
from foreseer.workbench.schedules import run_of
from foreseer.workbench.trace import Trace, squared_error

__all__ = ["OWN", "LinearWeights", "Predictor", "is_linear", "predictor_named"]

Array = NDArray[np.float64]

OWN = "own"
"""Stands for the predictor that a policy brings itself."""


@attrs.frozen(eq=False)
class Predictor:
    """A predictor as it was written, and what builds it; None for the policy's own."""

    name: str
    spec: PolicySpec | None = None

    @property
    def ramps(self) -> bool:
        """Whether it is told of a schedule's warm-up."""
        return self.spec is not None and "warmup_steps" in signature_of(self.spec.factory).parameters

    def built(self, warmup_steps: int | None) -> Any:
        """Build it with its own defaults; one that ramps up with its schedule's warm-up is told of that.

        Raises:
            OptionError: It is no lone predictor.
        """
        assert self.spec is not None
        told = {"warmup_steps": warmup_steps} if self.ramps and warmup_steps is not None else {}
        plugins = PolicySpec(self.spec.name, self.spec.factory, told | dict(self.spec.options))()
        if len(plugins) != 1 or not policy_hooks(plugins)["predict_features"]:
            raise OptionError(f"predictor={self.name!r} is a whole policy or no predictor; write a lone predictor, such as taylor:max_order=1")
        return plugins[0]

    def factory(self) -> Callable[..., Any]:
        """Return a factory to hand to a policy as its ``predictor``, with this predictor's own defaults."""
        if self.ramps:

            def predictor(*, warmup_steps: int = 1) -> Any:
                return self.built(warmup_steps)
        else:

            def predictor() -> Any:  # type: ignore[misc]
                return self.built(None)

        predictor.__name__ = self.name
        return predictor


def predictor_named(predictor: str | PolicySpec) -> Predictor:
    """Read a predictor as written on a command line; ``"own"`` is the policy's. Raises `PluginError` and
    `OptionError` for one that is none.
    """
    if predictor == OWN:
        return Predictor(OWN)
    found = Predictor(str(predictor), parse_policy(predictor) if isinstance(predictor, str) else predictor)
    found.built(None)
    return found


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


def is_linear(trace: Trace, predictor: str | PolicySpec, site: Site) -> bool:
    """Whether inner products can score a predictor: asked for the weights of one forecast, it gives some, or
    is not able yet. `OWN` is taken for linear.
    """
    known = predictor_named(predictor)
    if known.spec is None:
        return True
    weights = LinearWeights(known.name, known.built(None), run_of(trace), site)
    most = min(weights.anchors, trace.num_steps - 1)
    anchors = np.full((1, weights.anchors), math.nan)
    anchors[0, :most] = np.arange(most - 1, -1, -1)
    try:
        weights.of(anchors, most)
    except OptionError:
        return False
    return True
