"""What `foreseer compare` is asked for, and what it found out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from attrs.validators import optional
from torch import Tensor

from foreseer.bench.fields import check_folder, check_guidance, whole
from foreseer.bench.figures import FIGURES
from foreseer.bench.measures import check_measures, names
from foreseer.bench.notebook import summary_html
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.solvers import Solver, solver_from, solvers_from
from foreseer.bench.source import Drawing, Source, named, source_from
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.target import Target
from foreseer.document import plain
from foreseer.files import write_csv
from foreseer.presets import Preset
from foreseer.psnr import likeness_of
from foreseer.registry import PolicySpec, policy
from foreseer.report import Report
from foreseer.zoo.judge import FRECHET_NOTE

__all__ = ["MEASURED", "CompareSettings", "Named", "Result", "Samples", "figures", "whole_lanes", "write_table"]

PER_SAMPLE_NOTE = 'dB; "inf" where a sample is that of full computation, null where it is broken (not finite)'

MEASURED = "measured"
"""Folder of what the harness keeps, which ``foreseer bench report`` reads too."""

Named = str | Path | PolicySpec | Preset


def _policies(value: Any) -> tuple[Named, ...]:
    return (value,) if isinstance(value, Named) else tuple(value)


@attrs.frozen(kw_only=True)
class CompareSettings:
    """What `compare` does. Every value is checked when the settings are made; the policies, when the
    comparison begins.

    Attributes:
        policies: Policies to compare; several may follow. None are those of
            `foreseer.bench.compare_words.usual_policies`. As on the command line
            (``"speca:threshold=0.2,max_order=2"``), presets by name or file, or objects of either. Full
            computation is always there. A preset that was tuned on something else is refused, but for
            ``"preset.json:any_model=True"``; the results then say what differs.
        target: What a policy is wanted for; None for nothing in particular.
        workload: Where samples come from, see `foreseer.bench.source.Source`; a text is the name of a
            workload.
        samples: How many samples each policy draws; None for one for each prompt, or 64.
        steps: Denoising steps of a full computation, 1 to 1000; None for the workload's own number.
        seed: Seed of the initial noise. Sample i begins with the same noise whatever ``batch`` is.
        batch: Samples that are drawn together; None for 1 of a pipeline of yours, or 32.
        guidance: Weight of the guidance; None for the workload's own.
        solvers: Other solvers to draw plainly with, beside each policy with as many evaluations as it computes,
            such as dpmpp_2m or unipc:spacing=uniform; see `foreseer.bench.solvers`. Several may follow.
        reference: Solver of a converged reference, which is drawn once with many steps and kept; then every row
            has a PSNR to it, too. None for none.
        reference_steps: Steps of the reference; half as many prove that it has converged.
        observers: Observers of every policy's runs; several may follow. As on the command line
            (``"csvtrace:path=trace.csv"``), or plugins. Built once; timed with the runs.
        measures: Quality measures beside PSNR and SSIM, by the names that ``foreseer measures`` lists, with
            options as policies have them: ``"lpips:net=vgg"``; several may follow. One that lacks a package
            or its weights is left out, and the results say how to get it.
        out: Folder for the results; made if it is missing. The same settings go on with what is there; other
            ones are refused.
        restart: Throw away what is there.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    policies: tuple[Named, ...] = attrs.field(default=(), converter=_policies)
    target: Target | None = None
    workload: Drawing = attrs.field(factory=Source, converter=source_from)
    samples: int | None = attrs.field(default=None, validator=optional(whole(1)))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, 1000)))
    seed: int = attrs.field(default=0, validator=whole(0))
    batch: int | None = attrs.field(default=None, validator=optional(whole(1)))
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    solvers: tuple[Solver, ...] = attrs.field(default=(), converter=solvers_from)
    reference: Solver | None = attrs.field(default=None, converter=solver_from)
    reference_steps: int = attrs.field(default=400, validator=whole(2, 100_000))
    observers: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    measures: tuple[str, ...] = attrs.field(default=(), converter=names, validator=check_measures)
    out: Path = attrs.field(default=Path("compare"), converter=Path, validator=check_folder)
    restart: bool = False

    def specs(self) -> list[PolicySpec]:
        """Return the policies, read and checked; what is named twice is there once.

        Raises:
            PluginError, OptionError: See `foreseer.policy`.
        """
        return list({str(spec): spec for spec in map(policy, self.policies)}.values())


class Samples(Mapping[str, list[Tensor]]):
    """What was drawn, by the names of rows, read from disk where it is asked for: videos of all rows may not
    fit into memory. Each is a list of ``(C, H, W)`` or ``(F, C, H, W)`` float32 in about [-1, 1].
    """

    def __init__(self, names: Sequence[str] = (), read: Callable[[str], list[Tensor]] = lambda name: []) -> None:
        self._names, self._read = {name: name for name in names}, read

    def __getitem__(self, name: str) -> list[Tensor]:
        return self._read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@attrs.frozen(eq=False, kw_only=True)
