"""What `foreseer compare` found out: the lines of its table, and all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.clock import possible, speedup_text
from foreseer.bench.compare_settings import CompareSettings
from foreseer.bench.results import Results
from foreseer.bench.summary import Line, lines_of
from foreseer.document import plain
from foreseer.psnr import Likeness, likeness_of
from foreseer.report import Report
from foreseer.zoo.judge import FRECHET_NOTE

__all__ = ["Result", "Row", "rows_of"]

PER_SAMPLE_NOTE = 'dB; "inf" where a sample is that of full computation, null where it is broken (not finite)'


@attrs.frozen(eq=False, kw_only=True)
class Row:
    """One lane over all N finished samples: a line of the table.

    Attributes:
        name: Of the lane.
        kind: Of the lane, see `foreseer.bench.results.LaneResult`.
        num_steps: DDIM steps, which a policy computes or forecasts.
        steps: ``(N,)`` steps computed for each sample.
        ratio: Block-rows over those of full computation; 1 / ratio is the speed-up that the saved blocks promise.
        seconds: Seconds of each batch, by the clock.
        speedups: For each batch, time of full computation over that of this lane: of the processor on a CPU, by
            the clock on a GPU.
        psnr: ``(N,)`` dB against full computation; infinite where the sample is the same, NaN where it is
            broken, that is not finite. ``likeness`` says what they come to.
        ssim: ``(N,)`` against full computation.
        frechet: Distance to the data, see ``FRECHET_NOTE``; NaN for a single sample, or where a sample is not finite.
        accuracy: Share of the samples that a classifier puts into the class they were made for.
        bytes_held: Most bytes that recorded features occupied during a batch.
        fewer: Name of the lane that computes as many steps without a policy; None where there is none.
        gain: Mean PSNR less that of ``fewer``, in dB; None where there is none.
        warnings: From the reports of all batches.
    """

    name: str
    kind: str
    num_steps: int
    steps: NDArray[np.int64] = attrs.field(repr=False)
    ratio: float
    seconds: tuple[float, ...] = attrs.field(repr=False)
    speedups: tuple[float, ...] = attrs.field(repr=False)
    psnr: NDArray[np.float64] = attrs.field(repr=False)
    ssim: NDArray[np.float64] = attrs.field(repr=False)
    frechet: float
    accuracy: float
    bytes_held: int
    fewer: str | None = None
    gain: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def likeness(self) -> Likeness:
        """What the samples' PSNRs come to."""
        return likeness_of(self.psnr)

    @property
    def speedup(self) -> float:
        """Median over the batches of the measured speed-up; NaN where it is more than the saved work allows."""
        return possible(float(np.median(self.speedups)), self.ratio)

    @property
    def label(self) -> str:
        """Name and measured speed-up."""
        return self.name if self.kind == "full" else f"{self.name}, {speedup_text(self.speedup)}"

    def figures(self) -> dict[str, Any]:
        """Return the scalars by name, as they are written to files. What is not finite is None."""
        like = self.likeness
        values = {
            "steps_computed": self.steps.mean(),
            "steps_computed_min": self.steps.min(),
            "steps_computed_max": self.steps.max(),
            "block_rows_ratio": self.ratio,
            "speedup": self.speedup,
            "speedup_min": min(self.speedups),
            "speedup_max": max(self.speedups),
            "speedup_promised": 1.0 / self.ratio,
            "psnr_mean": like.mean,
            "psnr_worst": like.worst,
            "identical_samples": like.same,
            "broken_samples": like.broken,
            "ssim_mean": self.ssim.mean(),
            "frechet_distance": self.frechet,
            "accuracy": self.accuracy,
            "seconds_per_batch": float(np.median(self.seconds)),
            "bytes_held": self.bytes_held,
            "gain_over_fewer_steps_db": self.gain,
        }
        head = {"name": self.name, "kind": self.kind, "samples": len(self.psnr), "num_steps": self.num_steps}
        return head | {name: _finite(value) for name, value in values.items()} | {"fewer_steps": self.fewer}


@attrs.frozen(eq=False, kw_only=True)
class Result:
    """What `compare` found out, over the N samples whose batches were finished.

    Attributes:
        settings: What was asked for.
        rows: The table: full computation, then each policy with the fewer-steps lane of its cost after it, where that is not there already.
        samples: For each row's name ``(N, 1, H, W)`` float32 samples in about [-1, 1].
        labels: ``(N,)`` classes.
        reports: For each policy the report of its first batch.
        batches: How many batches were finished.
        interrupted: Whether Ctrl-C ended the comparison early.
        facts: Machine and versions.
    """

    settings: CompareSettings
    rows: tuple[Row, ...]
    samples: Mapping[str, Tensor] = attrs.field(repr=False)
    labels: Tensor = attrs.field(repr=False)
    reports: Mapping[str, Report] = attrs.field(repr=False)
    batches: int
    interrupted: bool
    facts: Mapping[str, str]

    @property
    def page(self) -> Path:
        """The page that shows it all."""
        return self.settings.out / "index.html"

    def row(self, name: str) -> Row:
        """Return the row of that name. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]

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
                row.figures()
                | {
                    "psnr_per_sample": [plain(v) for v in row.psnr.tolist()],
                    "steps_per_sample": row.steps.tolist(),
                    "seconds_of_batches": list(row.seconds),
                    "speedup_of_batches": list(row.speedups),
                    "warnings": list(row.warnings),
                }
                for row in self.rows
            ],
        }


def rows_of(results: Results, numbers: Iterable[int]) -> tuple[Row, ...]:
    """Return the table of a comparison: full computation, then each policy, and after it the fewer steps of its cost if they are not there already.

    Args:
        results: What was measured, at one batch size.
        numbers: The batches that count. Lanes that have not finished them are left out.
    """
    whole = set(numbers)
    lanes = [attrs.evolve(lane, units=tuple(u for u in lane.units if u.number in whole)) for lane in results.lanes]
    done = attrs.evolve(results, lanes=tuple(lane for lane in lanes if len(lane.units) == len(whole)))
    lines = {line.lane.name: line for line in lines_of(done, done.lanes[0].batch)}
    names = [name for line in lines.values() if line.lane.kind != "fewer" for name in (line.lane.name, line.fewer) if name]
    return tuple(_row(lines[name]) for name in dict.fromkeys(names))


def _row(line: Line) -> Row:
    lane = line.lane
    return Row(
        name=lane.name,
        kind=lane.kind,
        num_steps=lane.num_steps,
        steps=np.array(lane.steps).astype(np.int64),
        ratio=line.cost,
        seconds=tuple(seconds for unit in lane.units for seconds in unit.clock_seconds),
        speedups=tuple(lane.ratios),
        psnr=np.array(lane.values("psnr")),
        ssim=np.array(lane.values("ssim")),
        frechet=line.frechet,
        accuracy=line.means["accuracy"],
        bytes_held=line.bytes_held,
        fewer=line.fewer or None,
        gain=line.gain if line.fewer else None,
        warnings=tuple(dict.fromkeys(warning for unit in lane.units for warning in unit.warnings)),
    )


def _finite(value: Any) -> Any:
    """Return a number that JSON can hold: None for what is not finite."""
    if value is None or not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
