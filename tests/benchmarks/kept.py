"""What is kept of the speed-up that block-rows promise, on the bundled DiT: on one thread, in processor time,
each run of a policy between two stretches of the bare model, in a process that keeps the memory it frees. And
what the engine takes for an evaluation on a host that does nothing.

Wanted are 0.97 for policies that forecast blocks and 0.90 for those that forecast every module. Beside it
stands what no schedule can beat, from the same shapes in the same process: the copies of what is recorded, the
plain weighted sums of what is forecast, the gates that stay live, what the model does outside of its blocks, and
nothing else.

    python tests/benchmarks/kept.py docs/results/kept.json
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreseer import Evidence, Pass, Run, Session, Site, hookimpl
from foreseer.adapters import attach
from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import intercept
from foreseer.bench.clock import keep_freed_memory, timed
from foreseer.bench.machine import git_state, machine, threads, versions
from foreseer.metrics import METRICS
from foreseer.registry import parse_policy
from foreseer.report import Report
from foreseer.zoo import load_dit
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps

CPU = torch.device("cpu")
STEPS, BARE_STEPS = 50, 8
SAMPLES = (8, 16)
REPEATS = 3


@attrs.frozen
class Lane:
    """A policy to measure.

    Attributes:
        policy: As on the command line.
        anchors: Features of each site in a weighted sum; 0 where sites have different numbers, so that no
            floor is worked out.
        wanted: What should be kept.
    """

    policy: str
    anchors: int = 0
    wanted: float = 0.90


LANES = (
    Lane("taylorseer:target=last_block", 5, 0.97),
    Lane("cg_taylor:threshold=0.06", 0, 0.97),
    Lane("reuse", 1),
    Lane("taylorseer:max_order=1", 2),
    Lane("taylorseer:max_order=4", 5),
    Lane("speca"),
)


def kept(
    lane: Lane, samples: int, *, steps: int = STEPS, bare_steps: int = BARE_STEPS, repeats: int = REPEATS, model: nn.Module | None = None
) -> dict[str, Any]:
    """Measure a policy.

    Args:
        lane: Which.
        samples: With guidance, each is two rows.
        steps: Of a run.
        bare_steps: Steps of the bare model before and after it.
        repeats: How often; the median counts.
        model: The model; None for the bundled one.

    Returns:
        The lane, ``"kept"`` of it over the repeats, ``"floor"`` (None where there is none), and what they are
        worked out from: ``"block_rows"``, the seconds of a bare step, and those of its run.
    """
    model, spec, times = load_dit() if model is None else model, parse_policy(lane.policy), ddim_timesteps(steps)
    noise, labels = torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(samples) % 10
    sampled = functools.partial(ddim_sample, model, noise, labels)
    with attach(model, spec) as attached, attached.run(timesteps=times, groups=samples):
        sampled(times[:4])
        found = attached.findings
    shares, bare, ran = list[float](), list[float](), list[float]()
    with threads(1):
        for _ in range(repeats):
            before = timed(lambda: sampled(times[:bare_steps]), CPU)[1].seconds
            with attach(model, spec, findings=found) as attached, attached.run(timesteps=times, groups=samples):
                seconds = timed(lambda: sampled(times), CPU)[1].seconds
            report, after = attached.report, timed(lambda: sampled(times[:bare_steps]), CPU)[1].seconds
            bare.append((before + after) / (2 * bare_steps))
            ran.append(seconds)
            shares.append(bare[-1] * steps * report.block_rows_ratio / seconds)
        step = statistics.median(bare)
        floor = None if not lane.anchors else _floor(model, noise, labels, report, lane.anchors, step)
    return {
        **attrs.asdict(lane),
        "samples": samples,
        "block_rows": report.block_rows_ratio,
        "bare_step_seconds": step,
        "run_seconds": statistics.median(ran),
        "kept": statistics.median(shares),
        "floor": floor,
    }


def _floor(model: nn.Module, noise: Tensor, labels: Tensor, report: Report, anchors: int, step: float) -> dict[str, float]:
    """Seconds of a computed step's copies, of a forecast step's sums, of each block's live gates (made as the
    model makes them) on what was summed where modules are forecast, and outside of the blocks, in the mean of
    three times behind a step of the bare model, as caches are then; and the share that would be kept if there
    were nothing but these.
    """
    held, rows = report.bytes_held.values(), report.run.rows
    rings = [torch.randn(rows, anchors, size // (4 * rows * anchors)) for size in held]
    weights, features = torch.full((rows, 1, anchors), 1 / anchors), [torch.randn_like(ring[:, 0]) for ring in rings]

    def copies() -> None:
        for ring, feature in zip(rings, features, strict=True):
            ring[:, 0].copy_(feature)

    def sums() -> None:
        for ring in rings:
            ring[:, 0] * weights[:, 0] if anchors == 1 else torch.bmm(weights, ring)

    given, classes = (torch.cat([noise, noise]), torch.full((rows,), 500)), torch.cat([labels, labels])
    blocks: list[Any] = [block for _, block in find_blocks(model)]
    modulated = blocks if len(rings) > 1 else []

    def modulation() -> None:
        parts = iter(drafts)
        for block in modulated:
            norm = block.norm1
            width, embedded = norm.linear.out_features // 6, norm.silu(norm.emb(given[1], classes, hidden_dtype=noise.dtype))
            for piece in (slice(2 * width, 3 * width), slice(5 * width, 6 * width)):
                gate = functional.linear(embedded, norm.linear.weight[piece], norm.linear.bias[piece])
                next(parts).view(rows, -1, width).mul_(gate[:, None]).add_(stream)

    drafts = [torch.randn(rows, ring.shape[2]) for ring in rings]
    stream = torch.randn(rows, rings[0].shape[2] // 160, 160)
    skipped = [False]
    interceptions = [intercept(block, lambda inner, args, kwargs: args[0] if skipped[0] else inner(*args, **kwargs)) for block in blocks]

    def a_step(*, skip: bool) -> None:
        skipped[0] = skip
        model(*given, class_labels=classes)

    def after_a_step(run: Callable[[], None]) -> float:
        a_step(skip=False)
        return statistics.mean(timed(run, CPU)[1].seconds for _ in range(3))

    parts = (copies, sums, modulation, functools.partial(a_step, skip=True))
    with torch.no_grad():
        copied, summed, gated, outside = (statistics.median(after_a_step(run) for _ in range(7)) for run in parts)
    for interception in interceptions:
        interception.restore()
    full = sum(outcome.full for outcome in report.outcomes)
    forecast = len(report.outcomes) - full
    least = full * (step + copied) + forecast * (summed + gated + outside)
    share = step * len(report.outcomes) * report.block_rows_ratio / least
    return {"copies_seconds": copied, "sums_seconds": summed, "modulation_seconds": gated, "outside_seconds": outside, "kept": share}


DEPTH, ROWS, EVALUATIONS = 12, 2, 50
SCHEDULES = ("none", "taylorseer:target=last_block", "taylorseer:target=last_block,max_order=1", "agreement:target=last_block")
GATES = ("cg_taylor", "speca:target=last_block", "speca:target=last_block,metric=cosine")
KINDS = [*(("schedule", policy) for policy in SCHEDULES), *(("gate", policy) for policy in GATES)]


class Null:
    """A host that does nothing, so that what remains is the engine."""

    depth = DEPTH
    sites = tuple(Site(b) for b in range(DEPTH))

    def __init__(self) -> None:
        self._out = torch.ones(ROWS, 4)

    def rows(self, inputs: Any) -> int:
        return ROWS

    def forward(self, inputs: Any, *, rows: Any = None, substitute: Any, probe: Any = None, judge: Any = None, record: Any = ()) -> Pass:
        if probe is not None:
            judge(Evidence(Site(probe.block), self._out, self._out))
        return Pass(self._out, dict.fromkeys(record, self._out), 0)

    def merge(self, output: Any, rows: Any, part: Any) -> Any:
        return output


class Watch:
    """An observer that counts."""

    def __init__(self) -> None:
        self.steps = 0

    @hookimpl
    def on_step(self, step: Any, outcome: Any) -> None:
        self.steps += 1


def built(policy: str) -> Session:
    """A session on it, with two observers, before its first evaluation."""
    run = Run(DEPTH, ROWS, (0, 1), EVALUATIONS, tuple(map(float, range(EVALUATIONS))), None, Null.sites)
    return Session(Null(), parse_policy(policy), run, observers=(Watch(), Watch()))


def fifty(session: Session) -> None:
    """A run's evaluations."""
    for _ in range(EVALUATIONS):
        session.evaluate(None)


