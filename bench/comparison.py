"""`foreseer compare`: a model under several policies, against full computation and against fewer steps.

It is a setting of the harness: every lane is drawn once on each batch, and its draws are what is timed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import attrs
import torch

from foreseer.bench.album import PICTURES
from foreseer.bench.compare_words import aim, print_table, remarks, usual_policies, verdict
from foreseer.bench.compared import MEASURED, CompareSettings, Result, Samples, whole_lanes, write_table
from foreseer.bench.hands import Hands, hands_for
from foreseer.bench.harness import Harness, Tell
from foreseer.bench.lanes import LaneOf, as_many
from foreseer.bench.report_page import write_page
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import file_names, machine_of
from foreseer.bench.subject import Subject, subject_of
from foreseer.bench.workload import Workload, how_many
from foreseer.console import progress
from foreseer.errors import OptionError
from foreseer.files import make_folder, refuse_unwritable, write_whole
from foreseer.registry import PolicySpec, build_observers
from foreseer.signature import Signature

if TYPE_CHECKING:
    from foreseer.bench.ray_settings import RaySettings

__all__ = ["Afterwards", "run_comparison"]

Afterwards = Callable[[Workload, CompareSettings, int, Sequence[int], Tell], Sequence[LaneOf]]
"""``(workload, settings, samples, steps computed by policies, tell) -> lanes`` to be measured on the finished
samples.
"""

WRITTEN = ("index.html", "table.csv", "results.json")
USUAL = 64, 32
"""Samples of a bundled model, and of them together, where the settings do not say."""


def run_comparison(
    settings: CompareSettings,
    *,
    show: bool = True,
    afterwards: Afterwards | None = None,
    ray: RaySettings | None = None,
) -> Result:
    """Run the comparison and write its folder, or go on with one.

    Written are ``index.html`` (everything on one page), ``table.csv``, ``results.json``, and for each policy
    ``timelines/NAME.png`` and ``reports/NAME.json``. ``results.json`` and ``table.csv`` are written anew after
    every batch. In ``measured`` lies what was drawn, as of a benchmark. A policy that fails is left out, and
    told; the others go on.

    Args:
        settings: What to compare.
        show: Whether to print progress (to stderr) and the table (to stdout).
        afterwards: Gives further lanes for the finished samples, as `foreseer.workbench.headroom.headroom`
            plans schedules for them.
        ray: Workers of a Ray cluster that draw; None for this process.

    Raises:
        PluginError, OptionError: A policy or its options are wrong, a preset was tuned on something else, the
            workload cannot be had, or the folder holds another comparison. Nothing was computed.
        ImportError: Without the packages of ``foreseer[bench]``.
        KeyboardInterrupt: Interrupted before the first batch was finished. Later, an interruption ends the
            comparison and keeps what was done; the same comparison goes on.
    """
    if ray is not None and ray.ray is not None:
        _refuse_elsewhere(settings, afterwards)
    specs = settings.specs()
    make_folder(settings.out)
    for name in WRITTEN:
        refuse_unwritable(settings.out / name)
    threads = (ray and ray.threads) or torch.get_num_threads()
    like = None if settings.restart else machine_of(settings.out / MEASURED)
    with hands_for(settings.workload, ray, threads=threads, like=like) as hands:
        return _run(settings, specs, hands, threads, show=show, afterwards=afterwards)


def _refuse_elsewhere(settings: CompareSettings, afterwards: Afterwards | None) -> None:
    for name, given in (("observers", settings.observers), ("headroom", afterwards)):
        if given:
            raise OptionError(f"{name} looks into runs of this process, and with --ray they are others'; leave one of the two out")


def _run(settings: CompareSettings, specs: list[PolicySpec], hands: Hands, threads: int, *, show: bool, afterwards: Afterwards | None) -> Result:
    subject = hands.look(subject_of)
    settings = _resolved(settings, subject)
    specs = specs or settings.specs()
    chosen = attrs.asdict(settings, recurse=False)
    bench = BenchSettings(
        about=f"Forecasting policies against full computation, on {subject.name}.",
        batch=(chosen.pop("batch"),),
        threads=threads,
        timed="draws",
        lanes=tuple(specs),
        **{name: chosen[name] for name in ("workload", "samples", "steps", "seed", "guidance", "measures", "solvers", "reference", "reference_steps")},
    )
    with progress() if show else nullcontext(_silent) as tell:
        observers = build_observers(settings.observers)
        # with a pipeline of the user's a sample takes long, and what is small beside it are first calls
        how = {"restart": settings.restart, "warm_up": subject.prompts is None}
        ours = (settings.out / "results.json").exists()  # of an earlier comparison, before this one begins
        harness = Harness(bench, settings.out / MEASURED, hands, tell=tell, observers=observers, **how)
        for name in ("timelines", "reports", PICTURES) if settings.restart and ours else ():
            shutil.rmtree(settings.out / name, ignore_errors=True)
        here = Signature(
            model=subject.model,
            scheduler=subject.scheduler,
            num_steps=harness.results.num_steps,
            guidance=harness.results.guidance,
            dtype=subject.dtype,
        )
        elsewhere = {f"preset {spec.preset.name}": said for spec in specs if spec.preset and (said := spec.elsewhere(here))}
        promised = {f"promise of {spec.preset.name}": said for spec in specs if spec.preset and (said := spec.promised(here))}
        told, whole, interrupted = {**subject.facts} | elsewhere | promised, 0, False
        try:
            for _ in harness.batches():
                whole = harness.whole
                _result(settings, harness, whole, told)
            if afterwards is not None:
                policies = [lane for lane in harness.results.lanes if lane.kind == "policy" and lane.units]
                counts = sorted({count for lane in policies if (count := as_many(lane.steps)) < harness.results.num_steps})
                harness.measure_afterwards(hands.look(lambda workload: afterwards(workload, settings, bench.samples, counts, tell)))
        except KeyboardInterrupt:
            if not whole:
                raise
            interrupted = True
    found = _result(settings, harness, whole, told, interrupted=interrupted)
    found = attrs.evolve(found, samples=Samples([row.lane.name for row in found.rows], lambda name: harness.samples(name, found.batch, whole)))
    promises = [f"{whose[0].upper()}{whose[1:]}: {sentence}" for whose, sentence in promised.items()]
    write_page(found.results, settings.out / MEASURED, path=found.page, notes=[*promises, *aim(found), verdict(found), *remarks(found)])
    if show:
        print_table(found)
    return found


def _resolved(settings: CompareSettings, workload: Subject) -> CompareSettings:
    """What is compared, with the workload's own numbers where nothing was said."""
    samples, batch = how_many(workload, samples=settings.samples, batch=settings.batch, usual=USUAL)
    steps = settings.steps or workload.num_steps
    return attrs.evolve(
        settings,
        policies=settings.policies or usual_policies(settings.target, steps),
        samples=samples,
        batch=batch,
        steps=steps,
        guidance=workload.guidance if settings.guidance is None else settings.guidance,
    )


def _result(settings: CompareSettings, harness: Harness, whole: int, told: Mapping[str, str], *, interrupted: bool = False) -> Result:
    """Return what was found on the first so many batches, without samples, and write it."""
    results = attrs.evolve(whole_lanes(harness.results, range(whole)), finished=not interrupted)
    found = Result(
        settings=settings,
        results=results,
        samples=Samples(),
        reports={lane.name: harness.reports[lane.name] for lane in results.lanes if lane.kind == "policy" and lane.name in harness.reports},
        interrupted=interrupted,
        facts=told,
    )
    write_whole(settings.out / "results.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
    write_table(found, settings.out / "table.csv")
    names = file_names(lane.name for lane in results.lanes if lane.kind == "policy")
    for policy, report in found.reports.items():
        timeline, account = settings.out / "timelines" / f"{names[policy]}.png", settings.out / "reports" / f"{names[policy]}.json"
        if whole == 1 or not account.exists():
            report.plot(timeline)
            report.to_json(account)
    return found


def _silent(what: str, done: int, total: int) -> None:
    pass
