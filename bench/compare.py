"""`foreseer compare`: the bundled DiT under several policies, against full computation and against fewer
steps.

It is a setting of the harness: every lane is drawn once on each batch, and its draws are what is timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import attrs
import torch

from foreseer.adapters.identity import identity_of
from foreseer.bench.compared import CompareSettings, Result, print_table, remarks, verdict, whole_lanes, write_table
from foreseer.bench.harness import Harness, Tell
from foreseer.bench.lanes import LaneOf, as_many
from foreseer.bench.machine import facts
from foreseer.bench.report_page import write_page
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import file_names
from foreseer.bench.workload import Workload, labels_of
from foreseer.console import progress
from foreseer.files import make_folder, refuse_unwritable, write_whole
from foreseer.registry import build_observers
from foreseer.signature import Signature
from foreseer.zoo.ddim import ddim_timesteps

__all__ = ["Afterwards", "CompareSettings", "Result", "compare"]

Afterwards = Callable[[Workload, CompareSettings, int, Sequence[int], Tell], Sequence[LaneOf]]
"""``(workload, settings, samples, steps computed by policies, tell) -> lanes`` to be measured on the finished
samples.
"""


WRITTEN = ("index.html", "table.csv", "results.json")
MEASURED = "measured"
"""Folder of what the harness keeps, which ``foreseer bench report`` reads too."""


def compare(settings: CompareSettings, *, show: bool = True, afterwards: Afterwards | None = None) -> Result:
    """Run the comparison and write its folder.

    Written are ``index.html`` (everything on one page), ``table.csv``, ``results.json``, and for each policy
    ``timelines/NAME.png`` and ``reports/NAME.json``. ``results.json`` and ``table.csv`` are written anew after
    every batch. In ``measured`` lies what was drawn, as of a benchmark.

    Args:
        settings: What to compare.
        show: Whether to print progress (to stderr) and the table (to stdout).
        afterwards: Gives further lanes for the finished samples, as `foreseer.workbench.headroom.headroom`
            plans schedules for them.

    Raises:
        PluginError, OptionError: A policy or its options are wrong, or a preset was tuned on something else.
            Nothing was computed.
        ImportError: Without the packages of ``foreseer[bench]``.
        KeyboardInterrupt: Interrupted before the first batch was finished. Later, an interruption ends the
            comparison and keeps what was done; a recording for the headroom goes on where it was when the
            same comparison is run again.
    """
    specs = settings.specs()
    make_folder(settings.out)
    for name in WRITTEN:
        refuse_unwritable(settings.out / name)
    chosen = attrs.asdict(settings, recurse=False)
    bench = BenchSettings(
        family="dit",
        about="Forecasting policies against full computation, on the DiT on handwritten digits that ships with foreseer.",
        batch=(settings.batch,),
        threads=torch.get_num_threads(),
        timed="draws",
        lanes=tuple(specs),
        **{name: chosen[name] for name in ("samples", "steps", "seed", "guidance", "dtype", "device")},
    )
    with progress() if show else nullcontext(_silent) as tell:
        observers = build_observers(settings.observers)
        harness = Harness(bench, settings.out / MEASURED, restart=True, tell=tell, observers=observers, strict=True)
        workload = harness.workload
        here = Signature(
            model=identity_of(workload.model),
            num_steps=settings.steps,
            timesteps=ddim_timesteps(settings.steps),
            guidance=settings.guidance,
            dtype=settings.dtype,
        )
        elsewhere = {f"preset {spec.preset.name}": said for spec in specs if spec.preset and (said := spec.elsewhere(here))}
        told, whole, interrupted = facts(settings.device) | elsewhere, 0, False
        try:
            for results in harness.batches():
                whole = len(results.full(settings.batch).units)
                _result(settings, harness, whole, told)
            if afterwards is not None:
                policies = [lane for lane in harness.results.lanes if lane.kind == "policy"]
                counts = sorted({count for lane in policies if (count := as_many(lane.steps)) < settings.steps})
                harness.measure_afterwards(afterwards(workload, settings, settings.samples, counts, tell))
        except KeyboardInterrupt:
            if not whole:
                raise
            interrupted = True
    found = _result(settings, harness, whole, told, interrupted=interrupted)
    found = attrs.evolve(found, samples={lane.name: harness.samples(lane.name, settings.batch, whole) for lane in found.results.lanes})
    names = file_names(found.reports)
    for policy, report in found.reports.items():
        report.plot(settings.out / "timelines" / f"{names[policy]}.png")
        report.to_json(settings.out / "reports" / f"{names[policy]}.json")
    write_page(found.results, settings.out / MEASURED, path=found.page, notes=[verdict(found), *remarks(found)])
    if show:
        print_table(found)
    return found


def _result(settings: CompareSettings, harness: Harness, whole: int, told: Mapping[str, str], *, interrupted: bool = False) -> Result:
    """Return what was found on the first so many batches, without samples, and write its numbers."""
    results = attrs.evolve(whole_lanes(harness.results, range(whole)), finished=True)
    found = Result(
        settings=settings,
        results=results,
        samples={},
        labels=labels_of(range(min(whole * settings.batch, settings.samples))),
        reports={lane.name: harness.reports[lane.name] for lane in results.lanes if lane.kind == "policy"},
        interrupted=interrupted,
        facts=told,
    )
    write_whole(settings.out / "results.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
    write_table(found, settings.out / "table.csv")
    return found


def _silent(what: str, done: int, total: int) -> None:
    pass
