"""The section on planned schedules of `evidence.py`, from the files that `planned_results.py` wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import table

RECORDED = {"dit": "--samples 16", "flux": "--samples 16", "wan": "--samples 8 --sensitivity every=1,samples=2"}
RUN = {
    "dit": "--samples 32",
    "flux": "--samples 64",
    "wan": "--samples 4 --batch 4 --kinds planned even 'planned, modules' 'even, modules' 'even to the last step, modules'",
}
"""What the commands of planned schedules are given besides."""
FIXED = ("even", "even, modules")
GAINS = (
    ("planned", FIXED, "the better of the even ones from step 0 on"),
    ("planned, modules", FIXED, "the better of the even ones from step 0 on"),
    ("planned, modules", ("even, modules",), "the even ones of modules"),
    ("planned, modules", ("even to the last step, modules",), "even steps to the last one"),
)
"""What is held against what, and how it is called."""


def planned_section(results: Path) -> Iterator[str]:
    """Planned schedules beside even ones."""
    files = sorted(results.glob("planned_*.json"))
    if not files:
        return
    yield "# Planned schedules"
    yield (
        '[`foreseer plan`](../workbench/plan.md) on a few recorded samples, run on others. "Even" spreads as '
        "many steps from step 0 on, as a fixed interval does. Order 1 throughout; `modules` forecasts every "
        "module's output, the rest the last block's. \"Even to the last step\" spreads the steps so that "
        "the last one is computed too, which a fixed interval leaves to chance. Under a gate more steps may "
        "be computed than were planned. PSNR is to full computation of the model's own sampler; how near both are to the converged solution is "
        "not known. [What that hides](../evidence.md). A prediction may be off by a factor: [what is "
        "predicted](../workbench/plan.md#what-is-predicted)."
    )
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        family, (first, last), commit = content["family"], content["samples"], content["facts"]["commit"]
        planned = f"**{family}**: planned from {content['recorded']['samples']} samples"
        yield f"{planned}, run on {last - first + 1} others (commit {commit})."
        yield "\n".join(["```sh", *commands_of(family), "```"])
        lanes = content["lanes"]
        names = [name.rpartition(", ") for name in lanes]
        kinds, budgets = (list(dict.fromkeys(name[part] for name in names)) for part in (0, 2))
        rows = [[kind, *(cell(lanes.get(f"{kind}, {budget}"), kind) for budget in budgets)] for kind in kinds]
        yield table(" | ".join(["PSNR mean / worst, dB", *(f"{budget}:" for budget in budgets)]), rows)
        gains = (gain(lanes, budgets, *against) for against in GAINS)
        front = f"- The front, computed steps and PSNR in the mean: {'; '.join(front_of_kinds(lanes))}."
        yield "\n".join([*filter(None, gains), front])


def commands_of(family: str) -> list[str]:
    """Return the commands that make a family's file."""
    recorded = f"foreseer record --workload {family} {RECORDED[family]} --restart --out build/{family}.safetensors"
    return [recorded, f"python docs/_build/planned_results.py build/{family}.safetensors --workload {family} {RUN[family]} --out docs/results/planned_{family}.json"]


def cell(lane: dict[str, Any] | None, kind: str) -> str:
    """Mean and worst PSNR of a lane, how many samples are broken, and under a gate the computed steps."""
    if lane is None:
        return ""
    broken = f" ({lane['broken']} broken)" if lane.get("broken") else ""
    steps = f" ({lane['steps_computed']:.1f} steps)" if "under" in kind else ""
    return f"{lane['psnr_mean']:.1f} / {lane['psnr_worst']:.1f}{broken}{steps}"


def gain(lanes: dict[str, Any], budgets: list[str], kind: str, others: tuple[str, ...], whom: str) -> str:
    """What a kind gains over the best of others, budget by budget; empty where they have none in common."""
    gains = []
    for budget in budgets:
        own, *beside = [lanes.get(f"{each}, {budget}") for each in (kind, *others)]
        if own and any(beside):
            best = max(filter(None, beside), key=lambda lane: lane["psnr_mean"])
            gains.append([own[figure] - best[figure] for figure in ("psnr_mean", "psnr_worst")])
    if not gains:
        return ""
    mean, worst = (f"{min(found):+.1f} to {max(found):+.1f}" for found in zip(*gains, strict=True))
    return f"- {kind} over {whom}: {mean} dB in the mean, {worst} in the worst sample."


def front_of_kinds(lanes: dict[str, Any]) -> Iterator[str]:
    """The lanes that no other beats in the mean with as many computed steps or fewer."""
    best = -math.inf
    for name, lane in sorted(lanes.items(), key=lambda item: (item[1]["steps_computed"], -item[1]["psnr_mean"])):
        if lane["psnr_mean"] > best:
            best = lane["psnr_mean"]
            yield f"{name.rpartition(', ')[0]} {lane['steps_computed']:.1f} ({best:.1f} dB)"
