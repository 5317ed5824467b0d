"""`foreseer compare`: the bundled DiT under several policies, against full computation and against fewer steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
from torch import Tensor, nn

from foreseer.adapters.identity import identity_of
from foreseer.bench.fields import DTYPES, check_device, check_dtype, check_folder, number, truth, whole
from foreseer.bench.files import file_names
from foreseer.bench.lanes import keep_freed_memory
from foreseer.bench.machine import facts
from foreseer.bench.measure import Bars, Comparison, Row
from foreseer.bench.page import print_table, write_page, write_table
from foreseer.bench.pictures import draw_samples, draw_speed_quality
from foreseer.bench.quality import FRECHET_NOTE, DigitJudge
from foreseer.bench.results import plain
from foreseer.console import console
from foreseer.files import make_folder, refuse_unwritable, write_whole
from foreseer.registry import PolicySpec, parse_policy
from foreseer.report import Report
from foreseer.workbench.preset import Preset, find_preset
from foreseer.workbench.signature import Signature
from foreseer.zoo import load_dit
from foreseer.zoo.ddim import ddim_timesteps

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["DEFAULT_POLICIES", "CompareSettings", "Result", "compare"]

PER_SAMPLE_NOTE = 'dB; "inf" where a sample is that of full computation, null where it is broken (not finite)'

# CG-Taylor's threshold is for models whose first block changes less from step to step: with its default this small one computes everything.
DEFAULT_POLICIES = ("reuse", "taylorseer", "taylorseer:target=last_block", "cg_taylor:threshold=0.06", "speca", "speca_released")


def _policies(value: Any) -> tuple[str | PolicySpec, ...]:
    return (value,) if isinstance(value, (str, PolicySpec)) else tuple(value)


def _presets(value: Any) -> tuple[Preset, ...]:
    return tuple(find_preset(preset) for preset in ((value,) if isinstance(value, (str, Path, Preset)) else value))


@attrs.frozen(kw_only=True)
class CompareSettings:
    """What `compare` does. Every value is checked when the settings are made; the policies, when the comparison begins.

    Attributes:
        policies: As on the command line (``"speca:threshold=0.2,max_order=2"``), or `foreseer.PolicySpec` objects. Full computation is always there.
        presets: Policies that were tuned, by name or file; one that was tuned on something else is refused.
        any_model: Use those too; the results then say what differs.
        samples: How many samples each policy draws.
        steps: DDIM steps of a full computation, 1 to 1000.
        seed: Of the initial noise. Sample i begins with the same noise whatever ``batch`` is.
        batch: Samples that are drawn together; each is two rows, with and without its class.
        guidance: e = e_uncond + guidance * (e_cond - e_uncond).
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        observers: Observers of every policy's runs, as on the command line (``"csvtrace:path=trace.csv"``), or plugins. Built once; timed with the runs.
        headroom: Whether to record the compared samples afterwards, and to measure the best schedules that were planned on them: see
            `foreseer.bench.headroom`. It takes 2 to 3 times as long as full computation for each 10 steps of a run.
        out: Folder for the results; made if it is missing. Files of the same names are overwritten.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    policies: tuple[str | PolicySpec, ...] = attrs.field(default=DEFAULT_POLICIES, converter=_policies)
    samples: int = attrs.field(default=64, validator=whole(1))
    steps: int = attrs.field(default=50, validator=whole(1, 1000))
    seed: int = attrs.field(default=0, validator=whole(0))
    batch: int = attrs.field(default=32, validator=whole(1))
    guidance: float = attrs.field(default=1.5, validator=number(0.0, 100.0, hint="1 means no guidance"))
    device: str = attrs.field(default="cpu", validator=check_device)
    dtype: str = attrs.field(default="float32", validator=check_dtype)
    observers: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    headroom: bool = attrs.field(default=False, validator=truth)
    out: Path = attrs.field(default=Path("compare"), converter=Path, validator=check_folder)
    presets: tuple[Preset, ...] = attrs.field(default=(), converter=_presets)
    any_model: bool = attrs.field(default=False, validator=truth)

    def specs(self) -> list[PolicySpec]:
        """Return the policies, read and checked; what is named twice is there once.

        Raises:
            PluginError, OptionError: See `foreseer.registry.parse_policy`.
        """
        specs = [p if isinstance(p, PolicySpec) else parse_policy(p) for p in self.policies]
        specs += [preset.spec(any_model=self.any_model) for preset in self.presets]
        return list({str(spec): spec for spec in specs}.values())


@attrs.frozen(eq=False, kw_only=True)
class Result:
    """What `compare` found out, over the N samples whose batches were finished.

    Attributes:
        settings: What was asked for.
        rows: The table: full computation, then each policy with the fewer-steps lane of its cost after it, where that is not there already.
        samples: For each row's name ``(N, 1, H, W)`` float32 samples in about [-1, 1].
        labels: ``(N,)`` classes.
        reports: For each policy the report of its first batch.
        batches: How many batches were finished.
        interrupted: Whether Ctrl-C ended the comparison early.
        facts: Machine and versions.
    """

    settings: CompareSettings
    rows: tuple[Row, ...]
    samples: Mapping[str, Tensor] = attrs.field(repr=False)
    labels: Tensor = attrs.field(repr=False)
    reports: Mapping[str, Report] = attrs.field(repr=False)
    batches: int
    interrupted: bool
    facts: Mapping[str, str]

    @property
    def page(self) -> Path:
        """The page that shows it all."""
        return self.settings.out / "index.html"

    def row(self, name: str) -> Row:
        """Return the row of that name. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``results.json`` holds."""
        chosen = attrs.asdict(self.settings, filter=lambda field, _: field.name not in ("policies", "observers", "out", "presets"))
        presets = {"presets": [preset.name for preset in self.settings.presets]} if self.settings.presets else {}
        return {
            "settings": {"policies": [str(p) for p in self.settings.policies], **presets, **chosen},
            "samples": len(self.labels),
            "batches": self.batches,
            "interrupted": self.interrupted,
            "facts": dict(self.facts),
            "notes": {"frechet_distance": FRECHET_NOTE, "psnr_per_sample": PER_SAMPLE_NOTE},
            "labels": self.labels.tolist(),
            "rows": [
                row.figures()
                | {
                    "psnr_per_sample": [plain(v) for v in row.psnr.tolist()],
                    "steps_per_sample": row.steps.tolist(),
                    "seconds_of_batches": list(row.seconds),
                    "speedup_of_batches": list(row.speedups),
                    "warnings": list(row.warnings),
                }
                for row in self.rows
            ],
        }


WRITTEN = ("index.html", "table.csv", "results.json", "samples.png", "speed_quality.png")


def compare(settings: CompareSettings, *, show: bool = True) -> Result:
    """Run the comparison and write its folder.

    Written are ``index.html`` (everything on one page), ``table.csv``, ``results.json``, ``samples.png``, ``speed_quality.png``,
    and for each policy ``timelines/NAME.png`` and ``reports/NAME.json``. ``results.json`` and ``table.csv`` are written anew after every batch.

    Args:
        settings: What to compare.
        show: Whether to print progress (to stderr) and the table (to stdout).

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
            if settings.headroom:
                from foreseer.bench.headroom import headroom_lanes, record_compared

                trace = record_compared(model, settings, len(comparison.labels()), tell=lambda what: bars.begin(what, 0))
                comparison.measure_headroom(headroom_lanes(trace, comparison.counts()), bars)
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
