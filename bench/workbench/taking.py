"""What a recording draws, wherever that is: batches of full computation, watched, and one forecast step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.lanes import Sampler, split
from foreseer.bench.solvers import Solver, own_scheduler
from foreseer.bench.source import named
from foreseer.bench.workload import Workload, blocks_of, dtype_of, how_many, identities_of
from foreseer.document import plain
from foreseer.errors import OptionError, UnsupportedModelError
from foreseer.registry import policy
from foreseer.types import OUTPUT, Site
from foreseer.workbench.clean import CLEAN, clean_predictions, grid_of, inner_products
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.record_settings import USUAL, RecordSettings, located, recorded_sites
from foreseer.workbench.recorder import TraceRecorder
from foreseer.workbench.sensitivity import one_forecast, steps_to_measure
from foreseer.workbench.trace import Trace

__all__ = ["About", "Taking", "forecast", "recorded"]

Array = NDArray[np.float64]


@attrs.frozen(kw_only=True)
class About:
    """What is recorded.

    Attributes:
        settings: With the workload's own numbers of samples where nothing was said.
        batches: The samples of each batch.
        measure: At which steps sensitivities are measured.
        request: What a recording depends on, as plain data.
    """

    settings: RecordSettings
    batches: tuple[tuple[int, ...], ...]
    measure: tuple[int, ...]
    request: Mapping[str, Any]


class Taking:
    """A workload that is recorded.

    Args:
        settings: What to record.
        family: The workload.

    Raises:
        OptionError: The settings do not go with it.
    """

    def __init__(self, settings: RecordSettings, family: Workload) -> None:
        samples, together = how_many(family, samples=settings.samples, batch=settings.batch, usual=USUAL)
        self._settings = settings = attrs.evolve(settings, samples=samples, batch=together)
        self._sampler = Sampler.of(family, seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance)
        if settings.solver is not None:
            self._sampler = self._sampler.on(Solver.read(settings.solver), self._sampler.num_steps)
        self._steps, self._guidance = self._sampler.num_steps, self._sampler.guidance
        self._scheduler = self._sampler.scheduler or own_scheduler(family)
        self._clean = not isinstance(settings.sites, str) and CLEAN in settings.sites
        self._batches = split(range(samples), together)
        self._conditions = [_conditions(family, batch, self._guidance) for batch in self._batches]
        self._measure = () if settings.every is None else steps_to_measure(self._steps, settings.every)
        if self._measure:
            with contextlib.suppress(UnsupportedModelError):  # a family may have a host of its own, of which only a run tells the depth
                depth = len(blocks_of(family))
                self._target(recorded_sites(settings.sites, depth=depth), depth=depth)

    def about(self) -> About:
        """Return what is recorded."""
        family = self._sampler.workload
        settings = attrs.evolve(self._settings, steps=self._steps, guidance=self._guidance, keep_on=None)
        asked: dict[str, Any] = plain(settings)
        more = {"family": family.name, **identities_of(family), "dtype": dtype_of(family), "conditions": self._hash()}
        return About(settings=self._settings, batches=tuple(self._batches), measure=self._measure, request=asked | more)

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self._sampler.workload.name, self._settings.seed]).encode())
        for _, content in self._conditions:
            digest.update(content)
        return digest.hexdigest()[:16]

    def record(self, number: int, store: FeatureStore | None) -> tuple[Trace, Array, int]:
        """Record a batch: its trace, its final latents ``(S, N)`` and the evaluations that it took."""
        indices = self._batches[number]
        if store is not None:
            store.keep_first(indices[0])
        sites: Any = self._settings.sites
        of_model = tuple(site for site in sites if site != CLEAN) or (OUTPUT,) if (clean := self._clean) else sites
        recorder = TraceRecorder(sites=of_model, keep_on=self._settings.keep_on, store=store)
        watched = self._sampler.policy(policy("none"), indices, [recorder])
        watching: AbstractContextManager[list[Tensor]] = clean_predictions(self._scheduler) if clean else contextlib.nullcontext([])
        with watching as predictions:
            latents = self._sampler.run(indices, driven=watched).latents
        trace = recorder.trace(
            labels=self._conditions[number][0],
            final=latents,
            guidance=self._guidance,
            conditions=self._hash(),
            features="" if store is None else store.folder.name,
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
        return trace, _flat(latents), recorder.evaluations

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

    def forecast(self, indices: Sequence[int], target: Site, step: int) -> tuple[Array, tuple[float, ...], int]:
        """Draw samples with one step forecast: their final latents, the steps that were computed for each, and
        the evaluations that it took.
        """
        spec = one_forecast(target, step, self._steps)
        drawn = self._sampler.run(indices, driven=self._sampler.policy(spec, indices))
        return _flat(drawn.latents), drawn.steps, sum(len(report.outcomes) for report in drawn.reports.values())


def recorded(number: int, store: FeatureStore | None, taking: Taking) -> tuple[Trace, Array, int]:
    """See `Taking.record`."""
    return taking.record(number, store)


def forecast(indices: Sequence[int], target: Site, step: int, taking: Taking) -> tuple[Array, tuple[float, ...], int]:
    """See `Taking.forecast`."""
    return taking.forecast(indices, target, step)


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
