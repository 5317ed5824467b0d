"""Feature forecasting for diffusion transformers, with policies as plugins.

In a sampling loop of your own:

    import foreseer

    with foreseer.attach(model, "taylorseer:interval=4,warmup_steps=2,max_order=1") as attached:
        with attached.run(timesteps=timesteps):
            ...
    print(attached.report)
"""

if __name__ != "foreseer":  # the folder is called core: `import core` from a checkout would make a second, broken copy
    raise ImportError("import foreseer, not core: install the package first (pip install -e .)")

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

# Loaded when they are first used: `foreseer policies` and `foreseer --help` then answer at once, where
# importing torch takes longer than they do.
if TYPE_CHECKING:
    from foreseer import errors, metrics, options
    from foreseer.adapters._attach import attach
    from foreseer.adapters._detach import detach
    from foreseer.adapters.attachment import Attachment
    from foreseer.backbone import Backbone, Pass
    from foreseer.errors import (
        AnswerError,
        ContractError,
        ForeseerError,
        OptionError,
        OverBudgetError,
        PluginError,
        PolicyConflictError,
        UnsupportedModelError,
    )
    from foreseer.hookspecs import PolicySpecs, hookimpl
    from foreseer.listing import list_plugins
    from foreseer.loop import sample
    from foreseer.observerspecs import ObserverSpecs
    from foreseer.outcome import Kind, Outcome
    from foreseer.plugins import Part
    from foreseer.registry import PolicySpec, cite, policy
    from foreseer.report import Report
    from foreseer.session import Session
    from foreseer.storage import Storage
    from foreseer.types import LATENT, MODULATED, OUTPUT, STREAM, TIME, Evidence, History, Late, Live, Needs, Plan, Probe, Run, Site, Step, Verdict, Weights
    from foreseer.versions import CONTRACT

__version__ = _version("foreseer")

__all__ = [
    "CONTRACT",
    "LATENT",
    "MODULATED",
    "OUTPUT",
    "STREAM",
    "TIME",
    "AnswerError",
    "Attachment",
    "Backbone",
    "ContractError",
    "Evidence",
    "ForeseerError",
    "History",
    "Kind",
    "Late",
    "Live",
    "Needs",
    "ObserverSpecs",
    "OptionError",
    "Outcome",
    "OverBudgetError",
    "Part",
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
    "Storage",
    "UnsupportedModelError",
    "Verdict",
    "Weights",
    "attach",
    "cite",
    "detach",
    "errors",
    "hookimpl",
    "list_plugins",
    "metrics",
    "options",
    "policy",
    "sample",
]

_HOMES = {
    "adapters": ("Attachment", "attach", "detach"),
    "backbone": ("Backbone", "Pass"),
    "errors": (
        "AnswerError",
        "ContractError",
        "ForeseerError",
        "OptionError",
        "OverBudgetError",
        "PluginError",
        "PolicyConflictError",
        "UnsupportedModelError",
    ),
    "hookspecs": ("PolicySpecs", "hookimpl"),
    "observerspecs": ("ObserverSpecs",),
    "loop": ("sample",),
    "outcome": ("Kind", "Outcome"),
    "plugins": ("Part",),
    "listing": ("list_plugins",),
    "registry": ("PolicySpec", "cite", "policy"),
    "report": ("Report",),
    "session": ("Session",),
    "storage": ("Storage",),
    "types": (
        "LATENT",
        "MODULATED",
        "OUTPUT",
        "STREAM",
        "TIME",
        "Evidence",
        "History",
        "Late",
        "Live",
        "Needs",
        "Plan",
        "Probe",
        "Run",
        "Site",
        "Step",
        "Verdict",
        "Weights",
    ),
    "versions": ("CONTRACT",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("errors", "metrics", "options")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _import_module(f"foreseer.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'foreseer' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(f"foreseer.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
