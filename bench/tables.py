"""Benchmarks in the terminal: the table, and two results side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from foreseer.bench.clock import UNMEASURABLE
from foreseer.bench.diff import Change, Diff
from foreseer.bench.figures import FIGURES, Figure
from foreseer.bench.reference import told
from foreseer.bench.results import Results
from foreseer.bench.sentences import summaries
from foreseer.bench.simulate import Simulated
from foreseer.bench.summary import Line, lines_of
from foreseer.columns import Column, known, listed
from foreseer.console import console, table
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES, FRECHET_NOTE

__all__ = [
    "APART",
    "COLUMNS",
    "PUBLISHED",
    "broken_text",
    "columns_of",
    "few_samples",
    "footnotes",
    "method_of",
    "number_text",
    "print_diff",
    "print_lanes",
    "print_results",
    "print_simulated",
]


def number_text(value: float, form: str) -> str:
    """Return a number as tables show it: nothing where there is none, and "same" for the PSNR of what is the
    same.
    """
    return "" if math.isnan(value) else "same" if math.isinf(value) else format(value, form)


def broken_text(line: Line) -> str:
    """Say how many samples count as 0 dB because they are broken; empty for none."""
    return f" ({line.broken} broken)" if line.broken else ""


def _figure(title: str, figure: str, about: Figure, *, wide: bool = False) -> list[Column[Line]]:
    """A figure's mean and worst sample in one column, then each in one of its own."""
    form, unit = about.form, " sample, dB" if about.unit == "dB" else ""

    def mean(line: Line) -> float:
        return line.means.get(figure, math.nan)

    def worst(line: Line) -> float:
        return line.worst.get(figure, math.nan)

    def broken(line: Line) -> str:
        return broken_text(line) if about.unit == "dB" and mean(line) == mean(line) else ""

    def text(line: Line) -> str:
        return number_text(mean(line), form) + broken(line)

    def least(line: Line) -> str:
        return number_text(worst(line), form)

    def both(line: Line) -> str:
        found = dict.fromkeys((number_text(mean(line), form), least(line)))
        return " / ".join(found) + broken(line)

    return [
        Column(title, f"{about.note} Mean / worst{unit}.", mean, both, wide),
        Column(title, about.note, mean, text, wide),
        Column(f"worst {title}", f"{title} of the worst sample.", worst, least, wide),
    ]


def _speedup(line: Line) -> str:
    if math.isnan(line.speedup):
        return UNMEASURABLE if line.lane.ratios else ""
    low, high = line.quartiles
    return f"{line.speedup:.2f}x" + (f" ({low:.2f}-{high:.2f})" if len(line.lane.ratios) > 1 else "")


def _frechet(line: Line) -> str:
    few = len(line.lane.indices) < FRECHET_MINIMUM_SAMPLES
    return "" if math.isnan(line.frechet) else f"{line.frechet:.2f}" + "*" * few


_BEFORE: tuple[Column[Line], ...] = (
    Column(
        "steps",
        "Steps that were computed, mean over the samples.",
        lambda line: line.steps,
        lambda line: number_text(line.steps, ".1f").removesuffix(".0"),
    ),
    Column("block-rows", "Blocks evaluated x rows, over those of full computation.", lambda line: line.cost, ".3f"),
    Column("FLOPs", "Over those of full computation, on the first batch; what a policy checks at its first step is in it.", lambda line: line.flops, ".3f"),
    Column(
        "speed-up",
        "Time of full computation over that of the lane, of the processor on a CPU: median of pairs, and quartiles.",
        lambda line: line.speedup,
        _speedup,
    ),
    Column(
        "peak MB",
        "Most bytes of tensors (CUDA: of the allocator) alive at once.",
        lambda line: line.peak_bytes / 1e6,
        ".1f",
        wide=True,
    ),
    Column(
        "held MB",
        "Most that recorded features occupied; of peers what was still alive when a batch was drawn.",
        lambda line: line.bytes_held / 1e6 if line.bytes_held else math.nan,
        ".1f",
        wide=True,
    ),
)


def _gain(title: str, note: str, value: Callable[[Line], float]) -> list[Column[Line]]:
    """The same column where mean and worst sample stand in one, and where each has its own."""
    return [Column(title, note, value, "+.1f", signed=True)] * 2


_FIGURES = (
    _figure("PSNR", "psnr", FIGURES["psnr"]),
    _gain("gain", "PSNR less that of plain sampling with as many steps, of the best solver that was drawn, dB.", lambda line: line.gain),
    _figure("truth", "truth", FIGURES["truth"]),
    _gain("truth gain", "PSNR to the converged solution less that of the best solver with as many evaluations, dB.", lambda line: line.truth_gain),
    _figure("SSIM", "ssim", FIGURES["ssim"], wide=True),
    _figure("layout", "layout", FIGURES["layout"], wide=True),
    _figure("feature dist.", "feature_distance", FIGURES["feature_distance"], wide=True),
    _figure("latent error", "latent_error", FIGURES["latent_error"], wide=True),
    _figure("temporal", "temporal_psnr", FIGURES["temporal_psnr"]),
)
_AFTER: tuple[Column[Line], ...] = (
    Column("Frechet", FRECHET_NOTE, lambda line: line.frechet, _frechet),
    Column("accuracy", FIGURES["accuracy"].note, lambda line: line.means.get("accuracy", math.nan), ".1%"),
)

COLUMNS: tuple[Column[Line], ...] = (*_BEFORE, *(columns[0] for columns in _FIGURES), *_AFTER)
"""The columns, with mean and worst sample in one."""

APART: tuple[Column[Line], ...] = (*_BEFORE, *(column for columns in _FIGURES for column in columns[1:]), *_AFTER)
"""The columns, with the worst sample in a column of its own."""


