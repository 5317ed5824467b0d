"""Two laws of what forecasting may cost, measured on a model that a CPU can run: step by step, with the time
inside of the blocks told apart.

- *Blocks.* Where the last block is forecast, a step's time beyond the blocks that must run is at most 0.1 %
  of a full step.
- *Parts.* Where every module is forecast, a forecast step takes at most 1 % of a full one, and
  ``max_order + 1`` features of each module are held, no more.

Time is that of the processor on one thread, not of the wall: whatever else runs on the machine then counts
little.

    python tests/benchmarks/laws.py docs/results/laws.json
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import intercept
from foreseer.adapters.published import PUBLISHED, Published
from foreseer.bench.clock import keep_freed_memory
from foreseer.bench.gpu.lanes import Lane, forced
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.measure import timed_run
from foreseer.bench.gpu.shapes import calls_of, random_model, timesteps
from foreseer.bench.machine import git_state, machine, threads, versions
from foreseer.registry import PolicySpec, parse_policy

BLOCKS_AT_MOST = 0.001
PARTS_AT_MOST = 0.01
STEPS = 5
BARE_STEPS = 2
REPEATS = 3


def _short_text(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    """FLUX with 64 tokens of text."""
    given = PUBLISHED["flux-dev"].inputs(model, batch, height, width, frames)
    return {**given, "encoder_hidden_states": given["encoder_hidden_states"][:, :64], "txt_ids": given["txt_ids"][:64]}


FLUX = PUBLISHED["flux-dev"]
WIDTHS = {"num_layers": 8, "num_single_layers": 16, "num_attention_heads": 8, "attention_head_dim": 64, "axes_dims_rope": (8, 28, 28)}
MIDDLE = attrs.evolve(FLUX, checkpoint="", config={**FLUX.config, **WIDTHS}, size=(512, 512, 1), inputs=_short_text)
"""A FLUX that a CPU can run: 8 double and 16 single blocks, 512 wide, 1,024 tokens of image and 64 of text."""

LANES = (
    Lane("last block", parse_policy("taylorseer:interval=2,max_order=1,warmup_steps=2,target=last_block")),
    Lane("first block as gate", PolicySpec("forced", forced, {"policy": "cg_taylor:first_order=1,warmup_steps=2", "computed": 3, "of": STEPS})),
    Lane("modules", parse_policy("taylorseer:interval=2,max_order=1,warmup_steps=2")),
)


@attrs.define
class Inside:
    """Seconds inside of blocks."""

    seconds: float = 0.0


class _Split(Clock):
    """A clock that also says how much of each stretch was inside of blocks."""

    def __init__(self, inside: Inside) -> None:
        super().__init__(torch.device("cpu"))
        self._inside, self._at = inside, [0.0]

    def mark(self) -> None:
        """Mark a moment."""
        super().mark()
        self._at.append(self._inside.seconds)

    def inside(self) -> list[float]:
        """Return the seconds inside of blocks between the marks, and forget them."""
        at, self._at = self._at[1:], [0.0]
        return [b - a for a, b in itertools.pairwise(at)]


@contextlib.contextmanager
def watched(model: nn.Module, inside: Inside) -> Iterator[None]:
    """Take the time of what each block does when it runs: within whatever is attached around it."""

    def timed(inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began = time.process_time()
        try:
            return inner(*args, **kwargs)
        finally:
            inside.seconds += time.process_time() - began

    # Not by a hook or a `forward` of the instance, for whose sake a block would be run that can be put
    # together from its parts.
    interceptions = [intercept(block, timed) for _, block in find_blocks(model)]
    try:
        yield
    finally:
        for interception in interceptions:
            interception.restore()


def laws(loop: Loop, *, repeats: int, tell: Callable[[str], object] = lambda what: None) -> dict[str, Any]:
    """Measure both laws; every repeat has full computation and each policy once.

    Args:
        loop: A model on the CPU, for at least `STEPS` steps.
        repeats: How many.
        tell: Told what is under way.

    Returns:
        ``"full"``: medians over the steps of the bare model: seconds, and seconds outside of blocks.
        ``"steps"``: for each policy and kind of step (``"computed"``, ``"forecast"``) the medians of the
        seconds outside of blocks and of all seconds, and both over a full step. ``"modules"``: bytes held.
    """
    inside = Inside()
    full: list[tuple[float, float]] = []
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    held: dict[str, int] = {}
    with threads(1), watched(loop.transformer, inside):
        for repeat in range(repeats):
            tell(f"laws: repeat {repeat + 1} of {repeats}")
            clock = _Split(inside)
            loop(clock.mark, 1)
            clock.seconds(), clock.inside()
            loop(clock.mark, BARE_STEPS)
            full += list(zip(clock.seconds(), clock.inside(), strict=True))
            for lane in LANES:
                clock = _Split(inside)
                run = timed_run(loop, lane, clock)
                report = run.reports["model"]
                held[lane.name] = sum(report.bytes_held.values())
                for outcome, seconds, within in zip(report.outcomes, run.seconds, clock.inside()[-len(run.seconds) :], strict=True):
                    found.setdefault((lane.name, "computed" if outcome.full else "forecast"), []).append((seconds, within))
    step = statistics.median(seconds for seconds, _ in full)
    outside = statistics.median(seconds - within for seconds, within in full)
    return {
        "full": {"seconds": step, "seconds_outside_of_blocks": outside, "outside_of_blocks": outside / step, "steps": len(full)},
        "steps": [_summary(name, kind, measured, step, outside) for (name, kind), measured in found.items()],
        "bytes_held": held,
    }


def _summary(name: str, kind: str, measured: list[tuple[float, float]], step: float, outside: float) -> dict[str, Any]:
    seconds = statistics.median(s for s, _ in measured)
    beyond = statistics.median(s - w for s, w in measured)
    return {
        "policy": name,
        "kind": kind,
        "steps": len(measured),
        "seconds": seconds,
        "of_full_step": seconds / step,
        "seconds_outside_of_blocks": beyond,
        "outside_of_blocks": beyond / step,
        # What the bare model does outside of its blocks (embedders, head) must run too.
        "added_by_the_policy": (beyond - outside) / step,
    }


def main(path: Path) -> None:
    """Measure, write the file that `docs/_build/evidence.py` reads, and print what was wanted."""
    keep_freed_memory()
    cpu, dtype = torch.device("cpu"), torch.float32
    times = timesteps(MIDDLE, STEPS, device=cpu, dtype=dtype)
    loop = Loop(random_model(MIDDLE, device=cpu, dtype=dtype), calls_of(MIDDLE, device=cpu, dtype=dtype), times)
    found = laws(loop, repeats=REPEATS, tell=print)
    content = {"machine": machine("cpu"), "versions": versions(), "git": git_state(), "laws": found}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    blocks = max(line["added_by_the_policy"] for line in found["steps"] if line["policy"] != "modules")
    (parts,) = (line["of_full_step"] for line in found["steps"] if (line["policy"], line["kind"]) == ("modules", "forecast"))
    print(f"Blocks: at most {blocks:.3%} is added, wanted {BLOCKS_AT_MOST:.1%}.")
    print(f"Parts: a forecast step is {parts:.2%} of a full one, wanted {PARTS_AT_MOST:.0%}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
