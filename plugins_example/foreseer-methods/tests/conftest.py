"""Of each long list of cases about a dozen are tried, spread over it; ``FORESEER_ALL=1`` tries all."""

import os
from collections import defaultdict

import pytest
import torch

torch.set_num_threads(1)  # tensors this small are computed fastest by one thread

FEW = 12


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    laws: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        laws[item.nodeid.partition("[")[0]].append(item)
    kept = {item for cases in laws.values() for item in (cases if os.environ.get("FORESEER_ALL") or len(cases) <= FEW else cases[:: max(len(cases) // FEW, 2)])}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
