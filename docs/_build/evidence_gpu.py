"""The sections on one GPU, of `evidence.py`, from what `make gpu` wrote: every docs/results/gpu_*.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import table

Entry = dict[str, Any]
LARGE = 50_000_000
"""Bytes from which on a sum takes much longer than a launch."""


def gpu_sections(results: Path) -> Iterator[str]:
    """A section for each file; nothing where there is none."""
    for path in sorted(results.glob("gpu_*.json")):
        yield from _section(path.stem, json.loads(path.read_text(encoding="utf-8")))


def _section(name: str, content: Entry) -> Iterator[str]:
    settings, machine, commit = content["settings"], content["machine"], content["git"].get("commit", "unknown")[:10]
    device = machine.get("GPU") or machine["processor"]
    yield f"## {device} {{ #{name} }}"
    yield (
        f"torch {content['versions']['torch']}, {settings['dtype']}, {settings['scale']} shapes with random weights; up to {settings['steps']} steps a "
        f"run, fewer where time was short. Gates are forced to published rates. A big copy moves {content['bandwidth']['bytes_per_second'] / 1e9:.0f} GB/s. "
        f"`make gpu`, commit {commit}. [How it is measured](../results/README.md#on-gpus)."
        if content["bandwidth"]
        else f"Nothing was measured yet. `make gpu`, commit {commit}."
    )
    for part in (_lanes, _kernel, _peers, _ways, _checks, _missing):
        yield from part(content)


def _ms(seconds: float | None, digits: int = 2) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.{digits}f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _done(content: Entry, part: str) -> list[Entry]:
    return [entry for entry in content.get(part, []) if not entry["skipped"]]


def _lanes(content: Entry) -> Iterator[str]:
    lanes = _done(content, "lanes")
    if not lanes:
        return
    rows = []
    for lane in lanes:
        work, waits = (lane.get("device_work") or {}).get("forecast"), lane.get("waits")
        cells = [lane["model"], f"`{lane['policy']}`", f"{lane['steps_computed']} of {lane['steps']}", _times(lane["speedup"]), _share(lane["of_promised"])]
        cells += [_ms(lane["seconds_per_full_step"], 1), _ms(lane["seconds_per_forecast_step"]), _times(lane["forecast_over_floor"])]
        cells += ["" if lane["peak_bytes"] is None else f"{lane['peak_bytes'] / 1e9:.1f}", "" if work is None else f"{work['kernels']:.0f}"]
        rows.append([*cells, "" if waits is None else _waits(waits)])
    titles = (
        "model | policy | computed | speed-up: | of what block-rows promise: | full step, ms: | forecast step, ms: | over its bandwidth floor: | peak, GB: "
    )
    yield "### Policies"
    yield table(f"{titles}| kernels of a forecast step: | waits in a step, most", rows)
    held = [lane["waits"]["holds"] for lane in lanes if lane.get("waits") and lane["waits"]["holds"] is not None]
    if held:
        said = "holds in every counted step of every lane" if all(held) else f"holds in {sum(map(bool, held))} of {len(held)} lanes"
        yield f"The design says: no wait in a forecast or computed step, one in a judged step, one in a computed step of `agreement`. It {said}."
    yield from _broken(lanes)


def _broken(lanes: list[Entry]) -> Iterator[str]:
    broken = [lane for lane in lanes if lane.get("waits") and lane["waits"]["holds"] is False]
    if broken:
        yield "\n".join(f"- {lane['model']}, `{lane['policy']}`: {lane['waits']['said']}." for lane in broken)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _waits(waits: Entry) -> str:
    if waits["holds"] is None:
        return str(waits["said"])
    return ", ".join(f"{kind} {most['waits']} (allowed {most['allowed']})" for kind, most in waits["most"].items())


def _kernel(content: Entry) -> Iterator[str]:
    entries = _done(content, "kernel")
    if not entries:
        return
    yield "### The weighted sum alone"
    rows = []
    for entry in entries:
        fastest, seconds = min(entry["tried"].items(), key=lambda pair: pair[1])
        tried = f"{fastest}: {1e6 * seconds:.1f}" if len(entry["tried"]) > 1 else ""
        cells = [
            entry["feature"],
            f"{entry['bytes_moved'] / 1e6:.1f}",
            f"{1e6 * entry['seconds']:.1f}",
            _times(entry["over_floor"]),
            _times(entry["over_copy"]),
        ]
        rows.append([*cells, tried])
    yield table("feature | MB moved: | one sum, us: | over its bandwidth floor: | over a copy of as many bytes: | fastest programs tried, us", rows)
    large = [entry["over_floor"] for entry in entries if entry["bytes_moved"] >= LARGE]
    said = f"Where a sum moves {LARGE / 1e6:.0f} MB or more, it takes at most {max(large):.2f} times its floor; wanted were 1.3. " if large else ""
    worst = max(entry["over_copy"] for entry in entries)
    yield f"{said}At most it takes {worst:.2f} times a copy that moves as many bytes, which needs a launch too: that is what bounds small features."


def _peers(content: Entry) -> Iterator[str]:
    entries = _done(content, "peers")
    if not entries:
        return
    yield "### Other libraries' caches, in the same loop"
    rows = []
    for entry in entries:
        cells = [entry["model"], f"`{entry['peer']}`", f"{entry['steps_computed']} of {entry['steps']}", _times(entry["speedup"])]
        rows.append([*cells, *(_ms(entry[key]) for key in ("seconds_per_full_step", "seconds_per_computed_step", "seconds_per_cached_step"))])
    yield table("model | cache | computed | speed-up: | full step, ms: | computed step, ms: | cached step, ms:", rows)


def _ways(content: Entry) -> Iterator[str]:
    entries = _done(content, "ways")
    if not entries:
        return
    yield "### Compiled, in CUDA graphs, with features or weights on the host"
    rows = []
    for entry in entries:
        full, plain = entry["seconds_per_full_step"], entry["seconds_per_full_step_of_the_plain_model"]
        rows.append(
            [
                entry["model"],
                entry["way"],
                "bare",
                "",
                "",
                f"{_ms(full)}, {_ms(plain)} plain",
                f"{entry['apart']:.1e}" if entry["apart"] is not None else "",
                "",
            ]
        )
        for lane in entry["lanes"]:
            if lane["refused"]:
                rows.append([entry["model"], entry["way"], f"`{lane['policy']}`", "", "", "", "", f"refused: {lane['refused']}"])
                continue
            apart = "" if lane["apart"] is None else f"{lane['apart']:.1e}"
            cells = [_times(lane["speedup"]), _share(lane["of_promised"]), _ms(lane["seconds_per_forecast_step"]), apart, "; ".join(lane["warnings"])]
            rows.append([entry["model"], entry["way"], f"`{lane['policy']}`", *cells])
    yield table("model | way | policy | speed-up: | of what block-rows promise: | forecast step, ms (bare: a step): | apart from the plain model: | said", rows)


def _checks(content: Entry) -> Iterator[str]:
    for entry in _done(content, "checks"):
        yield f"The suite's tests on this device (`{entry['selection']}`): {entry['summary']}."
        if entry["failed"]:
            yield "\n".join(f"- `{line}`" for line in entry["failed"])


def _missing(content: Entry) -> Iterator[str]:
    lines = [f"- {_name(part, entry)}: {entry['skipped']}" for part in ("lanes", "kernel", "peers", "ways", "checks") for entry in content.get(part, [])
             if entry["skipped"]]  # fmt: skip
    lines += [f"- {said}" for said in content.get("unfinished", [])]
    if lines:
        yield "Not measured:"
        yield "\n".join(lines)


def _name(part: str, entry: Entry) -> str:
    said = [entry[key] for key in ("model", "policy", "feature", "peer", "way") if key in entry]
    return ", ".join(said) if said else part
