"""The sections on what forecasting costs, of `evidence.py`, from files of `foreseer bench gpu`,
`tests/benchmarks/laws.py` and `tests/benchmarks/kept.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import table


FLOOR = ("copies", "sums", "modulation", "outside")
"""What a floor is made of, in `tests/benchmarks/kept.py`."""


def read(results: Path, name: str) -> dict[str, Any]:
    """A file's content; empty where there is none."""
    file = results / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content


def cost_section(results: Path) -> Iterator[str]:
    """What forecasting adds to a step, from the file of `tests/benchmarks/laws.py`."""
    content = read(results, "laws")
    if not content:
        return
    laws = content["laws"]
    yield "## What forecasting adds to a step { #cost }"
    yield (
        "A FLUX of 8 double and 16 single blocks, 512 wide, with 1,024 tokens of image and 64 of text, on "
        "one thread of a CPU, in processor time. The bare model itself spends "
        f"{100 * laws['full']['outside_of_blocks']:.2f} % of a step outside of its blocks."
    )
    yield "```sh\npython tests/benchmarks/laws.py docs/results/laws.json\n```"
    shares = ("of_full_step", "added_by_the_policy")
    rows = []
    for step in laws["steps"]:
        held = f"{laws['bytes_held'][step['policy']]:,}"
        rows.append([step["policy"], step["kind"], *(f"{100 * step[share]:.2f} %" for share in shares), held])
    yield table("policy | step | of a full step: | added outside of the blocks: | bytes held:", rows)
    blocks = max(step["added_by_the_policy"] for step in laws["steps"] if step["policy"] != "modules")
    modules = next(step for step in laws["steps"] if (step["policy"], step["kind"]) == ("modules", "forecast"))
    yield (
        f"Policies of blocks add at most {100 * blocks:.2f} % of a full step; wanted is 0.1 %. A step in "
        f"which every module is forecast costs {100 * modules['of_full_step']:.2f} %; wanted is less than 1 %. "
        f"(commit {content['git']['commit'][:10]})"
    )


def kept_section(results: Path) -> Iterator[str]:
    """What is kept of the promised speed-up, from the file of `tests/benchmarks/kept.py`."""
    content = read(results, "kept")
    if not content:
        return
    yield "## What is kept of what block-rows promise { #kept }"
    yield (
        "The bundled DiT, 50 steps, on one thread, in processor time; each run stands between two stretches of "
        "the bare model. The floor is worked out from the same shapes in the same process: what would be kept if "
        "a computed step had nothing to do but the copies of what is recorded, and a forecast step nothing but "
        "its weighted sums, the gates that stay live where modules are forecast (made as the model makes them), and what "
        "the model does outside of its blocks."
    )
    yield "```sh\npython tests/benchmarks/kept.py docs/results/kept.json\n```"
    rows = []
    for line in content["kept"]:
        floor = line["floor"]
        parts = [f"{1e3 * floor[f'{part}_seconds']:.2f}" for part in FLOOR] if floor else [""] * len(FLOOR)
        kept = [f"{line['kept']:.3f}", f"{line['wanted']:.2f}", f"{floor['kept']:.3f}" if floor else ""]
        rows.append([f"`{line['policy']}`", line["samples"], f"{line['block_rows']:.3f}", f"{1e3 * line['bare_step_seconds']:.0f}", *parts, *kept])
    titles = "policy | samples: | block-rows: | bare step, ms: | copies, ms: | sums, ms: | gates, ms: | outside of blocks, ms: | kept:"
    yield table(f"{titles} | wanted: | floor:", rows)
    made = content["evaluations"]
    yield (
        f"One evaluation on a host that does nothing, with two observers, in microseconds: "
        f"{', '.join(f'`{each}` {1e6 * seconds:.0f}' for each, seconds in made['seconds'].items())}. Wanted are 25 "
        f"for schedules and 60 for gates. A gate's metric alone, with the comparison, takes "
        f"{', '.join(f'{1e6 * seconds:.0f} ({each})' for each, seconds in made['metric_seconds'].items())}. "
        f"(commit {content['git']['commit'][:10]})"
    )


def gpu_section(results: Path) -> Iterator[str]:
    """Times on a GPU, and before the weighted sum was one kernel."""
    first, second, old = (read(results, name) for name in ("h200", "h200_hunyuan", "h200_before"))
    if not first:
        return
    before = {(lane["model"], lane["policy"]): lane for lane in old.get("lanes", [])}
    yield "## On a GPU { #gpu }"
    settings, machine, versions = (first[key] for key in ("settings", "machine", "versions"))
    yield (
        f"One {machine['GPU']}, torch {versions['torch']}, {settings['dtype']}, {settings['steps']} steps. "
        "Published shapes with random weights; gates compute their evidence, and their verdicts are forced "
        "to published rates. A forecast step of module parts starts hundreds of kernels from Python, which "
        "takes the host longer than the device: there the gain ends. [How it is "
        "measured](../results/README.md); what was not finished is not listed."
    )
    rows = []
    for lane in (lane for lane in [*first["lanes"], *second.get("lanes", [])] if not lane["skipped"]):
        work, was = lane["device_work"]["forecast"], before.get((lane["model"], lane["policy"]))
        full, forecast = 1e3 * lane["seconds_per_full_step"], 1e3 * lane["seconds_per_forecast_step"]
        cells = [lane["model"], f"`{lane['policy']}`", lane["steps_computed"], f"{lane['speedup']:.2f}x"]
        cells += [f"{100 * lane['of_promised']:.0f} %", f"{full:.1f}", f"{forecast:.2f}"]
        cells += [f"{lane['forecast_over_floor']:.1f}x", f"{work['kernels']:.0f}, {work['waits']:.0f}"]
        rows.append([*cells, f"{1e3 * was['seconds_per_forecast_step']:.2f}" if was else ""])
    titles = "model | policy | computed: | speed-up: | of what block-rows promise: | full step, ms: | forecast"
    titles += " step, ms: | over its bandwidth floor: | kernels, waits of a forecast step: | forecast step"
    yield table(f"{titles} before, ms:", rows)
    yield (
        "Before, a weighted sum was a loop of multiply-adds in float32, and small tables were copied from "
        "pageable memory, which waits for the device. On flux-dev's features the loop took 10 to 12 times "
        "what its bytes need in bfloat16, and the one kernel 1.0 to 1.9 times where the features are larger "
        "than the launch takes."
    )
