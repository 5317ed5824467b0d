"""What `foreseer compare` found out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from foreseer.bench.compare_settings import CompareSettings
from foreseer.bench.results import Results
from foreseer.bench.summary import Line, lines_of
from foreseer.document import plain
from foreseer.psnr import likeness_of
from foreseer.report import Report
from foreseer.zoo.judge import FRECHET_NOTE

__all__ = ["Result", "figures", "warnings_of", "whole_lanes"]

PER_SAMPLE_NOTE = 'dB; "inf" where a sample is that of full computation, null where it is broken (not finite)'


@attrs.frozen(eq=False, kw_only=True)
class Result:
    """What `compare` found out, over the N samples whose batches were finished.

    Attributes:
        settings: What was asked for.
        results: What was measured on these batches.
        samples: For each row's name ``(N, 1, H, W)`` float32 samples in about [-1, 1].
        labels: ``(N,)`` classes.
        reports: For each policy the report of its first batch.
        interrupted: Whether Ctrl-C ended the comparison early.
        facts: Machine and versions.
    """

    settings: CompareSettings
    results: Results = attrs.field(repr=False)
    samples: Mapping[str, Tensor] = attrs.field(repr=False)
    labels: Tensor = attrs.field(repr=False)
    reports: Mapping[str, Report] = attrs.field(repr=False)
    interrupted: bool
    facts: Mapping[str, str]

    @property
    def batches(self) -> int:
        """How many batches were finished."""
        return len(self.results.lanes[0].units)

    @property
    def page(self) -> Path:
        """The page that shows it all."""
        return self.settings.out / "index.html"

    @property
    def rows(self) -> tuple[Line, ...]:
        """Full computation, then each policy, and after it the fewer steps of its cost if they are not there
        already.
        """
        lines = {line.lane.name: line for line in lines_of(self.results, self.settings.batch)}
        others = (line for line in lines.values() if line.lane.kind != "fewer")
        names = [name for line in others for name in (line.lane.name, line.fewer) if name]
        return tuple(lines[name] for name in dict.fromkeys(names))

    def row(self, name: str) -> Line:
        """Return the row of that name. Raises KeyError."""
        return {row.lane.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``results.json`` holds."""
        chosen = attrs.asdict(self.settings, filter=lambda field, _: field.name not in ("policies", "observers", "out"))
        return {
            "settings": {"policies": [str(p) for p in self.settings.policies], **chosen},
            "samples": len(self.labels),
            "batches": self.batches,
            "interrupted": self.interrupted,
            "facts": dict(self.facts),
            "notes": {"frechet_distance": FRECHET_NOTE, "psnr_per_sample": PER_SAMPLE_NOTE},
            "labels": self.labels.tolist(),
            "rows": [
                figures(row)
                | {
                    "psnr_per_sample": [plain(v) for v in row.lane.values("psnr")],
                    "steps_per_sample": list(map(int, row.lane.steps)),
                    "seconds_of_batches": [seconds for unit in row.lane.units for seconds in unit.clock_seconds],
                    "speedup_of_batches": list(row.lane.ratios),
                    "warnings": warnings_of(row),
                }
                for row in self.rows
            ],
        }


def whole_lanes(results: Results, numbers: Iterable[int]) -> Results:
    """Return the results on some batches.

    Args:
        results: What was measured, at one batch size.
        numbers: The batches that count. Lanes that have not finished them are left out.
    """
    whole = set(numbers)
    lanes = [attrs.evolve(lane, units=tuple(u for u in lane.units if u.number in whole)) for lane in results.lanes]
    return attrs.evolve(results, lanes=tuple(lane for lane in lanes if len(lane.units) == len(whole)))


def warnings_of(line: Line) -> list[str]:
    """Return what the runs of a lane warned of, each once."""
    return list(dict.fromkeys(warning for unit in line.lane.units for warning in unit.warnings))


def figures(line: Line) -> dict[str, Any]:
    """Return a row's scalars by name, as they are written to files. What is not finite is None."""
    lane, psnr = line.lane, np.array(line.lane.values("psnr"))
    like, steps, ratios = likeness_of(psnr), np.array(lane.steps).astype(np.int64), lane.ratios or (1.0,)
    values = {
        "steps_computed": steps.mean(),
        "steps_computed_min": steps.min(),
        "steps_computed_max": steps.max(),
        "block_rows_ratio": line.cost,
        "speedup": line.speedup,
        "speedup_min": min(ratios),
        "speedup_max": max(ratios),
        "speedup_promised": 1.0 / line.cost,
        "psnr_mean": like.mean,
        "psnr_worst": like.worst,
        "identical_samples": like.same,
        "broken_samples": like.broken,
        "ssim_mean": line.means["ssim"],
        "frechet_distance": line.frechet,
        "accuracy": line.means["accuracy"],
        "seconds_per_batch": np.median([seconds for unit in lane.units for seconds in unit.clock_seconds]),
        "bytes_held": line.bytes_held,
        "gain_over_fewer_steps_db": line.gain,
    }
    head = {"name": lane.name, "kind": lane.kind, "samples": len(psnr), "num_steps": lane.num_steps}
    return head | {name: _finite(value) for name, value in values.items()} | {"fewer_steps": line.fewer or None}


def _finite(value: Any) -> Any:
    """Return a number that JSON can hold: None for what is not finite."""
    if not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
