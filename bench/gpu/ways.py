"""Other ways to run a model, and what policies do on them: compiled, in CUDA graphs, with features or weights in
the memory of the host. What is refused is kept in the words of who refuses.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.published import Published
from foreseer.bench.gpu.graphs import Graphed, captured
from foreseer.bench.gpu.kept import answers, let_go
from foreseer.bench.gpu.lanes import Lane, lane_of
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.making import Making
from foreseer.bench.gpu.measure import lane_figures
from foreseer.bench.gpu.memory import copy_bandwidth
from foreseer.errors import OptionError, in_one_line

__all__ = ["WAYS", "Way", "time_ways"]

STEPS = 20
"""Of a run, at most."""
LOOK = 8
"""Steps in which what a policy makes is compared with what it makes on the plain model."""


@attrs.frozen
class Way:
    """A way to run a model.

    Attributes:
        said: What it is, in words.
        change: Changes a model, on a device.
        models: On which it is tried, in published shapes.
        policies: Which are tried; `STEPS` steps of each.
        setup: Seconds to expect of the change and the first call where they were not measured yet.
        cuda: Why there must be a GPU; empty where there need not.
        history: Where features are kept.
        before_call: Called before each call of the model.
    """

    said: str
    change: Callable[[nn.Module, torch.device], object]
    models: tuple[str, ...]
    policies: tuple[str, ...] = ("taylorseer-5-last", "taylorseer-5-residual", "cg_taylor", "taylorseer-5")
    setup: float = 5.0
    cuda: str = ""
    history: str | None = None
    before_call: Callable[[], object] = lambda: None


def _backend(device: torch.device) -> dict[str, Any]:
    """On the CPU the graphs alone are made, and nothing is compiled: it is there to be tried out."""
    return {} if device.type == "cuda" else {"backend": "eager"}


def _whole(model: nn.Module, device: torch.device) -> None:
    torch.compiler.reset()
    model.compile(**_backend(device))


def _regional(model: nn.Module, device: torch.device) -> None:
    torch.compiler.reset()
    for _, block in find_blocks(model):
        block.compile(**_backend(device))


def _reduced(model: nn.Module, device: torch.device) -> None:
    torch.compiler.reset()
    for _, block in find_blocks(model):
        block.compile(mode="reduce-overhead")


def _graphs(model: nn.Module, device: torch.device) -> None:
    capture = captured(device)
    for _, block in find_blocks(model):
        block.forward = Graphed(block.forward, capture)


def _whole_graph(model: nn.Module, device: torch.device) -> None:
    model.forward = Graphed(model.forward, captured(device))


def _offload(model: nn.Module, device: torch.device) -> None:
    enable: Any = getattr(model, "enable_group_offload", None)
    if enable is None:
        raise OptionError(f"a {type(model).__name__} has no enable_group_offload")
    streams = {"use_stream": True, "non_blocking": True} if device.type == "cuda" else {}
    enable(onload_device=device, offload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1, **streams)


_OUTPUT = "taylorseer:interval=5,max_order=1,warmup_steps=3,target=output"
_GRAPHS = "CUDA graphs need CUDA"
WAYS: dict[str, Way] = {
    "blocks compiled": Way("block.compile(), before attaching", _regional, ("flux-dev", "dit-xl-2-256"), setup=30.0),
    "features on the host": Way(
        "history_device='cpu': pinned memory, copied without waiting",
        lambda model, device: None,
        ("flux-dev", "dit-xl-2-256"),
        ("taylorseer-5-last", "taylorseer-5", "cg_taylor"),
        history="cpu",
    ),
    "blocks in CUDA graphs": Way("each block's forward captured by torch.cuda.graph and replayed", _graphs, ("flux-dev", "dit-xl-2-256"), cuda=_GRAPHS),
    "model in one CUDA graph": Way(
        "the whole bare model captured by torch.cuda.graph, before attaching", _whole_graph, ("dit-xl-2-256",), ("taylorseer-5-last", _OUTPUT), cuda=_GRAPHS
    ),
    "group offload": Way(
        "diffusers' enable_group_offload, block by block (on a GPU with streams), before attaching",
        _offload,
        ("flux-dev", "dit-xl-2-256"),
        ("taylorseer-5-last", "taylorseer-5-residual", "cg_taylor"),
        setup=30.0,
    ),
    "blocks compiled, reduce-overhead": Way(
        "block.compile(mode='reduce-overhead'), cudagraph_mark_step_begin() before each call",
        _reduced,
        ("dit-xl-2-256",),
        setup=60.0,
        cuda=_GRAPHS,
        before_call=torch.compiler.cudagraph_mark_step_begin,
    ),
    "model compiled": Way("model.compile(), before attaching", _whole, ("dit-xl-2-256", "flux-dev"), ("taylorseer-5-last", _OUTPUT, "cg_taylor"), setup=120.0),
}
"""By name, in order of worth."""


def time_ways(making: Making, shape: Published) -> None:
    """Time each way on a freshly built model."""
    kept = making.kept
    for name, way in WAYS.items():
        if shape.name not in way.models or kept.settled("ways", shape.name, name):
            continue
        if way.cuda and making.device.type != "cuda":
            kept.keep("ways", shape.name, name, skipped=way.cuda, for_good=True, said=way.said)
            continue
        (building, full), lanes = making.seconds(shape), len(way.policies)
        length = making.length(shape, 0.24, "ways", longest=STEPS, repeats=1)
        setup = way.setup if making.device.type == "cuda" else 1.0
        work = building + setup + lanes * (length.work + full * LOOK)
        kept.attempt("ways", shape.name, name, work=work, usual=1.0, measure=_Trial(making, shape, way, length.steps).figures, said=way.said)
        making.refuse_leftovers(shape)


@attrs.frozen
class _Trial:
    making: Making
    shape: Published
    way: Way
    steps: int

    def figures(self) -> dict[str, Any]:
        """The bare model's step, then each policy: its figures, or why there are none."""
        making, way = self.making, self.way
        model = making.model(self.shape)
        plain = making.loop(model, self.shape, self.steps)
        lanes = {name: lane for name in way.policies if (lane := lane_of(name, self.shape.name, self.steps)) is not None}
        seen: dict[str, Tensor] = {}
        refused: dict[str, str] = {}
        for name, lane in lanes.items():
            _look(plain, lane, name, seen, refused)
        seen["bare"] = _steps(plain)
        clock = Clock(making.device)
        before = self._full(plain, clock)
        began = time.monotonic()
        way.change(model, making.device)
        loop = making.loop(model, self.shape, self.steps, way.history, way.before_call)
        loop(lambda: None, 1)
        if making.device.type == "cuda":
            torch.cuda.synchronize(making.device)
        first = time.monotonic() - began
        bare = _steps(loop)
        found = {
            "steps": self.steps,
            "seconds_per_full_step_of_the_plain_model": before,
            "seconds_of_the_change_and_the_first_call": first,
            "seconds_per_full_step": self._full(loop, clock),
            "apart": _apart(bare, seen["bare"]),
        }
        bandwidth = self._bandwidth()
        rows, lost = [], ""
        for name, lane in lanes.items():
            making.kept.tell(f"{self.shape.name}, {lane.name}: {way.said}")
            figures = {"refused": lost} if lost else self._lane(loop, lane, name, seen, refused, bandwidth)
            rows.append({"policy": name, "spec": str(lane.spec), **figures})
            let_go(making.device)
            if not lost and not answers(making.device):
                lost = f"not tried: the device answered nothing any more after {name}"
        return {**found, "bandwidth": bandwidth, "lanes": rows}

    def _bandwidth(self) -> dict[str, Any]:
        making = self.making
        if self.way.history is None or making.device.type == self.way.history:
            return dict(making.kept.content["bandwidth"])
        return copy_bandwidth(making.device, from_host=True, size=2**30)

    def _full(self, loop: Loop, clock: Clock) -> float:
        loop(lambda: None, 1)
        clock.seconds()
        loop(clock.mark, min(self.making.settings.full_steps, self.steps))
        return statistics.median(clock.seconds())

    def _lane(self, loop: Loop, lane: Lane, name: str, seen: dict[str, Tensor], plain: dict[str, str], bandwidth: dict[str, Any]) -> dict[str, Any]:
        if name in plain:
            return {"refused": f"refused on the plain model too: {plain[name]}"}
        found: dict[str, Tensor] = {}
        refused: dict[str, str] = {}
        _look(loop, lane, name, found, refused)
        if refused:
            return {"refused": refused[name]}
        try:
            figures = lane_figures(
                loop,
                lane,
                bandwidth=bandwidth["bytes_per_second"],
                repeats=1,
                full_steps=min(self.making.settings.full_steps, self.steps),
                tell=lambda what: None,
                count_work=False,
            )
        except Exception as error:
            return {"refused": in_one_line(error)}
        return {"refused": "", "apart": _apart(found[name], seen[name]), **figures}


def _look(loop: Loop, lane: Lane, name: str, seen: dict[str, Tensor], refused: dict[str, str]) -> None:
    """Keep what a policy makes of the first steps, or why it makes nothing."""
    try:
        with loop.attach(lane):
            seen[name] = _steps(loop)
    except Exception as error:
        refused[name] = in_one_line(error)


def _steps(loop: Loop) -> Tensor:
    """What the first steps returned, one behind the other: computed ones and forecast ones."""
    outputs: list[Tensor] = []

    def look() -> None:
        if loop.latest is not None:
            outputs.append(loop.latest.float().cpu())

    loop.latest = None
    loop(look, LOOK)
    return torch.stack(outputs)


def _apart(found: Tensor, expected: Tensor) -> float:
    """The relative distance of two outputs."""
    return float((found - expected).norm() / expected.norm())