class Result:
    """What `compare` found out, over the N samples whose batches were finished.

    Attributes:
        settings: What was asked for, with the workload's own numbers where nothing was said.
        results: What was measured on these batches.
        samples: The N samples of each row, see `Samples`.
        reports: For each policy the report of its first batch.
        interrupted: Whether Ctrl-C ended the comparison early.
        facts: Machine and versions.
    """

    settings: CompareSettings
    results: Results = attrs.field(repr=False)
    samples: Samples = attrs.field(repr=False)
    reports: Mapping[str, Report] = attrs.field(repr=False)
    interrupted: bool
    facts: Mapping[str, str]

    @property
    def batches(self) -> int:
        """How many batches were finished."""
        return len(self.results.lanes[0].units)

    @property
    def count(self) -> int:
        """N, how many samples were finished."""
        return len(self.results.lanes[0].indices)

    @property
    def batch(self) -> int:
        """Samples that were drawn together."""
        return self.results.lanes[0].batch

    @property
    def page(self) -> Path:
        """The page that shows it all."""
        return self.settings.out / "index.html"

    def _repr_html_(self) -> str:

        return summary_html(self.results, self.settings.out / MEASURED, page=self.page)

    @property
    def rows(self) -> tuple[Line, ...]:
        """Full computation, then each policy, and after it the fewer steps of its cost if they are not there
        already. What failed has none.
        """
        lines = {line.lane.name: line for line in lines_of(self.results, self.batch) if len(line.lane.units) == self.batches}
        others = (line for line in lines.values() if line.lane.kind != "fewer")
        names = [name for line in others for name in (line.lane.name, line.fewer, line.solver) if name in lines]
        return tuple(lines[name] for name in dict.fromkeys(names))

    @property
    def failed(self) -> list[LaneResult]:
        """The policies that raised something, with their ``error``."""
        return [lane for lane in self.results.lanes if lane.error]

    def row(self, name: str) -> Line:
        """Return the row of that name. Raises KeyError."""
        return {row.lane.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``results.json`` holds."""
        left_out = ("policies", "target", "workload", "observers", "out", "restart", "solvers", "reference", "reference_steps")
        chosen = attrs.asdict(self.settings, filter=lambda field, _: field.name not in left_out)
        return {
            "settings": {"policies": [str(p) for p in self.settings.policies], **named(self.settings.workload), **chosen}
            | {name: value for name, value in self.results.settings.items() if name in ("solvers", "reference", "reference_steps")}
            | ({} if self.settings.target is None else {"target": str(self.settings.target)}),
            "samples": self.count,
            "batches": self.batches,
            "interrupted": self.interrupted,
            "facts": dict(self.facts),
            "notes": {"frechet_distance": FRECHET_NOTE, "psnr_per_sample": PER_SAMPLE_NOTE},
            "conditions": list(self.results.conditions[: self.count]),
            "rows": [
                figures(row)
                | {
                    "psnr_per_sample": [plain(v) for v in row.lane.values("psnr")],
                    "steps_per_sample": list(map(int, row.lane.steps)),
                    "seconds_of_batches": [seconds for unit in row.lane.units for seconds in unit.clock_seconds],
                    "speedup_of_batches": list(row.lane.ratios),
                    "warnings": row.warnings,
                }
                for row in self.rows
            ],
        }


def whole_lanes(results: Results, numbers: Iterable[int]) -> Results:
    """Return what was measured at one batch size on some batches. Lanes that have not finished them are left
    out, unless they failed.
    """
    whole = set(numbers)
    lanes = [attrs.evolve(lane, units=tuple(u for u in lane.units if u.number in whole)) for lane in results.lanes]
    return attrs.evolve(results, lanes=tuple(lane for lane in lanes if lane.error or len(lane.units) == len(whole)))


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
        "ssim_mean": line.means.get("ssim", math.nan),
        "frechet_distance": line.frechet,
        "accuracy": line.means.get("accuracy", math.nan),
        "seconds_per_batch": np.median([seconds for unit in lane.units for seconds in unit.clock_seconds]),
        "bytes_held": line.bytes_held,
        "gain_over_fewer_steps_db": line.gain,
    }
    for name in (name for name in line.means if name == "truth" or name not in FIGURES):
        values |= {f"{name}_mean": line.means[name], f"{name}_worst": line.worst[name]}
    if "truth" in line.means:
        values["gain_over_best_solver_db"] = line.truth_gain
    head = {"name": lane.name, "kind": lane.kind, "samples": len(psnr), "num_steps": lane.num_steps}
    return head | {name: _finite(value) for name, value in values.items()} | {"fewer_steps": line.fewer or None, "best_solver": line.solver or None}


def _finite(value: Any) -> Any:
    """Return a number that JSON can hold: None for what is not finite."""
    if not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def write_table(result: Result, path: Path) -> Path:
    """Write the rows' figures as CSV; empty where a figure is not finite."""
    lines = [figures(row) for row in result.rows]
    return write_csv(path, list(lines[0]), lines)
