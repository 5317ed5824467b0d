"""`record`: sample a model, keep inner products of its features, measure sensitivities. Can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.families import PipelineFamily
from foreseer.bench.harness import Tell
from foreseer.bench.lanes import Sampler, split
from foreseer.bench.solvers import Solver, own_scheduler
from foreseer.bench.source import named
from foreseer.bench.workload import Workload, blocks_of, dtype_of, how_many, identities_of
from foreseer.document import plain
from foreseer.errors import OptionError, UnsupportedModelError
from foreseer.files import refuse_unwritable, refuse_unwritable_folder
from foreseer.registry import policy
from foreseer.types import OUTPUT, Site
from foreseer.workbench.clean import CLEAN, clean_predictions, grid_of, inner_products
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.parts import Parts, joined
from foreseer.workbench.record_settings import USUAL, RecordSettings, located, recorded_sites
from foreseer.workbench.recorder import TraceRecorder
from foreseer.workbench.sensitivity import interpolated, one_forecast, sensitivities, steps_to_measure
from foreseer.workbench.trace import Trace

__all__ = ["Arguments", "Recorded", "record", "refuse_existing"]

Arguments = Callable[[Sequence[int], float], Mapping[str, Any]]
"""``(indices, guidance) -> keyword arguments`` of a pipeline's call, as of
`foreseer.bench.families.PipelineFamily`.
"""

Array = NDArray[np.float64]


@attrs.frozen(kw_only=True)
class Recorded:
    """What `record` made.

    Attributes:
        path: The file.
        trace: What is in it.
        evaluations: Denoiser evaluations that this call took, of one batch each: recording and measuring.
    """

    path: Path
    trace: Trace = attrs.field(repr=False)
    evaluations: int

    @property
    def summary(self) -> str:
        """File, size, sites, samples, steps and evaluations in one line."""
        trace, streams = self.trace, self.trace.streams
        calls = f" in {len(streams)} streams" if len(streams) > 1 else ""
        kept = f", features in {trace.features}" if trace.features else ""
        sites = ", ".join(map(str, trace.sites))
        return (
            f"{self.path}: {self.path.stat().st_size / 1000:.0f} kB, {trace.samples} samples of {trace.num_steps} steps{calls}, sites {sites}, "
            f"{self.evaluations} evaluations spent, {trace.evaluations} of all for sensitivities{kept}"
        )


def record(
    what: Workload | Any,
    /,
    out: Path | str,
    *,
    settings: RecordSettings | None = None,
    arguments: Arguments | None = None,
    restart: bool | Literal["if other"] = False,
    tell: Tell = lambda what, done, total: None,
    **options: Any,
) -> Recorded:
    """Record a model.

    Args:
        what: A `foreseer.bench.workload.Workload`, or a diffusers pipeline together with ``arguments``.
        out: The file to write, ``.safetensors``. The same call goes on with what is unfinished, beside it.
        settings: What to record; None for the defaults.
        arguments: What a pipeline is called with for some samples, besides steps, generators and output type.
        restart: Begin anew whatever is there; ``"if other"``: only what is finished or has other settings.
        tell: Told how far it is.
        **options: Single settings, by the names of `RecordSettings`.

    Raises:
        OptionError: A value is out of range, or what is there is finished or has other settings.
        KeyboardInterrupt: What was finished is kept; the same call goes on.
    """
    known = {field.name for field in attrs.fields(RecordSettings)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(f"{unknown[0]}={options[unknown[0]]!r} is no option of record; write one of {', '.join(sorted(known))}")
    return _Recording(_family(what, arguments), Path(out), attrs.evolve(settings or RecordSettings(), **options), restart=restart, tell=tell).run()


def refuse_existing(out: Path) -> None:
    """Refuse to record to a file that is there, or that cannot be written. Raises `OptionError`, `FileError`."""
    refuse_unwritable(_file_of(out))
    if _file_of(out).exists():
        raise OptionError(f"out={str(_file_of(out))!r} exists already; write another --out, or --restart to record anew")


def _file_of(out: Path) -> Path:
    return out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")


def _family(what: Workload | Any, arguments: Arguments | None) -> Workload:
    if arguments is None and callable(getattr(what, "draw", None)) and callable(getattr(what, "attached", None)):
        family: Workload = what
        return family
    if arguments is None:
        wanted = "arguments=lambda indices, guidance: {'prompt': [...], 'guidance_scale': guidance}"
        raise OptionError(f"a {type(what).__name__} cannot be called without its conditions; write {wanted}")
    given: dict[str, Any] = {"pipeline": what, "arguments": arguments}
    return PipelineFamily(name=type(what).__name__, **given, decoder=lambda pipeline, latents: latents)


class _Recording:
    def __init__(self, family: Workload, out: Path, settings: RecordSettings, *, restart: bool | Literal["if other"], tell: Tell) -> None:
        self._samples, together = how_many(family, samples=settings.samples, batch=settings.batch, usual=USUAL)
        self._settings = settings = attrs.evolve(settings, samples=self._samples, batch=together)
        self._tell = tell
        self._sampler = Sampler.of(family, seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance)
        if settings.solver is not None:
            self._sampler = self._sampler.on(Solver.read(settings.solver), self._sampler.num_steps)
        self._steps, self._guidance = self._sampler.num_steps, self._sampler.guidance
        self._scheduler = self._sampler.scheduler or own_scheduler(family)
        self._clean = not isinstance(settings.sites, str) and CLEAN in settings.sites
        self._out = _file_of(out)
        self._folder = self._out.with_name(self._out.stem + ".features")
        parts = self._out.with_name(self._out.stem + ".unfinished")
        if restart not in (True, False, "if other"):
            raise OptionError(f"restart={restart!r} is unknown; write True, False or 'if other'")
        refuse_unwritable(self._out)
        for folder in (parts, self._folder):
            refuse_unwritable_folder(folder)
        if not restart:
            refuse_existing(out)
        self._batches = split(range(self._samples), together)
        self._conditions = [_conditions(family, batch, self._guidance) for batch in self._batches]
        self._measure = () if settings.every is None else steps_to_measure(self._steps, settings.every)
        request = self._request()
        if self._measure:
            with contextlib.suppress(UnsupportedModelError):  # a family may have a host of its own, of which only a run tells the depth
                depth = len(blocks_of(family))
                self._target(recorded_sites(settings.sites, depth=depth), depth=depth)
        try:
            self._parts = Parts(parts, request)
            anew = restart is True or self._out.exists()
        except OptionError:
            if not restart:
                raise
            anew = True
        if anew:  # now that nothing is wrong with what is to replace it
            self._out.unlink(missing_ok=True)
            for folder in (self._folder, parts):
                shutil.rmtree(folder, ignore_errors=True)
            self._parts = Parts(parts, request)
        facts = {key: value for key, value in request.items() if key not in ("every", "measured", "target")}
        self._store = None if settings.features is None else FeatureStore.create(self._folder, facts=facts, kept_as=settings.features)
        self._most = self._samples if settings.measured is None else settings.measured
        measured = sum(batch[0] < self._most for batch in self._batches)
        self._total = len(self._batches) + len(self._measure) * measured
        self._done = self._spent = 0

    def run(self) -> Recorded:
        traces = [self._batch(number) for number in range(len(self._batches))]
        trace = attrs.evolve(joined(traces), seed=self._settings.seed)
        if self._measure:
            values = {step: trace.sensitivity[:, step] for step in trace.measured}
            trace = attrs.evolve(trace, sensitivity=interpolated(values, trace.num_steps))
        trace.save(self._out)
        self._parts.remove()
        self._tell("done", self._total, self._total)
        return Recorded(path=self._out, trace=trace, evaluations=self._spent)

    def _request(self) -> dict[str, Any]:
        family = self._sampler.workload
        settings = attrs.evolve(self._settings, steps=self._steps, guidance=self._guidance, keep_on=None)
        asked: dict[str, Any] = plain(settings)
        return asked | {
            "family": family.name,
            **identities_of(family),
            "dtype": dtype_of(family),
            "conditions": self._hash(),
        }

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self._sampler.workload.name, self._settings.seed]).encode())
        for _, content in self._conditions:
            digest.update(content)
        return digest.hexdigest()[:16]

    def _batch(self, number: int) -> Trace:
        """Record a batch and measure it, or what is left of it to do."""
        found = self._parts.load(number)
        if found is not None and self._store is not None and self._store.samples <= self._batches[number][-1]:
            found = None
        trace, final = self._record(number) if found is None else found
        self._done += 1 + len(trace.measured)
        for step in self._measure:
            if step not in trace.measured and self._batches[number][0] < self._most:
                trace = self._measured(number, trace, final, step)
                self._parts.keep(number, trace, final)
                self._done += 1
        return trace

    def _record(self, number: int) -> tuple[Trace, Array]:
        indices = self._batches[number]
        self._tell(f"recording samples {indices[0]} to {indices[-1]}", self._done, self._total)
        self._parts.begin(number)
        if self._store is not None:
            self._store.keep_first(indices[0])
        sites: Any = self._settings.sites
        of_model = tuple(site for site in sites if site != CLEAN) or (OUTPUT,) if (clean := self._clean) else sites
        recorder = TraceRecorder(sites=of_model, keep_on=self._settings.keep_on, store=self._store)
        watched = self._sampler.policy(policy("none"), indices, [recorder])
        watching: AbstractContextManager[list[Tensor]] = clean_predictions(self._scheduler) if clean else contextlib.nullcontext([])
        with watching as predictions:
            latents = self._sampler.run(indices, driven=watched).latents
        self._spent += recorder.evaluations
        trace = recorder.trace(
            labels=self._conditions[number][0],
            final=latents,
            guidance=self._guidance,
            conditions=self._hash(),
            features="" if self._store is None else self._folder.name,
        )
        more = {("", CLEAN): inner_products(predictions)} if clean else {}
        trace = attrs.evolve(trace, grams={**trace.grams, **more}, grid=grid_of(self._scheduler, solver=str(self._sampler.solver or "")))
        if self._measure:
            if trace.num_steps != self._steps:
                raise OptionError(
                    f"this model is called {trace.num_steps} times in {self._steps} steps, so that a step's error cannot be told; write --sensitivity none"
                )
            blank = np.full((trace.samples, trace.num_steps), math.nan)
            trace = attrs.evolve(trace, target=self._target(trace.sites, depth=trace.depth), sensitivity=blank)
        final = _flat(latents)
        self._parts.keep(number, trace, final)
        return trace, final

    def _target(self, sites: Sequence[Site], *, depth: int) -> Site:
        asked = self._settings.target
        target = located(Site(-1) if asked is None else asked, depth)
        if asked is None and target not in sites:
            target = OUTPUT
        if target not in sites:
            raise OptionError(
                f"target={str(target)!r} is not among the recorded sites {', '.join(map(str, sites))}; add it to --sites, or write --sensitivity none"
            )
        return target

    def _measured(self, number: int, trace: Trace, final: Array, step: int) -> Trace:
        """Forecast one step of a batch, and see how far its samples move."""
        indices = [index for index in self._batches[number] if index < self._most]
        self._tell(f"sensitivity at step {step}, samples {indices[0]} to {indices[-1]}", self._done, self._total)
        assert trace.target is not None
        spec = one_forecast(trace.target, step, self._steps)
        drawn = self._sampler.run(indices, driven=self._sampler.policy(spec, indices))
        off = np.linalg.norm(_flat(drawn.latents) - final[: len(indices)], axis=1)
        forecast = np.array(drawn.steps) <= self._steps - 1  # else not finite, and not used, in some stream
        moved = np.full(trace.samples, math.nan)
        moved[: len(indices)] = np.where(forecast, off, math.nan)
        spent = sum(len(report.outcomes) for report in drawn.reports.values())
        self._spent += spent
        sensitivity = trace.sensitivity.copy()
        sensitivity[:, step] = sensitivities(trace, trace.target, step, moved)
        return attrs.evolve(trace, sensitivity=sensitivity, measured=(*trace.measured, step), evaluations=trace.evaluations + spent)


def _flat(latents: Tensor) -> Array:
    return np.asarray(latents.detach().double().flatten(1).cpu().numpy(), dtype=np.float64)


def _conditions(family: Workload, indices: Sequence[int], guidance: float | None) -> tuple[list[str], bytes]:
    """Return a label for each sample, and what decides what they will be, in bytes."""
    arguments = getattr(family, "arguments", None)
    given: Mapping[str, Any] = arguments(indices, guidance) if callable(arguments) else arguments or {}
    labels = family.words(indices)
    content = json.dumps(
        [list(indices), labels, named(family), {key: value for key, value in given.items() if not isinstance(value, Tensor)}], default=str, sort_keys=True
    )
    tensors = b"".join(value.detach().float().cpu().numpy().tobytes() for _, value in sorted(given.items()) if isinstance(value, Tensor))
    return labels, content.encode() + tensors
