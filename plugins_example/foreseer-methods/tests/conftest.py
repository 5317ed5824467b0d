"""Of each long list of cases about four are tried, spread over it; ``FORESEER_ALL=1`` tries all."""

import os
import sys
import tempfile
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1]


def _as_if_installed() -> None:
    """Say what an editable install would: from a checkout of foreseer the package is tested without one."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    info = Path(tempfile.mkdtemp()) / f"foreseer_methods-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups))
    sys.path += [str(info.parent), str(HERE)]


try:
    metadata.distribution("foreseer-methods")
except metadata.PackageNotFoundError:
    _as_if_installed()

torch.set_num_threads(1)  # tensors this small are computed fastest by one thread

FEW = 4


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    laws: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        laws[item.nodeid.partition("[")[0]].append(item)
    kept = {item for cases in laws.values() for item in (cases if os.environ.get("FORESEER_ALL") or len(cases) <= FEW else cases[:: max(len(cases) // FEW, 2)])}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
