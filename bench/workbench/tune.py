"""`foreseer tune`: search a policy's options in the closed loop, on samples of a family, and check what was
found on others.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from foreseer.bench.fields import number, whole
from foreseer.bench.harness import Tell
from foreseer.bench.lanes import Sampler
from foreseer.bench.machine import machine, versions
from foreseer.bench.source import Drawing, Source, loaded, named, source_from
from foreseer.bench.workload import device_of, dtype_of
from foreseer.errors import ForeseerError, OptionError
from foreseer.presets import Preset
from foreseer.registry import PolicySpec, parse_policy
from foreseer.workbench.gauge import Gauge, NotFiniteError
from foreseer.workbench.search import Space, space_of
from foreseer.workbench.study import Point, Study, Target

__all__ = ["TuneSettings", "Tuned", "tune"]

optional: Any = attrs.validators.optional


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@attrs.frozen(kw_only=True)
class TuneSettings:
    """What `tune` does.

    Attributes:
        policy: As on the command line; the options that it fixes are held.
        target: What to look for.
        workload: Where samples come from, see `foreseer.bench.source.Source`; a text is the name of a
            workload.
        ranges: What to search, where the policy's declarations do not do; several may follow. See
            `foreseer.workbench.search.parse_range`.
        samples: How many samples each trial draws, beginning with sample 0.
        held_out: How many of the samples after them the chosen point is checked on; None for as many.
        batch: Samples that are drawn together.
        steps: Denoising steps; None for the workload's own number.
        guidance: Weight of the guidance; None for the workload's own.
        seed: Seed of the noise, and of the search.
        trials: How many points are tried, those of the study's file counted.
        study: SQLite file in which the trials are kept; with one that exists, the search goes on. None keeps
            nothing.
        name: Of the preset; None for workload and target.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    policy: str | PolicySpec
    target: Target
    workload: Drawing = attrs.field(factory=Source, converter=source_from)
    ranges: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    samples: int = attrs.field(default=16, validator=whole(1))
    held_out: int | None = attrs.field(default=None, validator=optional(whole(1)))
    batch: int = attrs.field(default=16, validator=whole(1))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, 1000)))
    guidance: float | None = attrs.field(default=None, validator=optional(number(0.0, 100.0, hint="1 means no guidance")))
    seed: int = attrs.field(default=0, validator=whole(0))
    trials: int = attrs.field(default=30, validator=whole(1, 100_000))
    study: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    name: str | None = None

    def spec(self) -> PolicySpec:
        """Return the policy.

        Raises:
            PluginError, OptionError: It is not installed, or has other options; or it has no name that a
                preset could write down.
        """
        if not isinstance(self.policy, PolicySpec):
            return parse_policy(self.policy)
        spec, again = self.policy, None
        with contextlib.suppress(ForeseerError):
            again = parse_policy(str(spec))
        if again != spec:
            raise OptionError(f"policy {str(spec)!r} cannot be written on one line, as a preset does; write its options as text")
        return spec


@attrs.frozen(eq=False, kw_only=True)
class Tuned:
    """What `tune` found.

    Attributes:
        settings: What was asked for.
        space: What was searched.
        points: All trials, failed ones too.
        chosen: The best that reaches the target; None where none does, and for a front.
        preset: The chosen one, measured on held-out samples too.
        seconds: Of full computation of the samples; NaN where it was not drawn in this call.
    """

    settings: TuneSettings
    space: Space
    points: tuple[Point, ...]
    chosen: Point | None
    preset: Preset | None
    seconds: float

    @property
    def ranked(self) -> list[Point]:
        """The points that did not fail, each policy once: best first, or along the front."""
        return self.settings.target.ranked(self.points)

    @property
    def failed(self) -> list[Point]:
        """The points that did."""
        return [point for point in self.points if point.error]


def tune(settings: TuneSettings, *, tell: Tell = lambda what, done, total: None) -> Tuned:
    """Search, and check what was found.

    Cost is the ratio of block-rows, which is the same on every machine; wall-clock time is kept, and decides
    nothing. Full computation is drawn once.

    Args:
        settings: What to do.
        tell: Told how far it is.

    Raises:
        PluginError, OptionError: See `TuneSettings`, `foreseer.workbench.search.space_of` and
            `foreseer.workbench.study.Study`.
        NotFiniteError: Samples of full computation are not finite.
        KeyboardInterrupt: The finished trials are in the study's file, where there is one; the same call goes
            on.
    """
    space = space_of(settings.spec(), settings.ranges)
    workload = loaded(settings.workload)
    sampler = Sampler.of(workload, seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance)
    gauge = Gauge(sampler, samples=settings.samples, batch=settings.batch)
    study = Study(_settings(settings, space, sampler), space, settings.target, seed=settings.seed, file=settings.study)

    def measure(options: dict[str, Any], number: int) -> Point:
        spec = space.policy(options)
        reading = gauge.measure(spec)
        m = reading.measured
        if m.broken:  # whatever its mean: nobody wants a policy that breaks samples
            raise NotFiniteError(f"{m.broken} of {m.samples} samples are broken: they are not finite")
        return Point(
            number=number, policy=str(spec), ratio=m.block_rows_ratio, steps=m.steps_computed, mean=m.psnr_mean, worst=m.psnr_worst, seconds=reading.seconds
        )

    if len(study.points) < settings.trials:
        tell("full computation", len(study.points), settings.trials)
        _ = gauge.full  # what fails here is no trial's fault
    while (done := len(study.points)) < settings.trials:
        tell(f"trial {done + 1}", done, settings.trials)
        study.step(measure)
    points = tuple(study.points)
    chosen = settings.target.best(points)
    preset = None
    if chosen is not None:
        tell("on held-out samples", len(points), settings.trials)
        preset = _preset(settings, space, sampler, gauge, chosen)
    return Tuned(settings=settings, space=space, points=points, chosen=chosen, preset=preset, seconds=gauge.seconds)


def _settings(settings: TuneSettings, space: Space, sampler: Sampler) -> dict[str, Any]:
    """What the trials depend on."""
    return {
        "policy": str(space.spec),
        "search": [str(dimension) for dimension in space.dimensions],
        "target": str(settings.target),
        "steps": sampler.num_steps,
        "guidance": sampler.guidance,
        **named(settings.workload),
    } | {name: getattr(settings, name) for name in ("samples", "batch", "seed")}


def _preset(settings: TuneSettings, space: Space, sampler: Sampler, gauge: Gauge, chosen: Point) -> Preset:
    """Measure the chosen point on the samples it was chosen by and on others."""
    spec = parse_policy(chosen.policy)
    held = settings.held_out or settings.samples
    others = Gauge(sampler, first=settings.samples, samples=held, batch=settings.batch)
    tuned, held_out = gauge.beside_fewer(spec), others.beside_fewer(spec)
    target = settings.target
    name = settings.name or f"{settings.workload.name}_{target.value:g}{'x' if target.kind == 'speedup' else 'db'}"
    return Preset(
        name=name,
        policy=chosen.policy,
        signature=gauge.signature(tuned.run, dtype=dtype_of(sampler.workload), versions=versions()),
        tuned=tuned.measured,
        held_out=held_out.measured,
        found={**_settings(settings, space, sampler), "trials": settings.trials, "trial": chosen.number},
        machine=machine(str(device_of(sampler.workload))),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
