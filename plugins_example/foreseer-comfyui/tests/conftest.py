"""These tests run the real ComfyUI, in one process, and fail where it cannot be had."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    """Make ComfyUI importable before the tests are."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    import engine

    engine.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What ComfyUI and its packages warn of is theirs."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:::(comfy|torchsde|torch|numpy|av|aiohttp).*"))
