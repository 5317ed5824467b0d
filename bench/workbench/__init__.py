"""The workbench: record a model once, then replay predictors and gates, plan schedules and tune policies
without it.

The idea that makes it small: with features F_i of the T steps of a run and G_ij = <F_i, F_j>, the squared
error of any weighted sum of recorded features against F_k is quadratic in the weights, with entries of G. T x
T numbers for each site and sample score every linear predictor at every schedule exactly.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

# Loaded when they are first used: the command line imports its commands from here, and must not wait for
# torch.
if TYPE_CHECKING:
    from foreseer.presets import Preset
    from foreseer.schedule_plan import SchedulePlan
    from foreseer.signature import Signature
    from foreseer.workbench.features_store import FeatureStore
    from foreseer.workbench.ledger import Ledger
    from foreseer.workbench.record_settings import RecordSettings
    from foreseer.workbench.recorder import TraceRecorder
    from foreseer.workbench.recording import Recorded, record
    from foreseer.workbench.replay import Replay
    from foreseer.workbench.trace import Trace

__all__ = ["FeatureStore", "Ledger", "Preset", "RecordSettings", "Recorded", "Replay", "SchedulePlan", "Signature", "Trace", "TraceRecorder", "record"]

_HOME = {
    "FeatureStore": "workbench.features_store",
    "Ledger": "workbench.ledger",
    "Preset": "presets",
    "RecordSettings": "workbench.record_settings",
    "Recorded": "workbench.recording",
    "Replay": "workbench.replay",
    "SchedulePlan": "schedule_plan",
    "Signature": "signature",
    "Trace": "workbench.trace",
    "TraceRecorder": "workbench.recorder",
    "record": "workbench.recording",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'foreseer.workbench' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(f"foreseer.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
