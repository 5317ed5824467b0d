"""What `foreseer bench gpu` does on CUDA alone, on stand-ins: graphs that are replayed, and waits that are counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from foreseer.adapters.blocks import find_blocks
from foreseer.bench.gpu import making
from foreseer.bench.gpu.budget import Budget
from foreseer.bench.gpu.counted import COUNTED_STEPS, CudaCounter, Work, device_work, waits_allowed, waits_held
from foreseer.bench.gpu.graphs import MOST, Graphed
from foreseer.bench.gpu.kept import DeviceLostError, Kept
from foreseer.bench.gpu.lanes import Lane, lane_of
from foreseer.bench.gpu.loop import Loop
from foreseer.bench.gpu.shapes import calls_of, random_model, shapes_of, timesteps
from foreseer.registry import parse_policy

CPU, DIT = torch.device("cpu"), "dit-xl-2-256"


def loop_of(model: str, steps: int) -> Loop:
    (shape,) = shapes_of((model,), "tiny")
    inputs = calls_of(shape, device=CPU, dtype=torch.float32)
    return Loop(random_model(shape, device=CPU, dtype=torch.float32), inputs, timesteps(shape, steps, device=CPU, dtype=torch.float32))


def captured(run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
    """Capture as a CUDA graph does: a replay does the operations again, without Python, into the same memory."""
    with torch.no_grad():
        output = run()
        operations = make_fx(lambda: tree_leaves(run()))()

    def replay() -> None:
        for into, value in zip(tree_leaves(output), operations(), strict=True):
            into.copy_(value)

    return output, replay


def steps(loop: Loop) -> torch.Tensor:
    """What eight steps returned."""
    outputs: list[torch.Tensor] = []
    loop(lambda: outputs.append(loop.latest.clone()) if loop.latest is not None else None)
    return torch.stack(outputs[-8:])


@pytest.mark.parametrize("model", [DIT, "flux-dev"])
@pytest.mark.parametrize("policy", ["taylorseer-5-last", "taylorseer-5-residual", "cg_taylor", "agreement"])
def test_policies_forecast_blocks_that_are_replayed_as_any_others(model: str, policy: str) -> None:
    """Law: bit for bit, though a block's output is overwritten by its next call."""
    loop, lane = loop_of(model, 8), lane_of(policy, model, 8)
    assert lane is not None
    with loop.attach(lane) as attached:
        plain = steps(loop)
        assert 0 < len(attached.report.full_steps) < 8
    for _, block in find_blocks(loop.transformer):
        block.forward = Graphed(block.forward, captured)
    loop(lambda: None, 2)
    with loop.attach(lane):
        assert torch.equal(steps(loop), plain)


@pytest.mark.parametrize("model", [DIT, "flux-dev"])
def test_where_python_does_not_run_what_lies_outside_is_forecast_and_told(model: str) -> None:
    """Law: parts of replayed blocks give way to the last block, blocks of a replayed model to its output."""
    loop, parts, last = loop_of(model, 8), lane_of("taylorseer-5", model, 8), lane_of("taylorseer-5-last", model, 8)
    assert parts is not None
    assert last is not None
    with loop.attach(last):
        plain = steps(loop)
    for _, block in find_blocks(loop.transformer):
        block.forward = Graphed(block.forward, captured)
    loop(lambda: None, 2)
    with loop.attach(parts) as attached:
        assert torch.equal(steps(loop), plain)
        assert "the last block's output is forecast instead" in " ".join(attached.report.warnings)
    whole = loop_of(model, 8)
    whole.transformer.forward = Graphed(whole.transformer.forward, captured)
    whole(lambda: None, 2)
    with whole.attach(last) as attached:
        steps(whole)
        assert "its output is forecast instead: none of its blocks was called" in " ".join(attached.report.warnings)