def columns_of(results: Results, *, apart: bool = False) -> tuple[Column[Line], ...]:
    """Return the columns of results: `COLUMNS` or `APART`, and of each measure that was asked for."""
    asked = [_figure(about.title, name, about) for name, about in results.measures.items()]
    own = [column for columns in asked for column in (columns[1:] if apart else columns[:1])]
    every = APART if apart else COLUMNS
    return (*every[: -len(_AFTER)], *own, *_AFTER)


def _numbers(row: Mapping[str, Any]) -> str:
    known = ((key, value) for key, value in row.items() if isinstance(value, (int, float)))
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in known)


PUBLISHED: tuple[Column[Mapping[str, Any]], ...] = (
    Column("model", "", lambda row: str(row.get("model", ""))),
    Column("numbers", "", _numbers),
    Column("source", "", lambda row: str(row["source"])),
)
"""The columns of what papers printed."""


def method_of(row: Mapping[str, Any]) -> str:
    """Return the method of a published row."""
    return str(row["method"])


def print_results(results: Results) -> None:
    """Print everything that is known: a table for each batch size, what it says in short, and failures."""
    out = console()
    for batch in dict.fromkeys(lane.batch for lane in results.lanes):
        print_lanes(out, results, batch)
        for summary in summaries(results, batch):
            out.print(f"{summary.method}: {summary.sentence}")
    for lane in (lane for lane in results.lanes if lane.error):
        out.print(Text.assemble((f"{lane.name} (batch {lane.batch}): ", "bold"), (lane.error, "red")))
    if results.published:
        out.print("\nWhat was published, of other models: nothing of it compares with the tables above but its order")
        out.print(listed("published", PUBLISHED, results.published, method_of))
    lost = [f"{lane.name} (batch {lane.batch}): {said}" for lane in results.lanes for unit in lane.units for said in unit.said[len(unit.warnings) :]]
    for said in [*dict.fromkeys(lost), *footnotes(results)]:
        out.print(f"\n{said}")
    if not results.finished:
        out.print("\nThe benchmark is not finished: the same command goes on.")


def print_lanes(out: Console, results: Results, batch: int) -> None:
    """Print the table of a batch size: the main columns, and all of them where the terminal is wide."""
    lines, wide = lines_of(results, batch), out.width >= 200
    shown = known([column for column in columns_of(results) if wide or not column.wide], lines)
    done = len(lines[0].lane.indices) if lines else 0
    out.print(f"\n{results.family}, {results.num_steps} steps, {done} samples in batches of {batch}")
    width = min(max((len(line.lane.name) for line in lines), default=0), 56 if wide else 34)
    looks: dict[str, Any] = {"faint": lambda line: line.lane.kind == "fewer", "name_width": width}
    out.print(listed("lane", shown, lines, lambda line: line.lane.name, **looks))
    if any(column.title == "Frechet" for column in shown) and done < FRECHET_MINIMUM_SAMPLES:
        out.print(few_samples(done))


def footnotes(results: Results) -> list[str]:
    """Say what the converged reference is, and which measures have no column and how to get them."""
    proof = told(results.reference)
    return [proof] * bool(proof) + [f"Measure {name!r} was left out: {why}" for name, why in results.missing.items()]


def few_samples(done: int) -> str:
    """Say why a Frechet distance of so many samples has a star."""
    return f"* {done} sample{' is' if done == 1 else 's are'} few for a Frechet distance: below {FRECHET_MINIMUM_SAMPLES} it is too high."


_CHANGES: tuple[Column[Change], ...] = (
    Column("figure", "", lambda found: FIGURES[found.figure].title if found.figure in FIGURES else found.figure),
    Column("before", "", lambda found: found.before, ".4g"),
    Column("after", "", lambda found: found.after, ".4g"),
    Column("change", "", lambda found: found.difference, ".4g"),
    Column("noise", "", lambda found: found.noise, ".4g"),
    Column("", "", lambda found: {True: "better", False: "worse", None: ""}[found.better]),
)


def print_diff(found: Diff) -> None:
    """Print what changed between two results, and what differs besides."""
    out = console()
    for text in found.conditions:
        out.print(f"differs: {text}")
    if not found.paired:
        out.print("The samples are not the same, so that means are compared, not pairs.")
    for names, where in ((found.only_before, "first"), (found.only_after, "second")):
        for name in names:
            out.print(f"only in the {where}: {name}")
    for name, before, after in found.errors:
        out.print(f"{name}: {before or 'no error'} -> {after or 'no error'}")
    if changed := found.changed:
        out.print(listed("lane", _CHANGES, changed, lambda change: f"{change.lane} (batch {change.batch})"))
    unknown = sum(change.changed is None for change in found.changes)
    compared = f"{len(found.changes)} figures compared, {len(changed)} changed beyond noise"
    out.print(compared + (f", {unknown} times measured too seldom to say" if unknown else ""))


def print_simulated(found: Sequence[Simulated]) -> None:
    """Print how long a sweep takes on so many workers."""
    headings = ("workers", "hours", "times faster", "worker hours", "busy", "full drawn again")
    shown = table(*headings, **{heading: {"justify": "right"} for heading in headings})
    for one in found:
        hours = f"{one.seconds / 3600:.2f}"
        shown.add_row(str(one.workers), hours, f"{found[0].seconds / one.seconds:.1f}", f"{one.hours:.1f}", f"{100 * one.busy:.0f}%", str(one.again))
    out = console()
    out.print(shown)
    out.print(f"\nsimulated, nothing was drawn: {found[0].units} units, {found[0].worked / 3600:.1f} hours of measuring on one worker")
