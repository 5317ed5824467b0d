"""In the terminal: the weighted sum alone, peers, other ways to run a model, and the suite's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from foreseer.columns import Column, known, listed

__all__ = ["print_parts"]

Line = dict[str, Any]


def _ms(key: str) -> Callable[[Line], str]:
    def written(line: Line) -> str:
        seconds = line.get(key)
        return "" if seconds is None else f"{1e3 * seconds:.3g}"

    return written


def _share(key: str) -> Callable[[Line], str]:
    return lambda line: "" if line.get(key) is None else f"{line[key]:.1%}"


def _number(title: str, note: str, key: str, form: str) -> Column[Line]:
    return Column(title, note, lambda line: line.get(key), form)


KERNEL: tuple[Column[Line], ...] = (
    _number("us", "Microseconds of one sum.", "microseconds", ".1f"),
    _number("floor us", "What its bytes take at the bandwidth of a big copy.", "floor_microseconds", ".1f"),
    _number("over floor", "The first over the second.", "over_floor", ".2f"),
    _number("over a copy", "Over a copy that moves as many bytes: what a launch of this size takes.", "over_copy", ".2f"),
    Column("fastest", "Where other sizes of the kernel's programs were tried: the fastest, and its microseconds.", lambda line: line.get("fastest")),
)
PEERS: tuple[Column[Line], ...] = (
    Column("computed", "Steps in which at least half of the blocks ran.", lambda line: f"{line['steps_computed']}/{line['steps']}"),
    _number("speed-up", "Over full computation beside it.", "speedup", ".2f"),
    Column("full ms", "Milliseconds of a step of the bare model.", _ms("seconds_per_full_step")),
    Column("comp. ms", "Of a computed step.", _ms("seconds_per_computed_step")),
    Column("cached ms", "Of a step that is not computed.", _ms("seconds_per_cached_step")),
)
WAYS: tuple[Column[Line], ...] = (
    _number("speed-up", "Over full computation in the same way.", "speedup", ".2f"),
    Column("kept", "Speed-up over what block-rows promise.", _share("of_promised")),
    Column("forec. ms", "Milliseconds of a forecast step.", _ms("seconds_per_forecast_step")),
    _number("apart", "Relative distance of what it made from what the same policy made on the plain model.", "apart", ".1e"),
)


def print_parts(out: Console, content: dict[str, Any]) -> Iterator[Column[Line]]:
    """Print what is there of each part, and yield the columns that were shown."""
    yield from _kernel(out, content.get("kernel", []))
    for model in dict.fromkeys(entry["model"] for entry in content.get("peers", [])):
        own = [entry for entry in content["peers"] if entry["model"] == model]
        yield from _table(out, f"{model}: caches of others", "peer", PEERS, own, "peer")
    for way in content.get("ways", []):
        yield from _way(out, way)
    for check in content.get("checks", []):
        out.print(_named("\nTests on this device: ", check["skipped"] or check["summary"], bad=bool(check["skipped"] or check["exit_status"])))
        for line in check.get("failed", ()):
            out.print(f"  {line}")


def _kernel(out: Console, entries: Sequence[Line]) -> Iterator[Column[Line]]:
    lines = []
    for entry in entries:
        line = dict(entry)
        if not entry["skipped"]:
            line |= {"microseconds": 1e6 * entry["seconds"], "floor_microseconds": 1e6 * entry["floor_seconds"]}
            said, seconds = min(entry["tried"].items(), key=lambda pair: pair[1])
            line["fastest"] = f"{said}: {1e6 * seconds:.1f}" if len(entry["tried"]) > 1 else None
        lines.append(line)
    yield from _table(out, "The weighted sum alone", "feature", KERNEL, lines, "feature")


def _way(out: Console, way: Line) -> Iterator[Column[Line]]:
    title = f"{way['model']}, {way['way']} ({way['said']})"
    if way["skipped"]:
        out.print(_named(f"\n{title}: ", f"skipped: {way['skipped']}", bad=True))
        return
    bare, before = 1e3 * way["seconds_per_full_step"], 1e3 * way["seconds_per_full_step_of_the_plain_model"]
    first, apart = way["seconds_of_the_change_and_the_first_call"], way["apart"]
    said = f"{title}: a bare step {bare:.3g} ms, {before:.3g} ms plain; first call {first:.1f} s"
    said += "" if apart is None else f"; bare output {apart:.1e} apart"
    lines = [{**lane, "skipped": lane["refused"]} for lane in way["lanes"]]
    yield from _table(out, said, "policy", WAYS, lines, "policy")


def _table(out: Console, title: str, heading: str, columns: Sequence[Column[Line]], entries: Sequence[Line], name: str) -> Iterator[Column[Line]]:
    done = [entry for entry in entries if not entry["skipped"]]
    if entries:
        out.print(Text(f"\n{title}", style="bold"))
    if done:
        shown = known(columns, done)
        out.print(listed(heading, shown, done, lambda entry: str(entry[name])))
        yield from shown
    for entry in entries:
        if entry["skipped"]:
            out.print(_named(f"  {entry[name]}: ", entry["skipped"], bad=True))
        for warning in entry.get("warnings", ()):
            out.print(Text(f"  {entry[name]}: {warning}", style="yellow"))


def _named(name: str, said: str, *, bad: bool = False) -> Text:
    return Text.assemble((name, "bold"), (said, "yellow" if bad else ""))
