"""The workbench: record a model once, then replay predictors and gates, plan schedules and tune policies without it.

The idea that makes it small: with features F_i of the T steps of a run and G_ij = <F_i, F_j>, the squared error of any weighted sum of recorded features
against F_k is quadratic in the weights, with entries of G. T x T numbers for each site and sample score every linear predictor at every schedule exactly.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreseer.workbench.preset import Preset
    from foreseer.workbench.signature import Signature
    from foreseer.workbench.trace import Trace

__all__ = ["Preset", "Signature", "Trace"]

_HOME = {"Preset": "preset", "Signature": "signature", "Trace": "trace"}


def __getattr__(name: str) -> Any:
    """Loaded when they are first used: the command line answers without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'foreseer.workbench' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(f"foreseer.workbench.{_HOME[name]}"), name)
    return value
