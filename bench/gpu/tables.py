"""Timings in the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.text import Text

from foreseer.bench.clock import UNMEASURABLE, possible
from foreseer.bench.gpu.tables_of_parts import print_parts
from foreseer.columns import Column, known, listed
from foreseer.console import console
from foreseer.storage import in_bytes

__all__ = ["COLUMNS", "print_timings"]

Lane = dict[str, Any]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _gb(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f}"


def _speedup(lane: Lane) -> str:
    if math.isnan(possible(lane["speedup"], lane["block_rows_ratio"])):
        return UNMEASURABLE
    low, high = min(lane["speedups"]), max(lane["speedups"])
    return f"{lane['speedup']:.2f}x" + (f" ({low:.2f}-{high:.2f})" if len(lane["speedups"]) > 1 else "")


def _kept(lane: Lane) -> str:
    return "" if _speedup(lane) == UNMEASURABLE else f"{lane['of_promised']:.1%}"


def _computed(lane: Lane) -> float | None:
    planned: float | None = lane["seconds_per_computed_step"]
    return lane["seconds_per_rejected_step"] if planned is None else planned


def _work(lane: Lane, what: str) -> str:
    work = (lane["device_work"] or {}).get("forecast")
    return "" if work is None else f"{work[what]:.0f}"


def _held(lane: Lane) -> str:
    """Whether the waits are those of the design; empty in files that do not know."""
    holds = (lane.get("waits") or {}).get("holds")
    return "" if holds is None else "yes" if holds else "no"


def _moved(lane: Lane) -> str:
    return _gb(lane["forecast_bytes_read"] + lane["forecast_bytes_written"])


COLUMNS: tuple[Column[Lane], ...] = (
    Column("computed", "Steps computed.", lambda lane: f"{lane['steps_computed']}/{lane['steps']}"),
    Column("s/run", "Seconds of a run, median.", lambda lane: f"{lane['seconds_per_run']:.3g}"),
    Column("speed-up", "Over full computation beside it, median and range over the runs.", _speedup),
    Column("promised", "Speed-up that the saved block-rows promise.", lambda lane: f"{lane['speedup_promised']:.2f}x"),
    Column("kept", "Speed-up over what was promised.", _kept),
    Column("full ms", "Milliseconds of a step of the bare model.", lambda lane: _ms(lane["seconds_per_full_step"])),
    Column(
        "comp. ms",
        "Milliseconds of a computed step under the policy; what is recorded is copied in it.",
        lambda lane: _ms(_computed(lane)),
    ),
    Column(
        "forec. ms",
        "Milliseconds of a forecast step, the verification in it where there is one.",
        lambda lane: _ms(lane["seconds_per_forecast_step"]),
    ),
    Column(
        "floor ms",
        "What its weighted sums would take at the bandwidth of a big copy.",
        lambda lane: _ms(lane["forecast_floor_seconds"]),
    ),
    Column("GB moved", "Bytes that its weighted sums read and write.", _moved),
    Column("kernels", "Kernels that a forecast step starts.", lambda lane: _work(lane, "kernels")),
    Column("waits", "Times that the host waits for the device in a forecast step.", lambda lane: _work(lane, "waits")),
    Column("as designed", "Whether no step waits more often than the design says; if not, see below.", _held),
    Column("peak GB", "Most that was allocated, the weights in it.", lambda lane: _gb(lane["peak_bytes"])),
    Column("held GB", "What the recorded features occupy.", lambda lane: _gb(lane["history_bytes"])),
)


def print_timings(content: dict[str, Any]) -> None:
    """Print what is known: a table for each model, what was left out and why, and what all of it is not."""
    out = console()
    settings, speed = content["settings"], content["bandwidth"]
    timed, skipped = ([lane for lane in content["lanes"] if bool(lane["skipped"]) == b] for b in (False, True))
    device = content["machine"].get("GPU") or content["machine"]["processor"]
    runs = f"{settings['repeats']} run{'s' * (settings['repeats'] != 1)} of each"
    out.print(f"{device}; {settings['dtype']}, {settings['steps']} steps, {runs}")
    if speed:
        out.print(f"bandwidth {in_bytes(speed['bytes_per_second'])}/s: {speed['what']}")
    for model, facts in content["models"].items():
        if own := [lane for lane in timed if lane["model"] == model]:
            _print_model(out, model, facts, own)
    for lane in skipped:
        out.print(_named(f"{lane['model']}, {lane['policy']}: ", (f"skipped: {lane['skipped']}", "yellow")))
    forced = [lane for lane in timed if lane["forced_rate_from"]]
    if forced:
        out.print("\nForced decisions, and where their rates are from")
    for lane in forced:
        steps = f"{lane['steps_computed']} of {lane['steps']} steps computed"
        out.print(f"  {lane['model']}, {lane['policy']}: {steps}; {lane['forced_rate_from']}")
    shown = list(COLUMNS) if timed else []
    shown += print_parts(out, content)
    out.print()
    for title, note in dict.fromkeys((column.title, column.note) for column in shown):
        out.print(_named(title, f": {note}"), style="dim")
    out.print(f"\n{content['note']}")
    for said in content.get("unfinished", ()):
        out.print(f"\n{said}")
    if not content["finished"]:
        out.print("\nNot finished: the same command goes on.")


def _print_model(out: Console, model: str, facts: dict[str, Any], lanes: list[Lane]) -> None:
    parameters, size = facts["parameters"], " x ".join(map(str, facts["height_width_frames"]))
    peak = max(lane["full_peak_bytes"] or 0 for lane in lanes)
    count = f"{parameters / 1e9:.1f} billion" if parameters >= 1e8 else f"{parameters:,}"
    said = f"{facts['class']}, {count} parameters; {size} (height, width, frames); {facts['guidance']}"
    out.print()
    out.print(_named(model, f": {said}" + (f"; full computation peaks at {in_bytes(peak)}" if peak else "")))
    out.print(listed("policy", known(COLUMNS, lanes), lanes, lambda lane: str(lane["policy"])))
    for lane in lanes:
        waits = lane.get("waits") or {"holds": True}
        for warning in [*lane["warnings"], *([] if waits["holds"] else [f"waits: {waits['said']}"]), *([lane["shortened"]] if lane.get("shortened") else [])]:
            out.print(Text(f"  {lane['policy']}: {warning}", style="yellow"))


def _named(name: str, said: str | tuple[str, str]) -> Text:
    return Text.assemble((name, "bold"), said)
