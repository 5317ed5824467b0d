"""Planned schedules against even ones, on samples that were not recorded: `docs/results/planned_*.json`.

    foreseer record --workload dit --samples 16 --out dit.safetensors
    python docs/_build/planned_results.py dit.safetensors --workload dit --out docs/results/planned_dit.json

A lane is measured once and kept in the file; the same command goes on with what is missing. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from foreseer.bench.lanes import Sampler
from foreseer.bench.machine import facts
from foreseer.bench.workload import load_workload
from foreseer.files import write_whole
from foreseer.registry import parse_policy
from foreseer.workbench.gauge import Gauge
from foreseer.workbench.planner import plan, uniform_steps
from foreseer.workbench.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("steps_computed", "block_rows_ratio", "psnr_mean", "psnr_worst", "broken")
"""What is kept of a lane."""
BUDGETS, FIRST, SEED = (8, 10, 14, 18), 100, 0
"""Computed steps, and the samples: those before the first one may be recorded."""
KINDS = ["planned", "even", "planned, modules", "even, modules", "even to the last step, modules"]
KINDS += ["cg_taylor", "speca"]
GATES = {"cg_taylor 0.12": "cg_taylor:threshold=0.12", "speca 0.3": "speca:threshold=0.3,target=last_block"}
ON_MODULES = "speca:threshold=0.3"  # CG-Taylor's gate is of block outputs alone


def lanes_of(trace: Trace, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and policy of each lane, those of the most interest first."""
    found, length = plan(trace), trace.num_steps

    def policy(steps: Sequence[int], *options: str) -> str:
        return ",".join([f"planned:schedule={'+'.join(map(str, steps))}/{length}", *options])

    for number in BUDGETS:
        even, planned = uniform_steps(number, length), found.budget(number).steps
        to_the_end = [round(i * (length - 1) / max(number - 1, 1)) for i in range(number)]
        every = {
            "planned": policy(planned),
            "even": policy(even),
            "planned, modules": policy(planned, "target=modules"),
            "even, modules": policy(even, "target=modules"),
            "even to the last step, modules": policy(to_the_end, "target=modules"),
        }
        every |= {f"planned under {gate}": policy(planned, f"gate=({spec})") for gate, spec in GATES.items()}
        every["planned, modules under speca 0.3"] = policy(planned, "target=modules", f"gate=({ON_MODULES})")
        for kind, spelled in every.items():
            if kind in kinds or any(f"under {gate} " in kind for gate in kinds):
                yield f"{kind}, {number} steps", spelled


def main() -> None:
    """Measure what is missing."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--workload", default="dit")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    trace = Trace.load(given.trace)
    if trace.samples > FIRST:
        parser.error(f"samples from {FIRST} on were recorded; record at most {FIRST}")
    workload = load_workload(given.workload, device="cpu", dtype="float32")
    how = {"seed": SEED, "num_steps": trace.num_steps, "guidance": trace.signature.guidance}
    sampler = Sampler.of(workload, **how)
    gauge = Gauge(sampler, first=FIRST, samples=given.samples, batch=given.batch)
    asked = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    same = known and known["facts"]["commit"].removesuffix("-dirty") == commit.removesuffix("-dirty")
    result: dict[str, Any] = {
        "family": given.workload,
        "recorded": {"samples": trace.samples, "measured": list(trace.measured), "steps": trace.num_steps},
        "samples": [FIRST, FIRST + given.samples - 1],
        **how,
        "guidance": sampler.guidance,
        "facts": {**facts("cpu"), "commit": commit},
        "lanes": known["lanes"] if same else {},
    }
    for name, policy in lanes_of(trace, given.kinds):
        if result["lanes"].get(name, {}).get("policy") != policy:
            found = attrs.asdict(gauge.measure(parse_policy(policy)).measured)
            result["lanes"][name] = {"policy": policy, **{figure: found[figure] for figure in FIGURES}}
            write_whole(given.out, json.dumps(result, indent=1) + "\n")
        lane = result["lanes"][name]
        broken = f", {lane['broken']} broken" if lane.get("broken") else ""
        found = f"{lane['psnr_mean']:6.1f} dB, worst {lane['psnr_worst']:.1f}{broken}"
        print(f"{name:32} {lane['steps_computed']:5.1f} steps {found}", flush=True)


if __name__ == "__main__":
    main()
