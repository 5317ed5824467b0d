"""Which of diffusers' transformers a policy can drive, and how: what was found by running them, and what is
installed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

__all__ = ["FOUND", "Finding", "findings", "transformers_with_blocks"]

FOUND = Path(__file__).with_name("models.json")
"""What `tests/survey_models.py` found by running tiny pipelines with random weights."""


@attrs.frozen
class Finding:
    """What was found out about one transformer class, in one pipeline.

    Attributes:
        transformer: Class name.
        pipeline: The pipeline that it was run in; empty where it was not run.
        blocks: Blocks of the tiny model, in execution order.
        guidance: ``"one call"``, ``"batched"`` (rows of a sample together), ``"sequential"`` (several calls
            in a step).
        modules: ``"yes"``, or why module parts cannot be forecast.
        last_block: Likewise for the last block's output.
        output: Likewise for the model's output.
        rows: ``"yes"``: samples of a batch are decided one by one. Else why not.
        notes: What else the reports said.
    """

    transformer: str
    pipeline: str = ""
    blocks: int = 0
    guidance: str = ""
    modules: str = ""
    last_block: str = ""
    output: str = ""
    rows: str = ""
    notes: str = ""


def findings() -> tuple[str, list[Finding]]:
    """Return the version of diffusers that was run, and what was found."""
    data = json.loads(FOUND.read_text())
    return data["diffusers"], [Finding(**entry) for entry in data["findings"]]


def transformers_with_blocks() -> list[str]:
    """Name every transformer class of the installed diffusers whose source has a list of blocks. Imports
    their modules.

    Raises:
        ImportError: Without diffusers.
    """
    return sorted(set(_classes()))


def _classes() -> Iterator[str]:
    import diffusers.models.transformers as package
    from diffusers import ModelMixin

    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and issubclass(cls, ModelMixin) and "nn.ModuleList" in inspect.getsource(cls):
                yield name


def installed_diffusers() -> str:
    """Version of diffusers; empty if it is not installed."""
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return ""
