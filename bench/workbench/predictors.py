"""Predictors as they are asked for in a replay: by name, with their own defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from foreseer.errors import OptionError
from foreseer.plugins import policy_hooks
from foreseer.registry import PolicySpec, parse_policy, signature_of
from foreseer.types import Site
from foreseer.workbench.schedules import run_of
from foreseer.workbench.trace import Trace
from foreseer.workbench.weights import LinearWeights

__all__ = ["OWN", "Predictor", "is_linear", "predictor_named"]

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
