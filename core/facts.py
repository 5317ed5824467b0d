"""What happened in a run, as data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.files import write_whole
from foreseer.outcome import Outcome
from foreseer.types import Run, Site

__all__ = ["Facts"]


@attrs.frozen(eq=False)
class Facts:
    """The account of one run, T steps so far, R rows.

    Attributes:
        policy: The policy and its options, as one would write them on the command line.
        run: The shape of the run.
        outcomes: ``(T,)`` how each step ended.
        bytes_held: For each recorded site, the most bytes that its features occupied.
        warnings: What the user should know, in sentences.
        finished: Whether the run ended; False while it is under way.
        check_block_rows: Block-rows that the host spent on checking itself, on top of ``block_rows``.
        promise: What the policy's preset promises of runs like this one, as a sentence; empty where nothing.
    """

    policy: str
    run: Run
    outcomes: tuple[Outcome, ...] = attrs.field(repr=False)
    bytes_held: Mapping[Site, int] = attrs.field(repr=False)
    warnings: tuple[str, ...]
    finished: bool
    check_block_rows: int = 0
    promise: str = ""

    @property
    def full_steps(self) -> list[int]:
        """Indices of the steps in which every row was computed."""
        return [o.step.index for o in self.outcomes if o.full]

    @property
    def steps_computed(self) -> float:
        """Steps that were computed for a row, in the mean over the rows: what tables of results call steps.

        Where rows differ it is more than the number of `full_steps`. 0 before the first step.
        """
        return float(self.computed.sum(axis=0).mean())

    @property
    def computed(self) -> NDArray[np.bool_]:
        """``(T, R)`` True where the row was computed."""
        return np.array([o.computed for o in self.outcomes], dtype=bool).reshape(-1, self.run.rows)

    @property
    def error(self) -> NDArray[np.float32]:
        """``(T, R)`` the gate's error, NaN where nothing was judged."""
        return np.array([o.error for o in self.outcomes], dtype=np.float32).reshape(-1, self.run.rows)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """``(T,)`` whether a gate was asked."""
        return np.array([o.accept is not None for o in self.outcomes], dtype=bool)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """``(T, R)`` True where a gate refused the draft and the row was computed for that reason."""
        rows = [tuple(not a for a in o.accept) if o.accept is not None else (False,) * self.run.rows for o in self.outcomes]
        return np.array(rows, dtype=bool).reshape(-1, self.run.rows)

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """``(T,)`` what the errors were held against, NaN where nothing was judged."""
        return np.array([o.threshold for o in self.outcomes], dtype=np.float64)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """``(T,)`` host seconds of each step. On an accelerator a step may still run when its time is taken."""
        return np.array([o.seconds for o in self.outcomes], dtype=np.float64)

    @property
    def reasons(self) -> list[str]:
        """Why each step went as it did."""
        return [o.reason for o in self.outcomes]

    @property
    def block_rows(self) -> int:
        """Blocks evaluated x rows, over the run so far."""
        return sum(o.block_rows for o in self.outcomes)

    @property
    def block_rows_ratio(self) -> float:
        """Block-rows over those of computing everything; NaN before the first step."""
        full = len(self.outcomes) * self.run.depth * self.run.rows
        return self.block_rows / full if full else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what `to_json` writes. Numbers that are not finite become None."""
        return {
            "policy": self.policy,
            "finished": self.finished,
            "depth": self.run.depth,
            "rows": self.run.rows,
            "groups": list(self.run.groups),
            "num_steps": self.run.num_steps,
            "stream": self.run.stream,
            "full_steps": self.full_steps,
            "block_rows": self.block_rows,
            "block_rows_ratio": _finite(self.block_rows_ratio),
            "check_block_rows": self.check_block_rows,
            "bytes_held": {str(site): held for site, held in self.bytes_held.items()},
            "warnings": list(self.warnings),
            "promise": self.promise,
            "steps": [
                {
                    "index": o.step.index,
                    "timestep": None if o.step.timestep is None else _finite(o.step.timestep),
                    "computed": list(o.computed),
                    "error": [_finite(e) for e in o.error],
                    "accept": None if o.accept is None else list(o.accept),
                    "threshold": _finite(o.threshold),
                    "block_rows": o.block_rows,
                    "seconds": o.seconds,
                    "kind": o.kind.value,
                    "reason": o.reason,
                }
                for o in self.outcomes
            ],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the report as JSON, and write it to ``path`` if one is given."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            write_whole(Path(path), text + "\n")
        return text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
