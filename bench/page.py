"""The table of a comparison, in the terminal, as CSV and on a page of its own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from foreseer.bench.clock import speedup_text
from foreseer.files import write_csv, write_whole
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES, FRECHET_NOTE

if TYPE_CHECKING:
    from foreseer.bench.compared import Result, Row

__all__ = ["COLUMNS", "Column", "print_table", "remarks", "write_page", "write_table"]

BODIES = (
    ("", ("full", "policy")),
    ("Headroom: the best schedules, planned on these very samples", ("static", "hindsight")),
    ("Without a policy: fewer steps, as many as the policies computed", ("fewer",)),
)
"""Parts of the page's table: heading, and kinds of rows."""

HEADROOM_NOTE = (
    "Headroom: 'best static' and 'best per sample, hindsight' are the schedules of the least predicted error, planned on these very samples for taylor of "
    "order 1 at the last block. No policy can know them beforehand. They bound schedules of that predictor under that error model; not other predictors, "
    "and not gates."
)

BUSY = 1.5
"""A speed-up that varies by more than this factor between batches was measured beside other work: on an idle machine batches differ by a few per cent."""


@attrs.frozen
class Column:
    """A column of the table.

    Attributes:
        key: Which of `Row.figures` the column is sorted by.
        title: Its head.
        note: What it means, for the page.
        text: How a row's cell reads.
        narrow: Whether a narrow terminal shows it too.
    """

    key: str
    title: str
    note: str
    text: Callable[[Row], str]
    narrow: bool = False


def _steps(row: Row) -> str:
    return str(row.steps[0]) if (row.steps == row.steps[0]).all() else f"{row.steps.mean():.1f}"


def _mean(row: Row) -> str:
    like = row.likeness
    return "same" if like.identical else f"{like.mean:.1f}" + f" ({like.broken} broken)" * bool(like.broken)


def _worst(row: Row) -> str:
    return "same" if row.likeness.identical else f"{row.likeness.worst:.1f}"


def _gain(row: Row) -> str:
    return "" if row.gain is None else f"{row.gain:+.1f}"


def _held(row: Row) -> str:
    return f"{row.bytes_held / 1e6:.1f}" if row.bytes_held else "0"


def _frechet(row: Row) -> str:
    if not np.isfinite(row.frechet):
        return "none"
    return f"{row.frechet:.2f}" + "*" * (len(row.psnr) < FRECHET_MINIMUM_SAMPLES)


COLUMNS = (
    Column(
        "steps_computed",
        "steps",
        "Steps that were computed and not forecast, as the mean over the samples; with decimals where samples differ.",
        _steps,
        narrow=True,
    ),
    Column(
        "block_rows_ratio",
        "block-rows",
        "Transformer blocks evaluated, times batch rows, over those of full computation. It counts verification, and no other cost.",
        lambda row: f"{row.ratio:.3f}",
    ),
    Column(
        "speedup",
        "speed-up",
        "Time of full computation over that of the row, as the median over the batches; on a CPU that of the processor. "
        "Both are timed in the same batch. What is more than the saved work allows is not shown: the machine was busy.",
        lambda row: speedup_text(row.speedup),
        narrow=True,
    ),
    Column(
        "speedup_promised",
        "promised",
        "The speed-up that the block-rows promise, 1 / block-rows. What is missing is the cost of forecasting, and of what lies outside of the blocks.",
        lambda row: f"{1 / row.ratio:.2f}x",
    ),
    Column(
        "psnr_mean",
        "PSNR",
        "Peak signal-to-noise ratio to the same sample of full computation, in dB, as the mean over the "
        "samples. Higher is closer. A sample counts with at most 100 dB, and with 0 if it is broken, that is "
        "not finite.",
        _mean,
        narrow=True,
    ),
    Column("psnr_worst", "worst", "PSNR of the worst sample, in dB.", _worst),
    Column(
        "gain_over_fewer_steps_db",
        "gain",
        "PSNR less that of fewer steps, in dB: of plain DDIM that computes as many steps, rounded, from the same noise. "
        "Below zero, fewer steps are the better cache.",
        _gain,
        narrow=True,
    ),
    Column("ssim_mean", "SSIM", "Structural similarity to the same sample of full computation; 1 is the same.", lambda row: f"{row.ssim.mean():.3f}"),
    Column("frechet_distance", "Frechet", "Distance to the data; lower is better. It is biased upwards where samples are few.", _frechet, narrow=True),
    Column(
        "accuracy",
        "accuracy",
        "Share of the samples that a classifier puts into the class they were made for.",
        lambda row: f"{100 * row.accuracy:.1f} %",
        narrow=True,
    ),
    Column("seconds_per_batch", "s / batch", "Seconds of a batch, as the median over the batches.", lambda row: f"{np.median(row.seconds):.2f}"),
    Column("bytes_held", "MB held", "Most memory that recorded features occupied during a batch, in MB (1e6 bytes).", _held),
)