def asked(metric: str) -> tuple[Any, Any]:
    """What a gate asks of torch: an error, the comparison, and reading both."""
    found = torch.ones(ROWS, 4)
    error = METRICS[metric](found, found, groups=(0, 1))
    return error.tolist(), torch.lt(error, 0.1).tolist()


def evaluations(rounds: int = 100) -> dict[str, dict[str, float]]:
    """Measure runs of fifty evaluations on a host that does nothing, in turn.

    Returns:
        ``"seconds"``: of one evaluation, by policy, medians. ``"metric_seconds"``: by metric, what a gate asks
        of torch: its error of the same tensors, the comparison, and reading both.
    """
    taken: dict[str, list[float]] = {policy: [] for _, policy in KINDS}
    with threads(1), torch.no_grad():
        for _ in range(rounds):
            for policy, each in taken.items():
                each.append(timed(functools.partial(fifty, built(policy)), CPU)[1].seconds / EVALUATIONS)
        metrics = {name: _median(lambda name=name: [asked(name) for _ in range(200)]) / 200 for name in ("relative_l1", "relative_l2")}
    return {"seconds": {policy: statistics.median(each) for policy, each in taken.items()}, "metric_seconds": metrics}


def _median(run: Callable[[], object], times: int = 15) -> float:
    run()
    return statistics.median(timed(run, CPU)[1].seconds for _ in range(times))


def main(path: Path, samples: Sequence[int] = SAMPLES) -> None:
    """Measure, write the file that `docs/_build/evidence.py` reads, and print it."""
    keep_freed_memory()
    lines = []
    for count in samples:
        for lane in LANES:
            lines.append(kept(lane, count))
            line, floor = lines[-1], lines[-1]["floor"]
            least = f", {floor['kept']:.3f} if there were nothing but copies, sums, gates and what is outside of blocks" if floor else ""
            print(f"{count} samples, {lane.policy}: {line['kept']:.3f} is kept, wanted {lane.wanted:.2f}{least}", flush=True)
    content = {"machine": machine("cpu"), "versions": versions(), "git": git_state(), "kept": lines, "evaluations": evaluations()}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
