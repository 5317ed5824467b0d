"""What a benchmark found, as it lies in ``results.json``: the schema, and how it is read and written.

Figures per sample are lists in the order of the samples; where a figure does not exist it is None, and an
infinite PSNR (the sample is the same) is ``inf``, which the file writes as the text "inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from foreseer.bench.clock import possible
from foreseer.bench.figures import FIGURES, Figure
from foreseer.document import plain, structured
from foreseer.errors import OptionError
from foreseer.files import write_whole

__all__ = ["FIGURES", "FILE", "SCHEMA", "Counted", "Figure", "LaneResult", "Results", "Unit"]

SCHEMA = "1.3"
"""Version of the schema: a reader of 1.x reads every 1.y; what 2.0 writes, it refuses."""

FILE = "results.json"


@attrs.frozen(kw_only=True)
class Unit:
    """One lane on one batch of B samples: what is finished, or not there at all.

    Attributes:
        number: Of the batch.
        indices: ``(B,)`` which samples.
        steps: ``(B,)`` steps that were computed for each; a fraction where a peer computes parts of a step.
        block_rows: Blocks evaluated x rows, over the run.
        figures: By name, see `Results.figures`: ``(B,)`` numbers.
        seconds: Of each timed run of the lane on this batch, as `foreseer.bench.clock.Took` counts them;
            empty where it was not timed. In results of schema 1.0 they are by the clock.
        full_seconds: Of full computation beside each of them.
        clock_seconds: Of each timed run, by the clock; empty in results of schema 1.0.
        bytes_held: Bytes that recorded features occupied.
        warnings: From the reports.
        failed: Measures that raised, by name, and what.
        where: The worker that measured it, its ``node`` and hardware; empty in the process of `Results.machine`.
    """

    number: int
    indices: tuple[int, ...]
    steps: tuple[float, ...]
    block_rows: float
    figures: Mapping[str, tuple[float | None, ...]]
    seconds: tuple[float, ...] = ()
    full_seconds: tuple[float, ...] = ()
    clock_seconds: tuple[float, ...] = ()
    bytes_held: int = 0
    warnings: tuple[str, ...] = ()
    failed: Mapping[str, str] = attrs.field(factory=dict)
    where: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def said(self) -> tuple[str, ...]:
        """What it warns of: the reports, and measures that failed."""
        lost = (f"Measure {name!r} failed, so that its column is empty: {why}" for name, why in self.failed.items())
        return (*self.warnings, *lost)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Speed-up of each timed run over its neighbour."""
        return tuple(full / own for own, full in zip(self.seconds, self.full_seconds, strict=True))


@attrs.define(kw_only=True)
class Counted:
    """What the first batch cost, counted in a run of its own.

    Attributes:
        flops: Floating point operations of matrix products, convolutions and attention (torch's counter; a
            multiplication and an addition are two).
        peak_bytes: Most bytes of tensors that were made during it and alive at once; on CUDA, of the
            allocator beyond what was allocated before.
        held_bytes: Bytes that were made during it and still alive at its end, before a peer is disabled: what
            a cache keeps, and the little that was drawn; 0 in results that did not count them.
        peak_how: ``"tensors"`` or ``"cuda allocator"``.
    """

    flops: int = 0
    peak_bytes: int = 0
    peak_how: str = "tensors"
    held_bytes: int = 0


@attrs.frozen(kw_only=True)
class LaneResult:
    """One way of sampling.

    Attributes:
        name: Unique among the lanes of one batch size.
        kind: ``"full"``, ``"policy"``, ``"peer"``, or ``"fewer"``: the bare model with fewer steps, of the
            workload's own solver or of another.
            ``"static"`` and ``"hindsight"``: schedules that were planned on these samples, see
            `foreseer.workbench.headroom`.
        batch: Samples that were drawn together.
        num_steps: Denoising steps of the loop; on another solver, evaluations of the model.
        solver: Which other solver took the steps; empty for the workload's own.
        method: Name of the policy or peer; empty for the bare model.
        options: Its options: all of them, defaults included, so that lanes can be compared without the
            version that made them.
        units: What is finished, by the batch's number.
        counted: Cost of the first batch.
        frechet: Frechet distance to the data over all finished samples; None for fewer than two, or where a
            sample is not finite.
        reports: Of the first batch: for each stream the run's account, as `foreseer.Report.to_dict` writes
            it.
        error: Where the lane failed, in one line; what was finished before stays, and the same command tries
            the rest again.
    """

    name: str
    kind: Literal["full", "policy", "peer", "fewer", "static", "hindsight"]
    batch: int
    num_steps: int
    solver: str = ""
    method: str = ""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    units: tuple[Unit, ...] = ()
    counted: Counted | None = None
    frechet: float | None = None
    reports: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    error: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """Name and batch size."""
        return self.name, self.batch

    def values(self, figure: str) -> list[float]:
        """Return a figure of all finished samples, in the order of the samples; NaN where it does not exist."""
        return [math.nan if v is None else v for unit in self.units for v in unit.figures.get(figure, (None,) * len(unit.indices))]

    def has(self, figure: str) -> bool:
        """Whether all finished samples have a figure, be it NaN, and there are some."""
        return bool(self.units) and all(figure in unit.figures for unit in self.units)

    @property
    def indices(self) -> list[int]:
        """Which samples are finished."""
        return [i for unit in self.units for i in unit.indices]

    @property
    def steps(self) -> list[float]:
        """Steps computed for each finished sample."""
        return [s for unit in self.units for s in unit.steps]

    @property
    def block_rows(self) -> float:
        """Over all finished batches."""
        return sum(unit.block_rows for unit in self.units)

    @property
    def by_clock(self) -> bool:
        """Whether its times are surely by the clock: those of schema 1.0 are."""
        return not any(unit.clock_seconds for unit in self.units)

    @property
    def ratios(self) -> list[float]:
        """Measured speed-up of each timed run."""
        return [r for unit in self.units for r in unit.ratios]


