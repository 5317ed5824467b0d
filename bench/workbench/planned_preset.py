"""A plan as a preset, measured on the samples that it was recorded from and on others."""

from __future__ import annotations

import datetime

from foreseer.bench.harness import Tell
from foreseer.bench.lanes import Sampler
from foreseer.bench.machine import machine
from foreseer.bench.workload import Workload, device_of, how_many
from foreseer.errors import OptionError
from foreseer.presets import Measured, Preset
from foreseer.registry import parse_policy
from foreseer.schedule_plan import SchedulePlan
from foreseer.workbench.gauge import Gauge

__all__ = ["HELD_OUT_SEED", "planned_preset"]

HELD_OUT_SEED = 1
"""Seed of the samples that a plan is checked on; where the plan was recorded from this one, the next."""


def planned_preset(
    plan: SchedulePlan,
    family: Workload,
    *,
    name: str,
    samples: int | None = None,
    batch: int | None = None,
    tell: Tell = lambda what, done, total: None,
) -> Preset:
    """Measure the chosen schedule of a plan, and make a preset of it that needs no other file.

    Args:
        plan: With a chosen budget.
        family: The model that it was planned for.
        name: Of the preset.
        samples: How many of the recorded samples to measure on, and how many of another seed; no more than were
            recorded. None for 8; of a pipeline with prompts, each prompt once.
        batch: How many are drawn together; None for all, of a pipeline with prompts one.
        tell: Told how far it is.

    Raises:
        OptionError: The plan was made for another model, scheduler or number of steps than the family's.
    """
    recorded = 0 if plan.seed is None else plan.seed
    held_out_seed = HELD_OUT_SEED if recorded != HELD_OUT_SEED else HELD_OUT_SEED + 1
    samples, together = how_many(family, samples=samples, batch=batch, usual=(8, 8))
    samples = min(samples, plan.samples or samples)
    policy = f"planned:schedule={'+'.join(map(str, plan.budget().steps))}/{plan.num_steps},target={plan.target},predictor=({plan.predictor})"
    spec, found = parse_policy(policy), list[Measured]()
    for own in (recorded, held_out_seed):
        what, begun = "recorded samples" if own == recorded else "samples of another seed", 2 * samples * len(found)
        tell(what, begun, 4 * samples)
        sampler = Sampler.of(family, seed=own, num_steps=plan.num_steps, guidance=plan.signature.guidance)
        gauge = Gauge(sampler, samples=samples, batch=together)

        def told(followed: int, fewer: int, what: str = what, begun: int = begun) -> None:
            tell(what, begun + followed + fewer, 4 * samples)

        reading = gauge.beside_fewer(spec, tell=told)
        differing = plan.signature.conflicts(reading.run)
        if differing:
            raise OptionError(f"the plan was made for another model: {'; '.join(differing)}; record and plan anew")
        found.append(reading.measured)
    tuned, held_out = found
    return Preset(
        name=name,
        policy=str(spec),
        signature=plan.signature,
        tuned=tuned,
        held_out=held_out,
        found={
            "family": family.name,
            "how": "planned from recorded samples",
            "objective": plan.objective,
            "predictor": plan.predictor,
            "computed_steps": len(plan.budget().steps),
        },
        machine=machine(str(device_of(family))),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
