"""What is asked of a workload before anything is drawn: values that say it, wherever the workload is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from foreseer.bench.machine import facts, machine
from foreseer.bench.workload import Workload, device_of, dtype_of, identities_of, prompts_of

__all__ = ["Subject", "subject_of"]


@attrs.frozen(kw_only=True)
class Subject:
    """A workload in words and numbers.

    Attributes:
        name, num_steps, guidance: See `foreseer.bench.workload.Workload`.
        model, scheduler: Identities, see `foreseer.bench.workload.identities_of`.
        dtype: See `foreseer.bench.workload.dtype_of`.
        prompts: One number for each of its prompts; None where it has none.
        machine: Where it computes, see `foreseer.bench.machine.machine`.
        facts: Machine and versions, in words.
    """

    name: str
    num_steps: int
    guidance: float | None
    model: str
    scheduler: str
    dtype: str
    prompts: range | None
    machine: Mapping[str, str]
    facts: Mapping[str, str]


def subject_of(workload: Workload) -> Subject:
    """Return what is to be known of a workload."""
    prompts, device = prompts_of(workload), str(device_of(workload))
    return Subject(
        name=workload.name,
        num_steps=workload.num_steps,
        guidance=workload.guidance,
        **identities_of(workload),
        dtype=dtype_of(workload),
        prompts=None if prompts is None else range(len(prompts)),
        machine=machine(device),
        facts=facts(device),
    )
