"""foreseer: feature forecasting for diffusion transformers, with policies as plugins.

import foreseer
with foreseer.attach(model, "speca", threshold=0.1) as attached:
with attached.run(timesteps=timesteps):
...                                  # your own sampling loop
print(attached.report)
"""

if __name__ != "foreseer":  # the folder is called core: `import core` from a checkout would make a second, broken copy
    raise ImportError("import foreseer, not core: install the package first (pip install -e .)")

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from foreseer.backbone import Backbone, Pass
from foreseer.errors import (
    ContractError,
    ForeseerError,
    OptionError,
    OverBudgetError,
    PluginError,
    PolicyConflictError,
    UnsupportedModelError,
)
from foreseer.hookspecs import ObserverSpecs, PolicySpecs, hookimpl
from foreseer.loop import sample
from foreseer.registry import PolicySpec, cite, list_plugins, policy
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import OUTPUT, Evidence, History, Needs, Outcome, Plan, Probe, Run, Site, Step, Verdict, Weights

if TYPE_CHECKING:
    from foreseer.adapters import Attachment, attach

__version__ = _version("foreseer")

__all__ = [
    "OUTPUT",
    "Attachment",
    "Backbone",
    "ContractError",
    "Evidence",
    "ForeseerError",
    "History",
    "Needs",
    "ObserverSpecs",
    "OptionError",
    "Outcome",
    "OverBudgetError",
    "Pass",
    "Plan",
    "PluginError",
    "PolicyConflictError",
    "PolicySpec",
    "PolicySpecs",
    "Probe",
    "Report",
    "Run",
    "Session",
    "Site",
    "Step",
    "UnsupportedModelError",
    "Verdict",
    "Weights",
    "attach",
    "cite",
    "hookimpl",
    "list_plugins",
    "policy",
    "sample",
]


def __getattr__(name: str) -> Any:
    # The adapters import the engine; loading them on first use keeps the engine importable without them.
    if name in ("attach", "Attachment"):
        import foreseer.adapters

        return getattr(foreseer.adapters, name)
    raise AttributeError(f"module 'foreseer' has no attribute {name!r}")
