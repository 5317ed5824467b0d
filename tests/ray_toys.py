"""The toy workload as a worker builds it, in a file of its own. What it draws is noted, and it may take its process along: `ORDERS` says where."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from toy_family import ToyFamily

ORDERS = "FORESEER_TEST_ORDERS"
"""Variable with a folder: ``drawn`` notes what is drawn; ``die`` holds how often a worker shall die, and where; ``slow`` seconds for each draw."""


def note(folder: Path, **what: Any) -> None:
    with (folder / "drawn").open("a") as file:
        file.write(json.dumps(what) + "\n")


class RayToy(ToyFamily):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        slow = self.folder / "slow"
        time.sleep(float(slow.read_text()) if slow.exists() else 0.0)
        note(self.folder, indices=list(indices), steps=num_steps, driven=self._attached, process=os.getpid())
        for order in self.folder.glob("die-*"):
            times, where, driven = json.loads(order.read_text())
            if times and where == list(indices) and driven == self._attached:
                order.write_text(json.dumps([times - 1, where, driven]))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(indices, seed=seed, num_steps=num_steps, guidance=guidance)

    def to_dict(self) -> dict[str, str]:
        return {"family": self.name}


def build() -> RayToy:
    return RayToy(Path((Path(__file__).parent / "nowhere") if ORDERS not in os.environ else os.environ[ORDERS]))
