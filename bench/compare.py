"""`foreseer compare`: the bundled DiT under several policies, against full computation and against fewer steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch import nn

from foreseer.adapters.identity import identity_of
from foreseer.bench.compare_settings import CompareSettings
from foreseer.bench.compared import Result
from foreseer.bench.fields import DTYPES
from foreseer.bench.files import file_names
from foreseer.bench.lanes import LaneOf, keep_freed_memory
from foreseer.bench.machine import facts
from foreseer.bench.measure import Bars, Comparison
from foreseer.bench.page import print_table, write_page, write_table
from foreseer.bench.pictures import draw_samples, draw_speed_quality
from foreseer.console import console
from foreseer.files import make_folder, refuse_unwritable, write_whole
from foreseer.signature import Signature
from foreseer.zoo import load_dit
from foreseer.zoo.ddim import ddim_timesteps
from foreseer.zoo.judge import DigitJudge

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Afterwards", "CompareSettings", "Result", "compare"]

Afterwards = Callable[[nn.Module, CompareSettings, int, Sequence[int], Callable[[str], None]], Sequence[LaneOf]]
"""``(model, settings, samples, steps computed by policies, tell) -> lanes`` to be measured on the finished samples."""


WRITTEN = ("index.html", "table.csv", "results.json", "samples.png", "speed_quality.png")


def compare(settings: CompareSettings, *, show: bool = True, afterwards: Afterwards | None = None) -> Result:
    """Run the comparison and write its folder.

    Written are ``index.html`` (everything on one page), ``table.csv``, ``results.json``, ``samples.png``, ``speed_quality.png``,
    and for each policy ``timelines/NAME.png`` and ``reports/NAME.json``. ``results.json`` and ``table.csv`` are written anew after every batch.

    Args:
        settings: What to compare.
        show: Whether to print progress (to stderr) and the table (to stdout).
        afterwards: Gives further lanes for the finished samples, as `foreseer.workbench.headroom.headroom` plans schedules for them.

    Raises:
        PluginError, OptionError: A policy or its options are wrong, or a preset was tuned on something else. Nothing was computed.
        ImportError: Without the packages of ``foreseer[bench]``.
        KeyboardInterrupt: Interrupted before the first batch was finished. Later, an interruption ends the comparison and keeps what was done; a recording
            for the headroom goes on where it was when the same comparison is run again.
    """
    specs = settings.specs()
    make_folder(settings.out)
    for name in WRITTEN:
        refuse_unwritable(settings.out / name)
    keep_freed_memory()
    judge = DigitJudge()
    model = cast("nn.Module", load_dit(device=settings.device, dtype=DTYPES[settings.dtype]))
    here = Signature(
        model=identity_of(model),
        num_steps=settings.steps,
        timesteps=ddim_timesteps(settings.steps),
        guidance=settings.guidance,
        dtype=settings.dtype,
    )
    elsewhere = {f"preset {preset.name}": differs for preset in settings.presets if (differs := preset.check(here, any_model=settings.any_model))}
    comparison = Comparison(settings, specs, model)

    def result(*, interrupted: bool = False) -> Result:
        found = Result(
            settings=settings,
            rows=comparison.rows(judge),
            samples=comparison.samples(),
            labels=comparison.labels(),
            reports=comparison.reports(),
            batches=len(comparison.batches),
            interrupted=interrupted,
            facts=facts(settings.device) | elsewhere,
        )
        write_whole(settings.out / "results.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
        write_table(found, settings.out / "table.csv")
        return found

    interrupted = False
    with _progress(show) as bars:
        try:
            comparison.run(bars, on_batch=result)
            if afterwards is not None:
                lanes = afterwards(model, settings, len(comparison.labels()), comparison.counts(), lambda what: bars.begin(what, 0))
                comparison.measure_afterwards(lanes, bars)
        except KeyboardInterrupt:
            if not comparison.batches:
                raise
            interrupted = True
    found = result(interrupted=interrupted)
    draw_samples(found, settings.out / "samples.png")
    draw_speed_quality(found, settings.out / "speed_quality.png")
    names = file_names(found.reports)
    for policy, report in found.reports.items():
        report.plot(settings.out / "timelines" / f"{names[policy]}.png")
        report.to_json(settings.out / "reports" / f"{names[policy]}.json")
    write_page(found, {policy: settings.out / "timelines" / f"{name}.png" for policy, name in names.items()})
    if show:
        print_table(found)
    return found


class _Silent:
    """Bars for nobody."""

    def expect(self, steps: int) -> None:
        pass

    def begin(self, what: str, steps: int) -> None:
        pass

    def step(self, index: int) -> None:
        pass


class _Shown:
    """Two bars: the comparison, and the sampling under way."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._total = progress, 0
        self._all, self._one = progress.add_task("compare", total=None), progress.add_task("", total=None)

    def expect(self, steps: int) -> None:
        self._total += steps
        self._progress.update(self._all, total=self._total)

    def begin(self, what: str, steps: int) -> None:
        self._progress.reset(self._one, total=steps or None, description=what)

    def step(self, index: int) -> None:
        self._progress.advance(self._all)
        self._progress.advance(self._one)


@contextmanager
def _progress(show: bool) -> Iterator[Bars]:
    if not show:
        yield _Silent()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    what = TextColumn("{task.description}", markup=False)
    columns = (
        what,
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # drawn seldom: drawing takes time from what is being timed
    with Progress(*columns, console=console(stderr=True), refresh_per_second=2) as progress:
        yield _Shown(progress)
