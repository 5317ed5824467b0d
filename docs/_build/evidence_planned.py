"""The section on planned schedules of `evidence.py`, from the files that `planned_results.py` wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED = {"dit": "--samples 16", "flux": "--samples 16", "wan": "--samples 8 --sensitivity every=1,samples=2"}
RUN = {"dit": "--samples 32", "flux": "--samples 64", "wan": "--samples 4 --batch 4 --kinds planned even 'planned, modules' 'even, modules' 'even to the last step, modules'"}
"""What the commands of planned schedules are given besides."""


def planned_section(results: Path) -> Iterator[str]:
    """Planned schedules beside even ones, from the files that `planned_results.py` wrote."""
    files = sorted(results.glob("planned_*.json"))
    if not files:
        return
    yield "## Planned schedules { #planned }\n"
    yield (
        "[`foreseer plan`](workbench/plan.md) on a few recorded samples, run on others. \"Even\" spreads as many steps from step 0 on, as a fixed interval does. Order 1 "
        "throughout; `modules` forecasts every module's output, the rest the last block's. \"Even to the last step\" spreads the steps so that the last one is computed too, which a "
        "fixed interval leaves to chance. Under a gate more steps may be computed than were planned. A "
        "prediction may be off by a factor: [what is predicted](workbench/plan.md#what-is-predicted).\n"
    )
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        family, recorded, samples = content["family"], content["recorded"]["samples"], content["samples"]
        yield f"**{family}**: planned from {recorded} samples, run on {samples[1] - samples[0] + 1} others (commit {content['facts']['commit']}).\n"
        yield f"```sh\nforeseer record --family {family} {RECORDED[family]} --out {family}.safetensors"
        yield f"python docs/_build/planned_results.py {family}.safetensors --family {family} {RUN[family]} --out docs/results/{file.name}\n```\n"
        lanes = content["lanes"]
        kinds = list(dict.fromkeys(name.rpartition(", ")[0] for name in lanes))
        budgets = list(dict.fromkeys(name.rpartition(", ")[2] for name in lanes))
        yield "| PSNR mean / worst, dB | " + " | ".join(budgets) + " |"
        yield "|---" + "|---:" * len(budgets) + "|"
        for kind in kinds:
            cells = [lanes.get(f"{kind}, {budget}") for budget in budgets]
            shown = [
                ""
                if lane is None
                else cell(lane) + (f" ({lane['steps_computed']:.1f} steps)" if "under" in kind else "")
                for lane in cells
            ]
            yield f"| {kind} | " + " | ".join(shown) + " |"
        yield ""
        fixed, to_the_end = ("even", "even, modules"), ("even to the last step, modules",)
        for kind, others, whom in (
            ("planned", fixed, "the better of the even ones from step 0 on"),
            ("planned, modules", fixed, "the better of the even ones from step 0 on"),
            ("planned, modules", ("even, modules",), "the even ones of modules"),
            ("planned, modules", to_the_end, "even steps to the last one"),
        ):
            gains = [
                (lanes[f"{kind}, {budget}"]["psnr_mean"] - best["psnr_mean"], lanes[f"{kind}, {budget}"]["psnr_worst"] - best["psnr_worst"])
                for budget in budgets
                if f"{kind}, {budget}" in lanes and (best := best_of(lanes, others, budget)) is not None
            ]
            if gains:
                mean, worst = zip(*gains, strict=True)
                yield f"- {kind} over {whom}: {min(mean):+.1f} to {max(mean):+.1f} dB in the mean, {min(worst):+.1f} to {max(worst):+.1f} in the worst sample."
        yield f"- The front, computed steps and PSNR in the mean: {'; '.join(front_of_kinds(lanes))}."
        yield ""


def cell(lane: dict[str, Any]) -> str:
    """Mean and worst PSNR of a lane, and how many samples are broken."""
    broken = f" ({lane['broken']} broken)" if lane.get("broken") else ""
    return f"{lane['psnr_mean']:.1f} / {lane['psnr_worst']:.1f}{broken}"


def front_of_kinds(lanes: dict[str, Any]) -> Iterator[str]:
    """The lanes that no other beats in the mean with as many computed steps or fewer."""
    best = -math.inf
    for name, lane in sorted(lanes.items(), key=lambda item: (item[1]["steps_computed"], -item[1]["psnr_mean"])):
        if lane["psnr_mean"] > best:
            best = lane["psnr_mean"]
            yield f"{name.rpartition(', ')[0]} {lane['steps_computed']:.1f} ({best:.1f} dB)"


def best_of(lanes: dict[str, Any], kinds: tuple[str, ...], budget: str) -> dict[str, Any] | None:
    """The lane of these kinds with the best mean."""
    found = [lanes[name] for kind in kinds if (name := f"{kind}, {budget}") in lanes]
    return max(found, key=lambda lane: lane["psnr_mean"], default=None)
