"""All lanes on all models, one model in memory at a time."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.published import Published
from foreseer.bench.fields import DTYPES, check_dtype, whole
from foreseer.bench.gpu.device_work import CudaCounter
from foreseer.bench.gpu.lanes import LANES, Lane, lane_of
from foreseer.bench.gpu.laws import STEPS, laws
from foreseer.bench.gpu.loop import Loop
from foreseer.bench.gpu.measure import lane_figures
from foreseer.bench.gpu.memory import Needs, copy_bandwidth, free_bytes
from foreseer.bench.gpu.record import Record
from foreseer.bench.gpu.shapes import calls_of, random_model, shapes_of, timesteps
from foreseer.errors import OptionError

__all__ = ["Settings", "time_all"]

Tell = Callable[[str], object]


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
            raise OptionError(f"full_steps={self.full_steps} is out of range; write a whole number from 1 to steps={self.steps}")
        if self.history_device not in (None, "cpu"):
            raise OptionError(f"history_device={self.history_device!r} is unknown; write 'cpu', or leave it out to keep features on the device")
        kind = self.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise OptionError(f"device={self.device!r} is unknown; write 'cuda', 'cuda:1' or 'cpu'")
        if self.scale == "mid" and kind != "cpu":
            raise OptionError(f"device={self.device!r}: scale='mid' tells time inside of blocks by the host's clock; write --device cpu")
        if kind == "cuda" and not torch.cuda.is_available():
            raise OptionError(f"device={self.device!r}: torch finds no CUDA device; write --device cpu --scale tiny to try the script out")


def time_all(settings: Settings, models: Sequence[str], policies: Sequence[str], out: Path, *, restart: bool = False, tell: Tell = lambda what: None) -> Record:
    """Time policies on models, and write the results after each. What was timed before is not timed again.

    Args:
        settings: What decides the numbers.
        models: Their names; empty for all of the scale.
        policies: Lanes, or installed policies with their options; empty for all lanes, and at scale ``"mid"``
            for the two laws alone.
        out: The JSON file.
        restart: Throw away what is there.
        tell: Told what is under way.

    Raises:
        OptionError, PluginError: A name or a setting is wrong, or ``out`` holds other results; nothing has
            been timed.
    """
    shapes = shapes_of(tuple(models), settings.scale)
    names = list(dict.fromkeys(policies or (() if settings.scale == "mid" else LANES)))
    lanes = {shape.name: {name: lane_of(name, shape.name) for name in names} for shape in shapes}
    order = [(shape.name, name) for shape in shapes for name in names]
    record = Record(out, attrs.asdict(settings), settings.device, order, restart=restart)
    device = torch.device(settings.device)
    if not record.content["bandwidth"]:
        tell("bandwidth")
        record.content["bandwidth"] = _bandwidth(settings, device)
    for shape in shapes:
        todo: dict[str, Lane] = {}
        for name, lane in lanes[shape.name].items():
            if lane is None:
                record.add(_skipped(shape, name, "nothing was published of this policy on this model"))
            elif not record.has(shape.name, name):
                todo[name] = lane
        if todo:
            _time_model(settings, shape, todo, record, device, tell)
    if settings.scale == "mid" and record.content["laws"] is None:
        steps = attrs.evolve(settings, steps=STEPS, full_steps=1)
        record.content["laws"] = laws(_loop(steps, shapes[0], device, DTYPES[settings.dtype]), repeats=settings.repeats, tell=tell)
    record.content["finished"] = True
    record.write()
    return record


def _time_model(settings: Settings, shape: Published, lanes: dict[str, Lane], record: Record, device: torch.device, tell: Tell) -> None:
    dtype = DTYPES[settings.dtype]
    tell(f"{shape.name}: shapes")
    needs = Needs(shape, steps=settings.steps, dtype=dtype)
    runnable: dict[str, Lane] = {}
    _let_go(device)  # the model before this one
    free = free_bytes(device)
    for name, lane in lanes.items():
        shortage = needs.of(lane.spec).shortage(free, history_elsewhere=settings.history_device not in (None, device.type))
        if shortage:
            record.add(_skipped(shape, name, shortage, lane))
        else:
            runnable[name] = lane
    if not runnable:
        return
    tell(f"{shape.name}: random weights")
    loop = _loop(settings, shape, device, dtype)
    record.content["models"][shape.name] = _facts(shape, loop.transformer)
    for name, lane in runnable.items():
        shortage = ""
        try:
            figures = lane_figures(
                loop,
                lane,
                device=device,
                history_device=settings.history_device,
                bandwidth=record.content["bandwidth"]["bytes_per_second"],
                repeats=settings.repeats,
                full_steps=settings.full_steps,
                tell=functools.partial(_tell_of, tell, f"{shape.name}, {name}"),
                counter=CudaCounter(device) if device.type == "cuda" else None,
            )
        except torch.cuda.OutOfMemoryError as error:
            shortage = f"memory ran out, against the estimate: {str(error).splitlines()[0]}"
        if shortage:
            _let_go(device)  # not before: the exception holds what was allocated
            record.add(_skipped(shape, name, shortage, lane))
        else:
            record.add({**_head(shape, name, lane), "skipped": "", **figures})


def _tell_of(tell: Tell, lane: str, what: str) -> None:
    tell(f"{lane}: {what}")


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _loop(settings: Settings, shape: Published, device: torch.device, dtype: torch.dtype) -> Loop:
    model = random_model(shape, device=device, dtype=dtype)
    if settings.compiled:
        for _, block in find_blocks(model):
            block.compile()
    return Loop(model, calls_of(shape, device=device, dtype=dtype), timesteps(shape, settings.steps, device=device, dtype=dtype))


def _bandwidth(settings: Settings, device: torch.device) -> dict[str, Any]:
    elsewhere = settings.history_device not in (None, device.type)
    size = 2**24 if settings.scale == "tiny" else 2**30 if device.type == "cuda" else 2**28
    speed = copy_bandwidth(device, to=torch.device("cpu") if elsewhere else None, size=size)
    what = f"a copy of {size >> 20} MiB from pinned memory to {device}" if elsewhere else f"a copy of {size >> 20} MiB on {device}, read and written"
    return {"bytes_per_second": speed, "what": what}


def _facts(shape: Published, model: nn.Module) -> dict[str, Any]:
    return {
        "class": shape.cls,
        "checkpoint": shape.checkpoint or "a smaller one of its kind",
        "height_width_frames": list(shape.size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows_per_call": shape.rows_per_sample,
        "calls_per_step": shape.calls_per_step,
        "guidance": _guidance(shape),
    }


def _guidance(shape: Published) -> str:
    if shape.calls_per_step > 1:
        return f"{shape.calls_per_step} calls a step, each with a history of its own; published policies decide in the first"
    return f"one call of {shape.rows_per_sample} rows a sample" if shape.rows_per_sample > 1 else "one call (guidance is distilled)"


def _head(shape: Published, name: str, lane: Lane | None) -> dict[str, Any]:
    spec = "" if lane is None else str(lane.spec)
    return {"model": shape.name, "policy": name, "spec": spec, "streams_option": lane.streams if lane else "", "forced_rate_from": lane.source if lane else ""}


def _skipped(shape: Published, name: str, why: str, lane: Lane | None = None) -> dict[str, Any]:
    return {**_head(shape, name, lane), "skipped": why}
