"""All parts in this process, one model in memory at a time. The results are written after each piece of work,
and gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from foreseer.adapters.published import Published
from foreseer.bench.gpu.beside import time_peers
from foreseer.bench.gpu.budget import Budget
from foreseer.bench.gpu.checks import run_checks
from foreseer.bench.gpu.kept import NAMES, DeviceLostError, Kept, let_go
from foreseer.bench.gpu.kernel import time_kernel
from foreseer.bench.gpu.lanes import FORCED, LANES, Lane, lane_of
from foreseer.bench.gpu.loop import Loop
from foreseer.bench.gpu.making import PACE, Length, Making
from foreseer.bench.gpu.measure import lane_figures
from foreseer.bench.gpu.memory import copy_bandwidth, free_bytes, needs_of
from foreseer.bench.gpu.settings import NOTE, Settings
from foreseer.bench.gpu.shapes import shapes_of
from foreseer.bench.gpu.ways import time_ways
from foreseer.errors import OptionError, PluginError, in_one_line

__all__ = ["PARTS", "check_names", "time_all"]

PARTS = tuple(NAMES)
"""``kernel``: the weighted sum alone. ``lanes``: policies on models. ``peers``: other libraries' caches on them.
``ways``: compiled, in CUDA graphs, with features or weights on the host. ``checks``: the suite's tests.
"""
MISSING = "first_block_cache is of foreseer-methods, which is not installed: pip install plugins_example/foreseer-methods"


def check_names(settings: Settings, parts: Sequence[str], models: Sequence[str], policies: Sequence[str]) -> None:
    """Refuse names that are not there. Raises `OptionError` or `PluginError`."""
    for part in parts:
        if part not in PARTS:
            raise OptionError(f"parts={part!r} is unknown; write one of {', '.join(PARTS)}")
    for shape in shapes_of(tuple(models), settings.scale):
        for name in policies:
            _lane(name, shape.name, settings.steps)


def time_all(
    settings: Settings,
    models: Sequence[str],
    policies: Sequence[str],
    out: Path,
    *,
    parts: Sequence[str] = ("lanes",),
    restart: bool = False,
    budget: Budget | None = None,
    since: float | None = None,
    tell: Callable[[str], object] = lambda what: None,
) -> dict[str, Any]:
    """Measure parts, and write the results after each piece of work. What was measured before is not again.

    Args:
        settings: What decides the numbers.
        models: Their names; empty for all of the scale.
        policies: Lanes, or installed policies with their options; empty for all lanes.
        out: The JSON file; its folder is made if it is missing.
        parts: Of `PARTS`; in their order, and those of a model for one model after the other.
        restart: Throw away what is there.
        budget: Seconds; None for no limit. What is not going to fit is skipped, and says so.
        since: What was skipped since then, in seconds since 1970, is not tried again; None for now.
        tell: Told what is under way.

    Returns:
        What the file holds.

    Raises:
        OptionError, PluginError: A name or a setting is wrong, or ``out`` holds other results; nothing has
            been timed.
        DeviceLostError: The device answers nothing any more in this process.
    """
    check_names(settings, parts, models, policies)
    shapes = shapes_of(tuple(models), settings.scale)
    kept = Kept.open(out, settings=attrs.asdict(settings), note=NOTE, restart=restart, since=since, budget=budget, tell=tell)
    making, names = Making(settings, kept), list(dict.fromkeys(policies or LANES))
    if since is None:
        kept.content["unfinished"] = []
    if not kept.content["bandwidth"] and kept.budget.left > 0:
        tell("bandwidth")
        kept.content["bandwidth"] = copy_bandwidth(making.device, from_host=False, size=bandwidth_size(settings))
    todo: dict[str, Callable[[], None]] = {"kernel": partial(time_kernel, making)} if "kernel" in parts else {}
    for shape in shapes:
        own = {"lanes": partial(_time_lanes, making, shape, names), "peers": partial(time_peers, making, shape), "ways": partial(time_ways, making, shape)}
        todo |= {f"{shape.name}, {part}": does for part, does in own.items() if part in parts}
    todo |= {"checks": partial(run_checks, kept)} if "checks" in parts else {}
    for name, does in todo.items():
        try:
            does()
        except DeviceLostError:
            raise
        except Exception as error:  # a model that cannot be built, for example; the next one may be
            kept.content["unfinished"].append(f"{name}: {in_one_line(error)}")
    kept.finish()
    return kept.content


def bandwidth_size(settings: Settings) -> int:
    """Return the bytes of a copy that is big on a device."""
    return 2**24 if settings.scale == "tiny" else 2**30 if settings.device.startswith("cuda") else 2**28


def _lane(name: str, model: str, steps: int) -> Lane | str:
    """A lane, or why there is none."""
    try:
        lane = lane_of(name, model, steps)
    except PluginError as error:
        if name not in FORCED:
            raise
        return MISSING if name == "first_block_cache" else in_one_line(error)
    return "nothing was published of this policy on this model" if lane is None else lane


def _time_lanes(making: Making, shape: Published, names: Sequence[str]) -> None:
    kept, settings = making.kept, making.settings
    lanes = {name: _lane(name, shape.name, settings.steps) for name in names}
    todo = {name: lane for name, lane in lanes.items() if isinstance(lane, Lane) and _open(kept, shape, name)}
    short = _shortages(making, shape, todo) if todo else {}
    model = making.model(shape) if short.keys() < todo.keys() else None
    for name, there in lanes.items():
        if isinstance(there, str):
            if not kept.settled("lanes", shape.name, name):
                kept.keep("lanes", shape.name, name, skipped=there, for_good=True)
        elif name in short:
            kept.keep("lanes", shape.name, name, skipped=short[name], **_head(there))
        elif name in todo and model is not None:
            length = making.length(shape, there.share)
            lane = lane_of(name, shape.name, length.steps) or there
            measure = partial(_figures, making, lane, making.loop(model, shape, length.steps), length, f"{shape.name}, {name}: ")
            kept.attempt("lanes", shape.name, name, work=length.work, usual=PACE, measure=measure, **_head(lane), shortened=length.said)


def _open(kept: Kept, shape: Published, name: str) -> bool:
    """Whether a lane is still to be timed; what was not installed may be now."""
    entry = kept.entry("lanes", shape.name, name)
    return not kept.settled("lanes", shape.name, name) or (entry is not None and entry["skipped"] == MISSING)


def _shortages(making: Making, shape: Published, todo: Mapping[str, Lane]) -> dict[str, str]:
    """Why lanes cannot be timed: there is no time for any, or no memory for some."""
    kept, settings = making.kept, making.settings
    building, full = making.seconds(shape)
    if shortage := kept.budget.shortage(building + 15 * full):
        return dict.fromkeys(todo, shortage)
    kept.tell(f"{shape.name}: shapes")
    needs = needs_of(shape, {name: lane.spec for name, lane in todo.items()}, steps=settings.steps, dtype=settings.torch_dtype)
    let_go(making.device)  # the model before this one
    free = free_bytes(making.device)
    return {name: shortage for name, need in needs.items() if (shortage := need.shortage(free))}


def _figures(making: Making, lane: Lane, loop: Loop, length: Length, head: str) -> dict[str, Any]:
    kept = making.kept
    return lane_figures(
        loop,
        lane,
        bandwidth=kept.content["bandwidth"]["bytes_per_second"],
        repeats=length.repeats,
        full_steps=length.full_steps,
        tell=lambda what: kept.tell(head + what),
    )


def _head(lane: Lane) -> dict[str, Any]:
    return {"spec": str(lane.spec), "streams_option": lane.streams, "forced_rate_from": lane.source}
