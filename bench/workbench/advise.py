"""`foreseer advise`: what a cache can gain on a workload, and what fewer steps or another solver would, measured
on a few samples.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.bench.fields import check_guidance, number, whole
from foreseer.bench.harness import Tell
from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.bench.lanes import Sampler, Sampling, fewer_name, split
from foreseer.bench.solvers import solved_by
from foreseer.bench.source import Drawing, Source, loaded, named, source_from
from foreseer.bench.workload import Workload, how_many, identities_of
from foreseer.document import Document, structured
from foreseer.errors import ForeseerError, OptionError, in_one_line
from foreseer.psnr import psnr
from foreseer.registry import PolicySpec, policy
from foreseer.workbench.advised import Advice, Kind, Lane
from foreseer.workbench.character import FEW_STEPS, character_of, siblings
from foreseer.workbench.gauge import NotFiniteError
from foreseer.workbench.headroom import headroom_lanes
from foreseer.workbench.recording import record
from foreseer.workbench.trace import Trace

__all__ = ["AdviseSettings", "advise"]

FILE = Document(format="foreseer advice 1", made_by="`foreseer advise`", again="write another --out", sealed=False)
CACHE = "agreement"
"""The policy that stands for a cache: it needs no calibration, and computes as many steps as it is told."""
MEASURED_SAMPLES, MEASURED_STEPS = 4, 12
"""On how many samples and at about how many steps sensitivities are measured for the bound."""
FEW = (4, 8, 12)
"""Numbers of steps at which a model of few steps is measured."""

optional: Any = attrs.validators.optional


def _counts(value: Sequence[int] | str) -> tuple[int, ...]:
    given = [value] if isinstance(value, (str, int)) else list(value)
    try:
        return tuple(sorted({int(part) for part in given}))
    except ValueError as error:
        raise OptionError(f"counts={value!r} are no numbers of steps; write whole numbers, such as 14 20") from error


@attrs.frozen(kw_only=True)
class AdviseSettings:
    """What `advise` does.

    Attributes:
        workload: Where samples come from, see `foreseer.bench.source.Source`; a text is the name of a
            workload.
        samples: How many samples are drawn, beginning with sample 0.
        batch: Samples that are drawn together; None for all, or of a pipeline with prompts one.
        steps: Denoising steps that are run now; None for the workload's own number.
        guidance: Weight of the guidance; None for the workload's own.
        seed: Seed of the noise.
        counts: Computed steps that are tried; empty for a half, a third and a quarter of the steps.
        psnr: What counts as near enough, dB in the mean over the samples.
        no_bound: Leave out what a cache reaches at most, which takes several times as long as the rest.
        no_limit: Leave out the sampling with many more steps.
        out: Folder of what was measured; made if it is missing. The same command goes on with what is there.
            None keeps nothing.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    workload: Drawing = attrs.field(factory=Source, converter=source_from)
    samples: int = attrs.field(default=8, validator=whole(2))
    batch: int | None = attrs.field(default=None, validator=optional(whole(1)))
    steps: int | None = attrs.field(default=None, validator=optional(whole(2, 1000)))
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    seed: int = attrs.field(default=0, validator=whole(0))
    counts: tuple[int, ...] = attrs.field(default=(), converter=_counts)
    psnr: float = attrs.field(default=30.0, validator=number(0.0, 100.0))
    no_bound: bool = False
    no_limit: bool = False
    out: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))

    @counts.validator
    def _check_counts(self, attribute: Any, value: tuple[int, ...]) -> None:
        if wrong := [count for count in value if count < 2]:
            raise OptionError(f"counts={wrong[0]} is out of range; write whole numbers >= 2, below the number of steps")


def advise(settings: AdviseSettings, *, tell: Tell = lambda what, done, total: None) -> Advice:
    """Find out whether a cache is worth it.

    The samples are drawn as they are now, with fewer steps of the same scheduler, with better solvers where
    some fit, and with a cache that computes as many steps; then, to bound what any schedule reaches, with
    schedules planned on these very samples. Where the steps are few, or the model is distilled, all that is
    measured at 4, 8 and 12 steps. All is held against the same noise drawn in full.

    Args:
        settings: What to do.
        tell: Told how far it is.

    Raises:
        NotFiniteError: Samples are not finite when they are fully computed.
        OptionError: An option is wrong, or the folder holds what was measured with other settings.
        KeyboardInterrupt: What was measured is kept, where there is a folder; the same call goes on.
    """
    workload = loaded(settings.workload)
    with ExitStack() as stack:
        scratch = settings.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foreseer-")))
        return _Advising(settings, workload, scratch, tell).run()


