"""Timings in the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.text import Text

from foreseer.bench.clock import UNMEASURABLE, possible
from foreseer.bench.gpu.laws import BLOCKS_AT_MOST, PARTS_AT_MOST
from foreseer.columns import Column, known, listed
from foreseer.console import console, table
from foreseer.storage import in_bytes

__all__ = ["COLUMNS", "print_timings"]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _gb(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f}"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e8 else f"{number:,}"


Lane = dict[str, Any]


COLUMNS: tuple[Column[Lane], ...] = (
    Column("computed", "Steps computed.", lambda lane: f"{lane['steps_computed']}/{lane['steps']}"),
    Column("s/run", "Seconds of a run, median.", lambda lane: f"{lane['seconds_per_run']:.3g}"),
    Column("speed-up", "Over full computation beside it, median and range over the runs.", lambda lane: _speedup(lane)),
    Column("promised", "Speed-up that the saved block-rows promise.", lambda lane: f"{lane['speedup_promised']:.2f}x"),
    Column("kept", "Speed-up over what was promised.", lambda lane: _kept(lane)),
    Column("full ms", "Milliseconds of a step of the bare model.", lambda lane: _ms(lane["seconds_per_full_step"])),
    Column("comp. ms", "Milliseconds of a computed step under the policy; what is recorded is copied in it.", lambda lane: _ms(_computed(lane))),
    Column("forec. ms", "Milliseconds of a forecast step, the verification in it where there is one.", lambda lane: _ms(lane["seconds_per_forecast_step"])),
    Column("floor ms", "What its weighted sums would take at the bandwidth of a big copy.", lambda lane: _ms(lane["forecast_floor_seconds"])),
    Column("GB moved", "Bytes that its weighted sums read and write.", lambda lane: _gb(lane["forecast_bytes_read"] + lane["forecast_bytes_written"])),
    Column("kernels", "Kernels that a forecast step starts.", lambda lane: _work(lane, "kernels")),
    Column("waits", "Times that the host waits for the device in a forecast step.", lambda lane: _work(lane, "waits")),
    Column("peak GB", "Most that was allocated, the weights in it.", lambda lane: _gb(lane["peak_bytes"])),
    Column("held GB", "What the recorded features occupy.", lambda lane: _gb(lane["history_bytes"])),
)


def _speedup(lane: dict[str, Any]) -> str:
    low, high = min(lane["speedups"]), max(lane["speedups"])
    if math.isnan(possible(lane["speedup"], lane["block_rows_ratio"])):
        return UNMEASURABLE
    return f"{lane['speedup']:.2f}x" + (f" ({low:.2f}-{high:.2f})" if len(lane["speedups"]) > 1 else "")


def _kept(lane: dict[str, Any]) -> str:
    return "" if _speedup(lane) == UNMEASURABLE else f"{lane['of_promised']:.1%}"


def _computed(lane: dict[str, Any]) -> float | None:
    planned, rejected = lane["seconds_per_computed_step"], lane["seconds_per_rejected_step"]
    found: float | None = planned if planned is not None else rejected
    return found


def _work(lane: dict[str, Any], what: str) -> str:
    work = (lane["device_work"] or {}).get("forecast")
    return "" if work is None else f"{work[what]:.0f}"


def print_timings(content: dict[str, Any]) -> None:
    """Print what is known: a table for each model, what was left out and why, the laws, and what all of it is
    not.
    """
    out = console()
    settings, speed = content["settings"], content["bandwidth"]
    device = content["machine"].get("GPU") or content["machine"]["processor"]
    runs = f"{settings['repeats']} run{'s' * (settings['repeats'] != 1)} of each"
    out.print(f"{device}; {settings['dtype']}, {settings['steps']} steps, {runs}{', blocks compiled' * settings['compiled']}")
    if speed:
        out.print(f"bandwidth {in_bytes(speed['bytes_per_second'])}/s: {speed['what']}")
    for model, facts in content["models"].items():
        timed = [lane for lane in content["lanes"] if lane["model"] == model and not lane["skipped"]]
        if timed:
            _print_model(out, model, facts, timed)
    for lane in content["lanes"]:
        if lane["skipped"]:
            out.print(Text.assemble((f"{lane['model']}, {lane['policy']}: ", "bold"), (f"skipped: {lane['skipped']}", "yellow")))
    forced = [lane for lane in content["lanes"] if lane["forced_rate_from"] and not lane["skipped"]]
    if forced:
        out.print("\nForced decisions, and where their rates are from")
    for lane in forced:
        out.print(f"  {lane['model']}, {lane['policy']}: {lane['steps_computed']} of {lane['steps']} steps computed; {lane['forced_rate_from']}")
    if content["laws"]:
        _print_laws(out, content["laws"])
    out.print()
    for column in COLUMNS if any(not lane["skipped"] for lane in content["lanes"]) else ():
        out.print(Text.assemble((column.title, "bold"), f": {column.note}"), style="dim")
    out.print(f"\n{content['note']}")
    if not content["finished"]:
        out.print("\nNot finished: the same command goes on.")


def _print_model(out: Console, model: str, facts: dict[str, Any], lanes: list[dict[str, Any]]) -> None:
    size = " x ".join(str(n) for n in facts["height_width_frames"])
    peak = max((lane["full_peak_bytes"] or 0 for lane in lanes), default=0)
    words = [f"{facts['class']}, {_count(facts['parameters'])} parameters", f"{size} (height, width, frames)", facts["guidance"]]
    out.print(Text.assemble("\n", (model, "bold"), ": ", "; ".join(words), f"; full computation peaks at {in_bytes(peak)}" if peak else ""))
    out.print(listed("policy", known(COLUMNS, lanes), lanes, lambda lane: str(lane["policy"])))
    for lane in lanes:
        for warning in lane["warnings"]:
            out.print(Text(f"  {lane['policy']}: {warning}", style="yellow"))


def _print_laws(out: Console, laws: dict[str, Any]) -> None:
    full = laws["full"]
    out.print(f"\nA full step takes {full['seconds']:.3g} s, of it outside of blocks {full['outside_of_blocks']:.3%}. Medians; shares of a full step:")
    made = table("policy", "step", "steps", "all of it", "outside of blocks", "added by the policy")
    for line in laws["steps"]:
        shares = (f"{line[key]:.3%}" for key in ("of_full_step", "outside_of_blocks", "added_by_the_policy"))
        made.add_row(line["policy"], line["kind"], str(line["steps"]), *shares)
    out.print(made)
    blocks = max(line["added_by_the_policy"] for line in laws["steps"] if line["policy"] != "modules")
    parts = next(line["of_full_step"] for line in laws["steps"] if (line["policy"], line["kind"]) == ("modules", "forecast"))
    out.print(f"Blocks: at most {blocks:.3%} is added, wanted {BLOCKS_AT_MOST:.1%}.")
    out.print(f"Parts: a forecast step is {parts:.2%} of a full one, wanted {PARTS_AT_MOST:.0%}.")