def counted(number: int, noun: str) -> str:
    """Return ``"1 sample"``, ``"2 samples"``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def remarks(result: Result) -> list[str]:
    """Return what a reader of the table must know, in sentences."""
    found = []
    done, asked = len(result.labels), result.settings.samples
    if result.interrupted:
        what = f"the results rest on {done} of {asked} samples" if done < asked else f"all {asked} samples are in the results"
        found.append(f"The comparison was interrupted: {what}.")
    if done < FRECHET_MINIMUM_SAMPLES:
        few = f"{counted(done, 'sample')} {'is' if done == 1 else 'are'} few for a Frechet distance"
        found.append(f"* {few}: below {FRECHET_MINIMUM_SAMPLES} it is too high. Compare only rows of this table.")
    found.append(FRECHET_NOTE)
    if any(row.kind == "hindsight" for row in result.rows):
        found.append(HEADROOM_NOTE)
    if result.batches == 1:
        found.append("Speed-ups rest on one batch, so nothing is known about their spread.")
    else:
        spread = max((max(row.speedups) / min(row.speedups) for row in result.rows), default=1.0)
        found.append(f"Speed-ups are medians over {result.batches} batches; the least steady row varied by a factor of {spread:.2f} between batches.")
        if spread > BUSY:
            found.append("The machine was busy with other work: repeat the comparison on an idle one before you quote its speed-ups.")
    return found


def verdict(result: Result) -> str:
    """Say how many policies beat fewer steps."""
    gains = [row.gain for row in result.rows if row.gain is not None and row.kind == "policy"]
    if not gains:
        return "No policy saved steps."
    better = sum(gain > 0 for gain in gains)
    if len(gains) == 1:
        return f"The policy that saved steps came {'' if better else 'no '}closer to full computation than plain sampling with as many steps."
    return f"{better} of {len(gains)} policies that saved steps came closer to full computation than plain sampling with as many steps."


def write_table(result: Result, path: Path) -> Path:
    """Write the rows' figures as CSV; empty where a figure is not finite."""
    lines = [row.figures() for row in result.rows]
    return write_csv(path, list(lines[0]), lines)


def print_table(result: Result) -> None:
    """Print the table to stdout, and where the page is. A narrow terminal gets the main columns; all are in ``table.csv``."""
    from rich.table import Table

    from foreseer.console import console

    out = console()
    columns = [column for column in COLUMNS if column.narrow or out.width >= 130]
    settings = result.settings
    table = Table(title=f"{counted(len(result.labels), 'sample')}, {counted(settings.steps, 'step')}, against full computation", title_justify="left")
    table.add_column("policy", overflow="fold")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    last_before = [row for row in result.rows if row.kind != "fewer"][-1]
    for row in _sections(result):
        table.add_row(row.name, *(column.text(row) for column in columns), end_section=row is last_before, style="dim" if row.kind == "fewer" else "")
    out.print(table)
    for sentence in [verdict(result), *remarks(result)]:
        out.print(sentence)
    for row in result.rows:
        for warning in row.warnings:
            out.print(f"{row.name}: {warning}", style="yellow")
    out.print(f"page: {result.page}", soft_wrap=True)


def write_page(result: Result, timelines: Mapping[str, Path]) -> Path:
    """Write ``index.html``: one file that needs no other.

    Args:
        result: What to show. Its folder holds ``samples.png`` and ``speed_quality.png``.
        timelines: For each policy the picture of its first batch.

    Raises:
        ImportError: Without jinja2.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined)
    out = result.settings.out
    settings = {key: value for key, value in result.to_dict()["settings"].items() if key != "policies"}
    text = environment.get_template("page.html").render(
        result=result,
        columns=COLUMNS,
        drawn=counted(len(result.labels), "sample"),
        steps=counted(result.settings.steps, "DDIM step"),
        bodies=[(heading, [_cells(row) for row in _sections(result) if row.kind in kinds]) for heading, kinds in BODIES],
        verdict=verdict(result),
        remarks=remarks(result),
        warnings=[(row.name, warning) for row in result.rows for warning in row.warnings],
        settings=settings,
        speed_quality=_inlined(out / "speed_quality.png"),
        samples=_inlined(out / "samples.png"),
        timelines=[(policy, _inlined(picture)) for policy, picture in timelines.items()],
    )
    return write_whole(result.page, text + "\n")


def _sections(result: Result) -> list[Row]:
    """Full computation, the policies as they were given, then fewer steps, by their number."""
    fewer = sorted((row for row in result.rows if row.kind == "fewer"), key=lambda row: row.num_steps)
    return [row for row in result.rows if row.kind != "fewer"] + fewer


def _cells(row: Row) -> dict[str, Any]:
    figures = row.figures()
    cells = []
    for column in COLUMNS:
        value, text = figures[column.key], column.text(row)
        if text == "same":
            value = "Infinity"
        mark = "" if column.key != "gain_over_fewer_steps_db" or not row.gain else "good" if row.gain > 0 else "bad"
        cells.append({"text": text, "value": "" if value is None else value, "mark": mark})
    return {"name": row.name, "kind": row.kind, "cells": cells}


def _inlined(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
