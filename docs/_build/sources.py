"""Where mkdocstrings finds the sources: an mkdocs hook that lays them out as they are imported.

`pyproject.toml` maps the folders of the repository to `foreseer` and its subpackages. mkdocstrings reads
files and not that mapping, so a folder of links shows it the result.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parents[2]
_tree: list[Path] = []


@event_priority(100)  # mkdocstrings reads its configuration in this event too
def on_config(config: Any) -> Any:
    """Point mkdocstrings to the tree."""
    mapping: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    mapped = {ROOT / folder for folder in mapping.values()}
    tree = Path(tempfile.mkdtemp(prefix="foreseer-docs-"))
    _tree.append(tree)
    for package, folder in sorted(mapping.items(), key=lambda item: item[0].count(".")):
        inside = tree.joinpath(*package.split("."))
        inside.mkdir(parents=True, exist_ok=True)
        for path in (ROOT / folder).iterdir():
            if path not in mapped:  # a package of its own
                (inside / path.name).symlink_to(path)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [str(tree)]
    return config


def on_post_build(**_: Any) -> None:
    """Remove the links again."""
    _forget()


def on_build_error(**_: Any) -> None:
    """Remove the links again."""
    _forget()


def _forget() -> None:
    while _tree:
        shutil.rmtree(_tree.pop())