def test_each_kind_of_call_is_captured_once_and_few_kinds_are() -> None:
    """Law: by shapes, dtypes and whatever is no tensor; beyond a few the function runs as it is."""
    captures: list[int] = []

    def counted(run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        captures.append(1)
        return captured(run)

    double = Graphed(lambda x, *, by=2: (x * by, {"x": x}), counted)
    for rows in range(1, MOST + 3):
        for value in (1.0, 3.0):
            product, given = double(torch.full((rows,), value), by=5)
            assert torch.equal(product, torch.full((rows,), 5 * value))
            assert torch.equal(given["x"], torch.full((rows,), value))
    assert len(captures) == MOST


def work_of(waits: Callable[[int], int]) -> Any:
    class Counter:
        """Counts the marks, as if each step asked for one kernel more than the one before."""

        def __init__(self) -> None:
            self.marks = 0

        def mark(self) -> None:
            self.marks += 1

        def work(self) -> list[Work]:
            made, self.marks = [Work(step, 0, waits(step)) for step in range(self.marks - 1)], 0
            return made

    return Counter()


def test_what_steps_ask_of_the_device_is_told_by_kind() -> None:
    """Law: each kind of step has the median of what its own steps asked; the self-check's step is in none."""
    lane = Lane("even", parse_policy("taylorseer:interval=3,warmup_steps=2,max_order=1"))
    found = device_work(loop_of("flux-dev", COUNTED_STEPS), lane, work_of(lambda step: 0))
    assert found["device_work"] == {"computed": {"kernels": 2.5, "copies": 0, "waits": 0}, "forecast": {"kernels": 5.5, "copies": 0, "waits": 0}}
    assert found["waits"]["holds"]
    found = device_work(loop_of("flux-dev", COUNTED_STEPS), lane, work_of(lambda step: int(step == 3)))
    assert not found["waits"]["holds"]
    assert found["waits"]["said"] == "1 of 10 steps waited more often than the design says: step 3 (forecast) waited 1 times, where the design says 0"


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        ("taylorseer-5", {"computed": 0, "forecast": 0}),
        ("agreement", {"computed": 1, "forecast": 0}),
        ("cg_taylor", {"computed": 0, "forecast": 1, "rejected": 1}),
        ("speca", {"computed": 0, "forecast": 1, "rejected": 1}),
    ],
)
def test_the_design_allows_a_wait_for_a_verdict_and_one_for_inner_products(policy: str, allowed: dict[str, int]) -> None:
    """Law: one in a judged step, one in a computed step of who asks for inner products, none in any other."""
    loop, lane = loop_of("flux-dev", 50), lane_of(policy, "flux-dev")
    assert lane is not None
    with loop.attach(lane) as attached:
        loop(lambda: None, 25)
        reports = list(attached.reports.values())
    held = waits_held(reports, lane, [9] * 25)
    assert {kind: most["allowed"] for kind, most in held["most"].items()} == {kind: allowed[kind] for kind in held["most"]}
    assert held["most"].keys() >= {"computed", "forecast"}
    least = [waits_allowed((outcome,), (policy == "agreement",)) for outcome in reports[0].outcomes]
    assert waits_held(reports, lane, least)["holds"]


def test_a_profiler_that_is_not_allowed_loses_the_counts_alone() -> None:
    class Forbidden:
        def mark(self) -> None:
            raise RuntimeError("CUPTI is not allowed")

        def work(self) -> list[Work]:
            return []

    found = device_work(loop_of(DIT, COUNTED_STEPS), Lane("even", parse_policy("taylorseer:interval=3,warmup_steps=2")), Forbidden())
    assert found["device_work"] is None
    assert found["waits"]["said"] == "not counted: RuntimeError: CUPTI is not allowed"


def test_memory_that_is_left_over_is_a_reason_for_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: only where what is held keeps another model of the shape from fitting."""
    (shape,) = shapes_of((DIT,), "published")
    content = {"models": {DIT: {"parameters": 10**9}}}
    cuda = SimpleNamespace(device="cuda", torch_dtype=torch.bfloat16)
    own = making.Making(cuda, Kept(content, tmp_path / "a.json", 0.0, Budget(), lambda what: None, torch.device("cuda")))
    monkeypatch.setattr(making, "let_go", lambda device: None)
    for held, free, raises in ((2**20, 10**9, False), (2**34, 4 * 10**9, False), (2**34, 2 * 10**9, True)):
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device, held=held: held)
        monkeypatch.setattr(making, "free_bytes", lambda device, free=free: free)
        with pytest.raises(DeviceLostError, match="are still held by what was tried before") if raises else nullcontext():
            own.refuse_leftovers(shape)


def test_kernels_copies_and_waits_are_counted_between_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of the profiler's events those of the device, copies told apart; of the warnings those of a wait. With a profiler
    that does not start nothing stays open.
    """
    names = ["ampere_gemm", "Memcpy HtoD", "Memset (Device)", "elementwise"]
    events = [SimpleNamespace(name=name, device_type=DeviceType.CUDA) for name in names] + [SimpleNamespace(name="aten::add", device_type=DeviceType.CPU)]
    state = {"starts": True, "open": 0}

    class Profile:
        def __init__(self, activities: Any) -> None:
            pass

        def start(self) -> None:
            if not state["starts"]:
                raise RuntimeError("CUPTI is not allowed")
            state["open"] += 1

        def stop(self) -> None:
            state["open"] -= 1

        def events(self) -> list[Any]:
            return events

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    counter = CudaCounter(torch.device("cuda"))
    counter.mark()
    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    warnings.warn("something else", stacklevel=1)
    counter.mark()
    counter.mark()
    assert counter.work() == [Work(2, 2, 1), Work(2, 2, 0)]
    state["starts"] = False
    with pytest.raises(RuntimeError, match="CUPTI"):
        counter.mark()
    assert counter.work() == []
    assert state["open"] == 0