@attrs.frozen(kw_only=True)
class Results:
    """A benchmark, finished or under way.

    Attributes:
        schema: Version of this schema.
        family: What was drawn with.
        about: A sentence for readers.
        num_steps, seed, guidance: As they were used; no guidance is what a pipeline does by itself.
        settings: As asked for, plain; what a resumed run must be given again.
        machine: Processor, system, threads, memory, GPU.
        versions: Of Python and the packages.
        git: Commit of foreseer, and whether files were changed since; empty outside of a checkout.
        depth: Blocks of the model.
        lanes: In the order in which they are shown.
        batches: Which samples are drawn together, by batch size as text, where that was chosen; empty where
            they are drawn in their order.
        conditions: ``(samples,)`` what each sample was asked to be, for readers; empty where it is not known.
        published: What papers printed.
        finished: Whether everything that was asked for is there.
        measures: What is to be known of the measures that were asked for, by name.
        missing: Of those that could not be had, why, in one line each.
        reference: The converged reference, see `foreseer.bench.reference.Reference.to_dict`; empty for none.
    """

    schema: str = SCHEMA
    family: str
    about: str = ""
    num_steps: int
    seed: int
    guidance: float | None
    settings: Mapping[str, Any]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    git: Mapping[str, Any] = attrs.field(factory=dict)
    depth: int
    lanes: tuple[LaneResult, ...] = ()
    batches: Mapping[str, tuple[tuple[int, ...], ...]] = attrs.field(factory=dict)
    conditions: tuple[str, ...] = ()
    published: tuple[Mapping[str, Any], ...] = ()
    finished: bool = False
    measures: Mapping[str, Figure] = attrs.field(factory=dict)
    missing: Mapping[str, str] = attrs.field(factory=dict)
    reference: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures per sample, by name: those that every table knows, and those of the measures that were
        asked for.
        """
        return {**FIGURES, **self.measures}

    def lane(self, name: str, batch: int | None = None) -> LaneResult:
        """Return a lane by its name, and its batch size where there are several. Raises `OptionError`."""
        for lane in self.lanes:
            if lane.name == name and batch in (None, lane.batch):
                return lane
        names = ", ".join(lane.name for lane in self.lanes)
        raise OptionError(f"lane={name!r} is not there; write one of {names}")

    def full(self, batch: int) -> LaneResult:
        """Return full computation at a batch size."""
        return next(lane for lane in self.lanes if lane.kind == "full" and lane.batch == batch)

    def cost(self, lane: LaneResult) -> float:
        """Return the block-rows of a lane over those of full computation, on the batches that the lane
        finished; NaN where there are none.
        """
        done = {unit.number for unit in lane.units}
        full = sum(unit.block_rows for unit in self.full(lane.batch).units if unit.number in done)
        return lane.block_rows / full if full else math.nan

    def speedup(self, lane: LaneResult) -> float:
        """Return the median of a lane's measured speed-ups: 1 for full computation, NaN where it was not
        timed.

        It is NaN, too, where it is more than the saved blocks allow: the machine was busy. What peers skip
        inside of blocks sets no such limit.
        """
        if lane.kind == "full" or not lane.ratios:
            return 1.0 if lane.kind == "full" else math.nan
        return possible(float(np.median(lane.ratios)), math.nan if lane.kind == "peer" else self.cost(lane))

    def save(self, folder: Path) -> Path:
        """Write ``results.json``, whole or not at all."""
        path = folder / FILE
        # written after every unit: indented, json leaves its fast encoder, and megabytes take seconds
        write_whole(path, json.dumps(plain(self), allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read results from a folder or file.

        Raises:
            OptionError: There are none, they are not JSON, or their schema is another major version.
        """
        file = path / FILE if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"{str(file)!r} holds no results: {error}; write a folder that `foreseer bench run --out` made") from error
        found = str(content.get("schema", "")) if isinstance(content, dict) else ""
        if found.partition(".")[0] != SCHEMA.partition(".")[0]:
            raise OptionError(f"{str(file)!r} has schema {found or 'unknown'!r}, and this foreseer reads {SCHEMA}; run the benchmark again")
        try:
            return structured(cls, content)
        except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
            raise OptionError(f"{str(file)!r} is not what a benchmark writes: {error}; restore the file, or run the benchmark again") from error
