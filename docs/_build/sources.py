"""Where mkdocstrings finds the sources: an mkdocs hook that lays them out as they are imported."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

LAYOUT = Path(__file__).resolve().parents[2] / ".ci" / "layout.py"
TREE = tempfile.TemporaryDirectory(prefix="foreseer-docs-")  # removed with the process


@event_priority(100)  # mkdocstrings reads its configuration in this event too
def on_config(config: Any) -> Any:
    """Point mkdocstrings to the tree."""
    runpy.run_path(str(LAYOUT))["lay_out"](Path(TREE.name))
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [TREE.name]
    return config
