"""`foreseer bench run`: every lane on every batch of the same noises, paired with full computation, resumable after any finished unit.

A unit is one lane on one batch. It is drawn once with everything counted, and then as often as the settings say with nothing but the clock running, each
time right before or after full computation, in turns: what slows the machine down slows both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.adapters.attachment import Attachment
from foreseer.bench.batches import mixed, pairs_of, split
from foreseer.bench.clock import Stopwatch, Timed
from foreseer.bench.counting import BlockCalls, Cost, count_blocks, count_cost
from foreseer.bench.families import Family, blocks_of, load_family
from foreseer.bench.lanes import FULL, fewer_lane, keep_freed_memory, labels_of
from foreseer.bench.likeness import Drawn, figures_of, look_at
from foreseer.bench.machine import git_state, machine, versions
from foreseer.bench.peers import PeerError, PeerSpec, Request
from foreseer.bench.results import Counted, LaneResult, Results, Unit
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import Store
from foreseer.files import refuse_unwritable_folder
from foreseer.registry import PolicySpec, parse_policy, signature_of
from foreseer.report import Report
from foreseer.zoo.judge import DigitJudge, frechet_distance

__all__ = ["run_benchmark"]

CALIBRATED = 16
"""Samples that a peer is calibrated on, where it is: the first ones."""

PROBE = "taylorseer:interval=5,max_order=1"
"""By the latent error under this schedule samples are called easy or hard, where batches are to be mixed."""

Tell = Callable[[str, int, int], None]
"""Told what begins, how many units are done, and how many there will be as far as is known."""


def run_benchmark(settings: BenchSettings, out: Path, *, restart: bool = False, tell: Tell = lambda what, done, total: None) -> Results:
    """Run a benchmark, or go on with one.

    Args:
        settings: What to measure.
        out: Folder of the results; made if it is missing.
        restart: Begin anew whatever is there.
        tell: Told how far it is.

    Returns:
        The finished results, which ``out`` holds too.

    Raises:
        OptionError: The folder holds results of other settings or versions.
        KeyboardInterrupt: What was finished is kept; the same call goes on, and tries again what failed.
        OSError: The folder cannot be written to; what was finished is kept.
    """
    refuse_unwritable_folder(out)
    with _threads(settings.threads):
        return _Bench(settings, out, restart=restart, tell=tell).run()


class _Bench:
    def __init__(self, settings: BenchSettings, out: Path, *, restart: bool, tell: Tell) -> None:
        keep_freed_memory()
        self._settings, self._tell = settings, tell
        self._family = self._load()
        self._steps = settings.steps or self._family.num_steps
        self._guidance = self._family.guidance if settings.guidance is None else settings.guidance
        self._judge = _judge()
        with count_blocks(blocks_of(self._family)) as calls:
            self._found = self._draw(self._family, [0], 2)
        self._calls_per_step = calls.steps / 2
        self._memory: dict[object, Any] = {}
        self._store = Store(out, restart=restart)
        self._results = self._store.resume(
            Results(
                family=settings.family,
                about=settings.about,
                num_steps=self._steps,
                seed=settings.seed,
                guidance=self._guidance,
                settings=settings.to_dict(),
                machine=machine(settings.device),
                versions=versions(),
                git=git_state(),
                depth=len(blocks_of(self._family)),
                published=settings.published,
            )
        )
        # packages that were not there before may be there now
        self._results = attrs.evolve(self._results, about=settings.about, published=settings.published, versions=versions())
        self._lanes = {lane.key: lane for lane in self._store.begin_again(self._results, samples=settings.samples).lanes}
        self._given: dict[tuple[str, int], PolicySpec | PeerSpec] = {}

    def run(self) -> Results:
        planned = [lane for batch in self._settings.batch for lane in self._plan(batch)]
        self._add(planned)
        for batch in self._settings.batch:
            self._measure([lane.key for lane in planned if lane.batch == batch], batch)
        fewer = [lane for batch in self._settings.batch for lane in self._fewer(batch)]
        self._add(fewer)
        for batch in self._settings.batch:
            self._measure([lane.key for lane in fewer if lane.batch == batch], batch)
        return self._save(finished=True)

    def _plan(self, batch: int) -> list[LaneResult]:
        lanes = [LaneResult(name=FULL, kind="full", batch=batch, num_steps=self._steps)]
        specs: list[PolicySpec | PeerSpec] = [*self._settings.lanes, *self._settings.peers]
        for spec in specs:
            chosen = {p.name: p.default for p in signature_of(spec.factory).parameters.values()} | dict(spec.options)
            options = {name: getattr(value, "__name__", str(value)) if callable(value) else value for name, value in chosen.items()}
            kind: Literal["policy", "peer"] = "policy" if isinstance(spec, PolicySpec) else "peer"
            lanes.append(LaneResult(name=str(spec), kind=kind, batch=batch, num_steps=self._steps, method=spec.name, options=options))
            self._given[lanes[-1].key] = spec
        return lanes

    def _fewer(self, batch: int) -> list[LaneResult]:
        """Plain sampling at each lane's number of computed steps; half a step is rounded up, in favour of what is to be beaten."""
        done = [lane for lane in self._lanes.values() if lane.batch == batch and lane.kind in ("policy", "peer") and lane.units]
        counts = sorted({max(1, math.floor(np.mean(lane.steps) + 0.5)) for lane in done})
        plain = [fewer_lane(count) for count in counts if count < self._steps]
        return [LaneResult(name=lane.name, kind="fewer", batch=batch, num_steps=lane.num_steps) for lane in plain]

    def _add(self, lanes: Sequence[LaneResult]) -> None:
        self._lanes |= {lane.key: lane for lane in lanes if lane.key not in self._lanes}
        self._store.name(list(self._lanes))

    def _batches_of(self, batch: int) -> list[tuple[int, ...]]:
        """Which samples are drawn together. Batches that are chosen are kept with the results, so that a run that goes on has them again."""
        if self._settings.together == "as drawn":
            return split(range(self._settings.samples), batch)
        kept = dict(self._results.batches)
        if str(batch) not in kept:
            kept[str(batch)] = tuple(mixed(self._difficulty, batch))
            self._results = attrs.evolve(self._results, batches=kept)
        return list(kept[str(batch)])

    @functools.cached_property
    def _difficulty(self) -> list[float]:
        """Of each sample: the relative error of its latent under `PROBE`. The same noises are as hard in every run."""
        found: list[float] = []
        self._tell("how hard each sample is", 0, self._settings.samples)
        for indices in split(range(self._settings.samples), CALIBRATED):
            full = self._draw(self._family, indices, self._steps)
            with self._family.attached(parse_policy(PROBE), num_steps=self._steps, samples=len(indices)):
                off = self._draw(self._family, indices, self._steps) - full
            found += (off.flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)).tolist()
        return found

    def _measure(self, keys: Sequence[tuple[str, int]], batch: int) -> None:
        batches = self._batches_of(batch)
        for number, indices in enumerate(batches):
            first = [key for key in keys if self._lanes[key].kind == "full"]  # the others are compared with what it drew
            others = [key for key in keys if key not in first]
            for key in [*first, *(reversed(others) if number % 2 else others)]:
                lane = self._lanes[key]
                if lane.error or any(unit.number == number for unit in lane.units):
                    continue
                total = sum(-(-self._settings.samples // lane.batch) for lane in self._lanes.values())
                self._tell(f"{lane.name}, batch {number + 1} of {len(batches)}", sum(len(lane.units) for lane in self._lanes.values()), total)
                pairs = pairs_of(number, repeats=self._settings.repeats, batches=len(batches)) if lane.kind != "full" else []
                full = self._store.drawn((FULL, batch), number) if lane.kind != "full" else None
                try:
                    self._lanes[key], drawn = self._unit(lane, number, indices, pairs, full)
                except Exception as error:  # a lane that fails is a row that says so; without full computation there is nothing to compare with
                    if lane.kind == "full":
                        raise
                    self._lanes[key] = attrs.evolve(lane, error=_one_line(error))
                else:  # a full disk is no fault of the lane
                    self._store.keep(key, number, drawn)
                self._save()

    def _unit(self, lane: LaneResult, number: int, indices: Sequence[int], pairs: Sequence[int], full: Drawn | None) -> tuple[LaneResult, Drawn]:
        """Draw a batch once with everything counted, and time it. ``full`` is what full computation drew; None where that is what is drawn."""
        # A peer gets a model of its own: one that is disabled again can leave a model that computes the same and cannot be given to the next.
        family = self._load() if lane.kind == "peer" else self._family
        with ExitStack() as stack:
            calls = stack.enter_context(count_blocks(blocks_of(family)))
            attached = stack.enter_context(self._driven(family, lane, len(indices)))
            calls.clear()  # a calibration is no part of the run
            cost = None if number else stack.enter_context(count_cost(torch.device(self._settings.device)))
            latents = self._draw(family, indices, lane.num_steps)
        self._check(family, lane)
        drawn = look_at(family, self._judge, latents)
        watch = Stopwatch()
        for pair in pairs:
            watch.pair(
                lambda: self._timed(family, lane, indices),
                lambda: self._timed(self._family, None, indices),
                full_first=pair % 2 == 0,
            )
        attached = watch.attached or attached  # its steps' seconds are undisturbed
        self._check(family, lane)
        reports = attached.reports if attached is not None else {}
        unit = Unit(
            number=number,
            indices=tuple(indices),
            figures=figures_of(family, drawn, full or drawn, labels_of(indices)),
            seconds=tuple(watch.seconds),
            full_seconds=tuple(watch.full_seconds),
            stalled=watch.stalled,
            bytes_held=sum(sum(report.bytes_held.values()) for report in reports.values()),
            warnings=tuple(dict.fromkeys(sentence for report in reports.values() for sentence in report.warnings)),
            **(_reported(reports, len(indices)) if reports else self._counted(calls, len(indices))),
        )
        done = attrs.evolve(
            lane,
            units=tuple(sorted((*lane.units, unit), key=lambda unit: unit.number)),
            counted=_cost(cost) or lane.counted,
            reports={name: report.to_dict() for name, report in reports.items()} if not number else lane.reports,
            frechet=self._frechet(lane, drawn),
        )
        return done, drawn

    def _counted(self, calls: BlockCalls, samples: int) -> dict[str, Any]:
        """Steps and block-rows as seen from outside. A step of a pipeline may be several calls."""
        steps = calls.steps / self._calls_per_step
        return {"steps": (steps,) * samples, "block_rows": calls.block_rows}

    def _frechet(self, lane: LaneResult, drawn: Drawn) -> float | None:
        """Over what is kept of a lane, and what was drawn just now."""
        kept = [self._store.drawn(lane.key, unit.number) for unit in lane.units]
        features = torch.cat([one.features.flatten(0, -2) for one in (*kept, drawn)])
        return frechet_distance(features, self._judge.reference) if len(features) > 1 and bool(features.isfinite().all()) else None

    @contextmanager
    def _driven(self, family: Family, lane: LaneResult | None, samples: int) -> Iterator[Attachment | None]:
        """Let a lane's policy or peer drive a model for one draw."""
        given = None if lane is None else self._given.get(lane.key)
        if isinstance(given, PolicySpec):
            with family.attached(given, num_steps=self._steps, samples=samples) as attached:
                if given.preset is not None:  # a run does not know these two
                    given.elsewhere(attrs.evolve(given.preset.signature, guidance=self._guidance, dtype=self._settings.dtype))
                yield attached
            return
        first = range(min(self._settings.samples, CALIBRATED))
        enabled: AbstractContextManager[None] = nullcontext()
        if given is not None:
            enabled = given.enable()(Request(family, self._steps, lambda: self._draw(family, first, self._steps), self._memory))
        with enabled:
            yield None

    def _timed(self, family: Family, lane: LaneResult | None, indices: Sequence[int]) -> Timed:
        with self._driven(family, lane, len(indices)) as attached:
            num_steps = self._steps if lane is None else lane.num_steps
            return Timed.of(lambda: self._draw(family, indices, num_steps), device=torch.device(self._settings.device), attached=attached)

    def _draw(self, family: Family, indices: Sequence[int], num_steps: int) -> Tensor:
        return family.draw(indices, seed=self._settings.seed, num_steps=num_steps, guidance=self._guidance)

    def _check(self, family: Family, lane: LaneResult) -> None:
        """Raise where a peer was disabled and its model, or the one of the other lanes, is not what it was, by one input."""
        if lane.kind != "peer":
            return
        for whose, model in (("its model", family), ("a model that it was never given", self._family)):
            if not torch.equal(self._draw(model, [0], 2), self._found):
                self._family = self._load()
                raise PeerError(f"it left {whose} changed after it was disabled: the output on one input is another")

    def _load(self) -> Family:
        return load_family(self._settings.family, device=self._settings.device, dtype=self._settings.dtype)

    def _save(self, *, finished: bool = False) -> Results:
        self._results = attrs.evolve(self._results, lanes=tuple(self._lanes.values()), finished=finished)
        self._results.save(self._store.folder)
        return self._results


@functools.cache
def _judge() -> DigitJudge:
    return DigitJudge()


def _reported(reports: dict[str, Report], samples: int) -> dict[str, Any]:
    """Steps of each sample and block-rows of a policy's run. Rows of one sample share a fate, so that its first row says it; streams are averaged."""
    steps = np.mean([report.computed.sum(axis=0)[:samples] for report in reports.values()], axis=0)
    return {"steps": tuple(steps.tolist()), "block_rows": float(sum(report.block_rows for report in reports.values()))}


def _cost(cost: Cost | None) -> Counted | None:
    return None if cost is None else Counted(flops=cost.flops, peak_bytes=cost.peak_bytes, peak_how=cost.how, held_bytes=cost.held_bytes)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'foreseer[peers]'"
    return f"{type(error).__name__}: {text[:300]}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
