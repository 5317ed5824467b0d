"""What the tests of tuning search, on the toy workload."""

from __future__ import annotations

from typing import Any

import attrs

from foreseer.bench.target import Target
from foreseer.workbench.study import Point
from foreseer.workbench.tune import Tuned, TuneSettings

POLICY = "taylorseer:target=last_block"
RANGES = ("interval=1..5", "max_order=0..2", "warmup_steps=1..3")


def settings(**changes: Any) -> TuneSettings:
    given: dict[str, Any] = {"policies": POLICY, "workload": "toy", "target": Target("speedup", 2), "ranges": RANGES, "samples": 3, "batch": 2, "trials": 12}
    return TuneSettings(**{**given, **changes})


def without_times(found: Tuned) -> list[Point]:
    return [attrs.evolve(point, seconds=()) for point in found.points]
