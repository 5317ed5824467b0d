"""Which policy first, by the number of steps: the tables of `docs/pick.md`, on the bundled pipelines.

    python docs/_build/pick.py flux wan --traces pick

Schedules are planned from samples of seed 1 that are recorded into the folder, those of 50 steps taken from
`docs/benchmarks/plans` (seed 0); everything is measured on samples of seed 2. Nothing is timed. The same command
goes on with the recordings that are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import foreseer
from foreseer.bench.workload import load_workload
from foreseer.psnr import likeness_of, psnr
from foreseer.schedule_plan import SchedulePlan
from foreseer.workbench import record
from foreseer.workbench.planner import plan

PLANS = Path(__file__).resolve().parents[1] / "benchmarks" / "plans"
CELLS = {50: (14, 4), 28: (11, 3), 12: (6, 3), 8: (5, 2), 4: (3, 2)}
"""Steps of the run -> computed steps, and the interval that computes as many after a warm-up of 3."""
DRAWN, RECORDED, MEASURED = {"flux": 16, "wan": 4}, {"flux": 8, "wan": 4}, {"flux": 4, "wan": 2}
"""Samples that are drawn with every policy; that are recorded; and whose sensitivities are measured."""
TO_THE_END = {50: (4, 2), 28: (3, 1), 12: (2, 2), 8: (2, 2), 4: (2, 2)}
"""Steps of the run -> an interval, and the warm-up with which the last step is computed."""
FREE = ("agreement:tolerance=0.4", "agreement:tolerance=0.2", "cg_taylor:threshold=0.06", "cg_taylor:threshold=0.1")
"""Policies that compute as many steps as they find fit."""


def budgeted(count: int, interval: int, schedule: str) -> dict[str, str]:
    """What is written first in a line of the table -> the policy that computes so many steps."""
    plain = f"taylorseer:interval={interval},warmup_steps=3,max_order=1"
    return {
        "`planned`, after a recording": f"planned:schedule={schedule},target=modules",
        "the same, `target=last_block`": f"planned:schedule={schedule},target=last_block",
        "`agreement:steps=N`": f"agreement:steps={count}",
        "`taylorseer:interval=K,warmup_steps=3,max_order=1`": plain,
        "the same, `target=residual`": f"{plain},target=residual",
    }


def columns_of(family: str, traces: Path) -> dict[str, dict[str, str]]:
    """Measure a pipeline. Heading of a column -> what is written first in a line -> PSNR, mean / worst."""
    workload, samples = load_workload(family, device="cpu", dtype="float32"), DRAWN[family]
    streams: dict[str, Any] = {"streams": "follow_first"} if family == "wan" else {}

    def drawn(steps: int) -> torch.Tensor:
        return workload.decode(workload.draw(range(samples), seed=2, num_steps=steps, guidance=workload.guidance))

    found: dict[str, dict[str, str]] = {}
    for steps, (count, interval) in CELLS.items():
        if steps == 50:
            planned = SchedulePlan.load(PLANS / f"{family}.json")
        else:
            kept: dict[str, Any] = {"samples": RECORDED[family], "batch": RECORDED[family], "measured": MEASURED[family]}
            trace = traces / f"{family}{steps}.safetensors"
            planned = plan(record(workload, trace, steps=steps, seed=1, restart="if other", **kept).trace)
        full = drawn(steps)

        def like(images: torch.Tensor, full: torch.Tensor = full) -> str:
            near = likeness_of(psnr(images, full))
            return f"{near.mean:.1f} / {near.worst:.1f}"

        column = found[f"{steps} steps, {count} computed"] = {f"plain sampling with {count} steps": like(drawn(count))}
        schedule = f"{'+'.join(map(str, planned.budget(count).steps))}/{steps}"
        to_the_end = "taylorseer:interval={},warmup_steps={},max_order=1".format(*TO_THE_END[steps])
        others = {"the same, warm-up so that the last step is computed": to_the_end, **{f"`{policy}`": policy for policy in FREE}}
        for name, policy in {**budgeted(count, interval, schedule), **others}.items():
            with foreseer.attach(workload.pipeline, policy, **streams) as attached:
                images = drawn(steps)
            several = [report.steps_computed for report in attached.reports.values()]
            column[name] = like(images) + (f" ({sum(several) / len(several):.1f})" if name in others else "")
            print(f"{family}, {steps} steps: {policy}: {column[name]}", flush=True)
        column = {name.replace(f"with {count} steps", "with as many steps"): text for name, text in column.items()}
        found[f"{steps} steps, {count} computed"] = column
    return found


def main() -> None:
    """Print a table for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=list(DRAWN))
    parser.add_argument("--traces", type=Path, default=Path("pick"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for family in given.families:
        columns = columns_of(family, given.traces)
        print(f"\n| {family} | " + " | ".join(columns) + " |\n|---" + "|---:" * len(columns) + "|")
        for line in next(iter(columns.values())):
            print(f"| {line} | " + " | ".join(column[line] for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