class _Advising:
    def __init__(self, settings: AdviseSettings, workload: Workload, scratch: Path, tell: Tell) -> None:
        self._settings, self._workload, self._scratch, self._tell = settings, workload, scratch, tell
        self._sampler = Sampler.of(workload, seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance)
        self._steps = self._sampler.num_steps
        self._character = character_of(workload)
        self._few = self._steps <= FEW_STEPS or bool(self._character.distilled)
        self._solvers = {} if self._few else siblings(getattr(workload.pipeline, "scheduler", None))
        usual = (settings.samples, settings.samples)
        _, batch = how_many(workload, samples=settings.samples, batch=settings.batch, usual=usual)
        self._batch, self._batches = batch, split(range(settings.samples), batch)
        self._lanes: list[Lane] = []
        self._notes: list[str] = []
        self._references: dict[str, Tensor] = {}
        facts = named(settings.workload) | identities_of(workload) | {"guidance": self._sampler.guidance, "batch": self._batch}
        facts |= {name: getattr(settings, name) for name in ("samples", "seed", "no_limit")}
        self._draws = KeptDraws(settings.out, facts, FILE)
        each = 2 + len(self._solvers) + 2 * (not settings.no_bound)
        self._done, self._total = 0, sum(2 - self._few + each * len(self._counts(total)) for total in self._totals)

    @property
    def _totals(self) -> list[int]:
        """The numbers of steps to measure: those of which fewer are to be computed."""
        found = [total for total in sorted({*(FEW if self._few else ()), self._steps}) if self._counts(total)]
        if not found:
            raise OptionError(f"counts={list(self._settings.counts)} has none below {self._steps} steps; write whole numbers from 2 to {self._steps - 1}")
        return found

    def _counts(self, total: int) -> list[int]:
        """How many steps to compute of so many."""
        usual = [3 * total // 4, total // 2] if self._few else [round(total / part) for part in (2, 3, 4)]
        return sorted({count for count in self._settings.counts or usual if 2 <= count < total}, reverse=True)

    def run(self) -> Advice:
        for total in self._totals:
            self._references = {}
            self._measure(total)
        self._tell("done", self._total, self._total)
        return Advice(
            workload=self._workload.name,
            num_steps=self._steps,
            samples=self._settings.samples,
            psnr=self._settings.psnr,
            character=self._character,
            lanes=tuple(self._lanes),
            notes=tuple(self._notes),
        )

    def _measure(self, total: int) -> None:
        solvers = self._working()
        self._lane(f"{total} steps", "full", total, lambda: self._plain(total, None), cost=1.0, computed=total)
        if not (self._few or self._settings.no_limit or self._character.stochastic):
            name, solver = next(iter(solvers.items()), ("", None))
            many = (2 if solver else 4) * total
            self._lane(f"{many} steps of {name or 'the same scheduler'}", "limit", total, lambda: self._plain(many, solver), cost=many / total, computed=many)
        for count in self._counts(total):
            self._lane(fewer_name(count), "fewer", total, functools.partial(self._plain, count, None), cost=count / total, computed=count)
            for name, solver in solvers.items():
                made = functools.partial(self._plain, count, solver)
                self._lane(f"{name}, {count} steps", "solver", total, made, cost=count / total, computed=count)
            spec = policy(CACHE, steps=count)
            self._cached(str(spec), "cache", total, functools.partial(_always, spec))
        if not self._settings.no_bound:
            self._bound(total)

    def _working(self) -> dict[str, Any]:
        """The solvers that the pipeline can be called with."""
        found = {}
        for name, solver in self._solvers.items():
            try:
                with solved_by(self._workload, solver):
                    self._sampler.draw([0], 2)
                found[name] = solver
            except Exception as error:  # whatever the pipeline or the scheduler raises: it does not fit
                self._notes.append(f"{name} does not fit here: {in_one_line(error)}.")
        return found

    def _bound(self, total: int) -> None:
        """Draw with schedules of hindsight."""
        try:
            trace = self._recorded(total, self._scratch / f"recorded-{total}.safetensors")
            lanes = headroom_lanes(trace, self._counts(total))
        except ForeseerError as error:
            self._notes.append(f"What a cache reaches at most was not found out: {error}.")
            return
        for lane in lanes:
            if lane.kind == "static":
                self._cached(lane.name.replace("best static", "planned on these samples"), "planned", total, lane.of)
            elif "per sample" in lane.name:
                self._cached(lane.name, "hindsight", total, lane.of)

    def _recorded(self, total: int, path: Path) -> Trace:
        """Record the samples, or read what was recorded."""
        if path.exists():
            return Trace.load(path)
        self._tell(f"recording {total} steps, for the bound", self._done, self._total)
        return record(
            self._workload,
            path,
            samples=self._settings.samples,
            steps=total,
            guidance=self._sampler.guidance,
            seed=self._settings.seed,
            batch=self._batch,
            measured=min(self._settings.samples, MEASURED_SAMPLES),
            every=max(1, round(total / MEASURED_STEPS)),
            sites="last_block",
            target="last_block",
            tell=lambda what, done, all_: self._tell(f"{what} ({done} of {all_})", self._done, self._total),
        ).trace

    def _plain(self, count: int, solver: Any) -> list[Sampling]:
        with solved_by(self._workload, solver):
            return [self._sampler.run(indices, count) for indices in self._batches]

    def _cached(self, name: str, kind: Kind, total: int, of: Callable[[Sequence[int]], PolicySpec]) -> None:
        sampler = attrs.evolve(self._sampler, num_steps=total)
        self._lane(name, kind, total, lambda: [sampler.run(indices, driven=sampler.policy(of(indices), indices)) for indices in self._batches])

    def _lane(self, name: str, kind: Kind, total: int, make: Callable[[], list[Sampling]], **known: float) -> None:
        """Draw a lane and hold it against full computation, and against the limit where there is one."""

        def draw() -> Draw:
            runs = make()
            images = torch.cat([self._workload.decode(run.latents) for run in runs])
            if kind in ("full", "limit"):
                if not bool(torch.isfinite(images).all()):
                    raise NotFiniteError(f"samples of {name}, fully computed, are not finite; write another --dtype")
                self._references[kind] = images
            facts = known or {
                "cost": sum(run.block_rows for run in runs) / sum(run.full_block_rows for run in runs),
                "computed": sum(step for run in runs for step in run.steps) / self._settings.samples,
            }
            lane = Lane(name=name, kind=kind, total=total, psnr=self._against("full", images), to_limit=self._against("limit", images), **facts)
            return Draw(tensors={"images": images} if kind in ("full", "limit") else {}, facts=attrs.asdict(lane))

        self._tell(name if total == self._steps else f"{name} (of {total})", self._done, self._total)
        self._done += 1
        try:
            found = self._draws.draw(f"{total} {name}", draw)
        except Exception as error:  # whatever a policy, a solver or a full memory raises: the other lanes go on
            if kind in ("full", "limit", "fewer"):
                raise
            self._notes.append(f"{name} cannot be drawn: {in_one_line(error)}.")
            return
        if "images" in found.tensors:
            self._references[kind] = found.tensors["images"]
        lane = structured(Lane, found.facts)
        if kind == "limit":  # as far from each other either way
            self._lanes[-1] = attrs.evolve(self._lanes[-1], to_limit=lane.psnr)
        self._lanes.append(lane)

    def _against(self, reference: str, images: Tensor) -> tuple[float, ...]:
        against = self._references.get(reference)
        return () if against is None else tuple(psnr(images, against).tolist())


def _always(spec: PolicySpec, indices: Sequence[int]) -> PolicySpec:
    return spec


def lanes_by_total(advice: Advice) -> Iterator[tuple[int, list[Lane]]]:
    """Return what was drawn, by the number of steps that it is held against; full computation first."""
    order = ("full", "limit", "fewer", "solver", "cache", "planned", "hindsight")
    for total in advice.totals:
        own = [lane for lane in advice.lanes if lane.total == total]
        yield total, sorted(own, key=lambda lane: (order.index(lane.kind) > 1, -round(lane.computed), order.index(lane.kind)))
