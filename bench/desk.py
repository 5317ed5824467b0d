"""What the harness has done wherever its lanes are measured: calls on a `Measuring`, as they travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from foreseer.bench.jobs import Beside, Job, Measured
from foreseer.bench.machine import git_state, machine, versions
from foreseer.bench.measuring import Measuring
from foreseer.bench.results import Results
from foreseer.bench.settings import BenchSettings
from foreseer.bench.workload import blocks_of, device_of

__all__ = ["difficulty", "header", "measured", "taken", "warmed"]


def header(measuring: Measuring, *, settings: BenchSettings) -> Results:
    """Return results without lanes: what is measured, and where."""
    sampler = measuring.sampler
    return Results(
        family=sampler.workload.name,
        about=settings.about,
        num_steps=sampler.num_steps,
        seed=settings.seed,
        guidance=sampler.guidance,
        settings=settings.to_dict(),
        machine=machine(str(device_of(sampler.workload))),
        versions=versions(),
        git=git_state(),
        depth=len(blocks_of(sampler.workload)),
        conditions=tuple(sampler.workload.words(range(settings.samples))),
        published=settings.published,
        measures=measuring.measures.figures,
        missing=dict(measuring.measures.missing),
        reference=measuring.reference.to_dict() if measuring.reference else {},
    )


def measured(job: Job, measuring: Measuring, beside: Beside | None = None) -> Measured:
    """Measure a lane on a batch."""
    return measuring.unit(job, beside)


def warmed(job: Job, measuring: Measuring) -> None:
    """Draw a sample of a lane."""
    measuring.warm_up(job)


def taken(indices: Sequence[int], own: Tensor, full: Tensor, known: Sequence[str], measuring: Measuring) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Measure the images of a batch by what is not known of them."""
    return measuring.take(indices, own, full, known=known)


def difficulty(measuring: Measuring) -> list[float]:
    """Return how hard each sample is."""
    return measuring.difficulty()
