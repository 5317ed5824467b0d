"""All lanes on all models, one model in memory at a time. The results are written after each lane, and gone
on with.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.published import Published
from foreseer.bench.fields import DTYPES, check_dtype, whole
from foreseer.bench.gpu.lanes import LANES, Lane, lane_of
from foreseer.bench.gpu.loop import Loop
from foreseer.bench.gpu.measure import lane_figures
from foreseer.bench.gpu.memory import copy_bandwidth, free_bytes, needs_of
from foreseer.bench.gpu.shapes import calls_of, random_model, shapes_of, timesteps
from foreseer.bench.machine import circumstances, git_state, machine, versions
from foreseer.document import changes
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable, write_whole

__all__ = ["NOTE", "Settings", "time_all"]

Tell = Callable[[str], object]

NOTE = (
    "Weights and inputs are random. Decisions do not depend on them: schedules are fixed, and gates are forced "
    "to published rates while they compute their evidence. So times, memory and counts are those of the real "
    "models in these shapes, and of quality nothing is said. Text encoders, VAE and the scheduler's own "
    "arithmetic are left out."
)


@attrs.frozen(kw_only=True)
class Settings:
    """What decides the numbers.

    Attributes:
        scale: One of `foreseer.bench.gpu.shapes.SCALES`.
        steps: Of a run.
        repeats: Runs of each lane.
        full_steps: Steps of full computation beside each run.
        device: As torch writes it.
        dtype: Of weights and inputs.
        compiled: Compile each block.
        history_device: Where features are kept; None keeps them on the device.
    """

    scale: str = "published"
    steps: int = attrs.field(default=50, validator=whole(1, 1000))
    repeats: int = attrs.field(default=3, validator=whole(1, 1000))
    full_steps: int = attrs.field(default=10, validator=whole(1, 1000))
    device: str = "cuda"
    dtype: str = attrs.field(default="bfloat16", validator=check_dtype)
    compiled: bool = False
    history_device: Literal["cpu"] | None = None

    def __attrs_post_init__(self) -> None:
        shapes_of((), self.scale)
        if self.full_steps > self.steps:
            advice = f"write a whole number from 1 to steps={self.steps}"
            raise OptionError(f"full_steps={self.full_steps} is out of range; {advice}")
        if self.history_device not in (None, "cpu"):
            advice = "write 'cpu', or leave it out to keep features on the device"
            raise OptionError(f"history_device={self.history_device!r} is unknown; {advice}")
        kind = self.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise OptionError(f"device={self.device!r} is unknown; write 'cuda', 'cuda:1' or 'cpu'")
        if kind == "cuda" and not torch.cuda.is_available():
            advice = "write --device cpu --scale tiny to try the script out"
            raise OptionError(f"device={self.device!r}: torch finds no CUDA device; {advice}")

    @property
    def history_elsewhere(self) -> bool:
        """Whether features are kept on another device than the model."""
        return self.history_device not in (None, torch.device(self.device).type)


def time_all(
    settings: Settings,
    models: Sequence[str],
    policies: Sequence[str],
    out: Path,
    *,
    restart: bool = False,
    tell: Tell = lambda what: None,
) -> dict[str, Any]:
    """Time policies on models, and write the results after each. What was timed before is not timed again.

    Args:
        settings: What decides the numbers.
        models: Their names; empty for all of the scale.
        policies: Lanes, or installed policies with their options; empty for all lanes.
        out: The JSON file; its folder is made if it is missing.
        restart: Throw away what is there.
        tell: Told what is under way.

    Returns:
        What the file holds.

    Raises:
        OptionError, PluginError: A name or a setting is wrong, or ``out`` holds other results; nothing has
            been timed.
    """
    shapes = shapes_of(tuple(models), settings.scale)
    names = list(dict.fromkeys(policies or LANES))
    lanes = {shape.name: {name: lane_of(name, shape.name) for name in names} for shape in shapes}
    content = _begun(settings, out, restart=restart)
    order = [(shape.name, name) for shape in shapes for name in names]

    def keep(shape: Published, name: str, lane: Lane | None, skipped: str = "", **figures: Any) -> None:
        """Add a lane, in the place of what is there of it, and write the file."""
        head = {
            "model": shape.name,
            "policy": name,
            "spec": str(lane.spec) if lane else "",
            "streams_option": lane.streams if lane else "",
            "forced_rate_from": lane.source if lane else "",
            "skipped": skipped,
        }
        found = {(old["model"], old["policy"]): old for old in content["lanes"]}
        found[shape.name, name] = {**head, **figures}
        # what was not asked for this time comes first
        others = [key for key in found if key not in order]
        content["lanes"] = [found[key] for key in [*others, *order] if key in found]
        _write(out, content)

    if not content["bandwidth"]:
        tell("bandwidth")
        device = torch.device(settings.device)
        size = 2**24 if settings.scale == "tiny" else 2**30 if device.type == "cuda" else 2**28
        content["bandwidth"] = copy_bandwidth(device, from_host=settings.history_elsewhere, size=size)
    timed = {(lane["model"], lane["policy"]) for lane in content["lanes"] if not lane["skipped"]}
    for shape in shapes:
        todo: dict[str, Lane] = {}
        for name, lane in lanes[shape.name].items():
            if lane is None:
                keep(shape, name, None, "nothing was published of this policy on this model")
            elif (shape.name, name) not in timed:  # what was skipped is tried again: there may be memory now
                todo[name] = lane
        if todo:
            _time_model(settings, shape, todo, content, keep, tell)
    content["finished"] = True
    _write(out, content)
    return content


def _begun(settings: Settings, out: Path, *, restart: bool) -> dict[str, Any]:
    """Return what there is to go on with, or a file of nothing."""
    refuse_unwritable(out)
    new: dict[str, Any] = {
        "note": NOTE,
        "settings": attrs.asdict(settings),
        "machine": machine(settings.device),
        "versions": versions(),
        "git": git_state(),
        "bandwidth": None,
        "models": {},
        "lanes": [],
        "finished": False,
    }
    if restart or not out.exists():
        return new
    try:
        old: dict[str, Any] = json.loads(out.read_text())
        parts = ("settings", "versions", "machine", "git")
        was, now = (circumstances(*(content[part] for part in parts)) for content in (old, new))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"out={str(out)!r} holds no timings ({type(error).__name__}: {error})"
        raise OptionError(f"{problem}; write another file, or --restart to replace it") from None
    if differing := changes(was, now):
        advice = "Write another file, or --restart to begin anew"
        raise OptionError(f"out={str(out)!r} holds timings of other settings: {differing}. {advice}")
    return old | {"finished": False}


def _write(out: Path, content: Mapping[str, Any]) -> None:
    write_whole(out, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _time_model(
    settings: Settings,
    shape: Published,
    lanes: dict[str, Lane],
    content: dict[str, Any],
    keep: Callable[..., None],
    tell: Tell,
) -> None:
    device, dtype = torch.device(settings.device), DTYPES[settings.dtype]
    tell(f"{shape.name}: shapes")
    specs = {name: lane.spec for name, lane in lanes.items()}
    needs = needs_of(shape, specs, steps=settings.steps, dtype=dtype)
    _let_go(device)  # the model before this one
    free = free_bytes(device)
    for name, need in needs.items():
        if shortage := need.shortage(free, history_elsewhere=settings.history_elsewhere):
            keep(shape, name, lanes.pop(name), shortage)
    if not lanes:
        return
    tell(f"{shape.name}: random weights")
    model = random_model(shape, device=device, dtype=dtype)
    for _, block in find_blocks(model) if settings.compiled else ():
        block.compile()
    times = timesteps(shape, settings.steps, device=device, dtype=dtype)
    loop = Loop(model, calls_of(shape, device=device, dtype=dtype), times, settings.history_device)
    content["models"][shape.name] = _facts(shape, model)
    for name, lane in lanes.items():
        head = f"{shape.name}, {name}: "
        shortage, figures = "", {}
        try:
            figures = lane_figures(
                loop,
                lane,
                bandwidth=content["bandwidth"]["bytes_per_second"],
                repeats=settings.repeats,
                full_steps=settings.full_steps,
                tell=lambda what, head=head: tell(head + what),  # type: ignore[misc]
            )
        except torch.cuda.OutOfMemoryError as error:
            shortage = f"memory ran out, against the estimate: {str(error).splitlines()[0]}"
        if shortage:
            _let_go(device)  # not before: the exception holds what was allocated
        keep(shape, name, lane, shortage, **figures)


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _facts(shape: Published, model: nn.Module) -> dict[str, Any]:
    guidance = "one call (guidance is distilled)"
    if shape.calls_per_step > 1:
        calls = f"{shape.calls_per_step} calls a step, each with a history of its own"
        guidance = f"{calls}; published policies decide in the first"
    elif shape.rows_per_sample > 1:
        guidance = f"one call of {shape.rows_per_sample} rows a sample"
    return {
        "class": shape.cls,
        "checkpoint": shape.checkpoint or "a smaller one of its kind",
        "height_width_frames": list(shape.size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows_per_call": shape.rows_per_sample,
        "calls_per_step": shape.calls_per_step,
        "guidance": guidance,
    }
