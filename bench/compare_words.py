"""What a comparison says in words: what its reader must know, and which policy reaches a target best."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from foreseer.bench.compared import Result
from foreseer.bench.per_sample import Figures
from foreseer.bench.summary import Line
from foreseer.bench.tables import footnotes, print_lanes
from foreseer.bench.target import Target
from foreseer.console import console
from foreseer.psnr import counted_psnr
from foreseer.zoo.judge import FRECHET_NOTE

__all__ = ["aim", "print_table", "remarks", "usual_policies", "verdict"]

HEADROOM_NOTE = (
    "Headroom: 'best static' and 'best per sample, hindsight' are the schedules of the least predicted error, planned "
    "on these very samples for taylor of order 1 at the last block. No policy can know them beforehand. They bound "
    "schedules of that predictor under that error model; not other predictors, and not gates."
)

BUSY = 1.5
"""A speed-up that varies by more than this factor between batches was measured beside other work: on an idle
machine batches differ by a few per cent."""

WARM = 3


def usual_policies(target: Target | None, num_steps: int) -> tuple[str, ...]:
    """Return what is compared where nobody said: what came closest on the bundled models at 10 to 20 of 50
    steps, and the plainest; towards a target of cost at that cost.

    >>> usual_policies(Target("steps_computed", 14), 50)[0]
    'agreement:steps=14'
    """
    if target is None or target.kind not in ("speedup", "steps_computed"):
        return ("agreement:tolerance=0.2", "agreement:tolerance=0.4", _line(3, num_steps), _line(5, num_steps), "reuse:target=residual,interval=3")
    wanted = int(target.value if target.kind == "steps_computed" else num_steps / target.value)
    even = [_line(k, num_steps) for k in _intervals(num_steps, wanted)[:2]]
    if 2 <= wanted < num_steps:
        spread = "+".join(str(round(k * (num_steps - 1) / (wanted - 1))) for k in range(wanted))
        even.insert(0, f"planned:schedule={spread}/{num_steps},target=residual,predictor=(taylor:max_order=1)")
    steps = min(max(wanted, WARM + 2), num_steps)
    agreement = [f"agreement:steps={steps}"] * (num_steps >= WARM + 2)
    return (*agreement, *even, f"reuse:target=residual,interval={-(-num_steps // max(wanted, 1))}")


def _intervals(num_steps: int, most: int) -> list[int]:
    """Return the intervals at which an even schedule that ends with the last step computes so many steps or
    fewer, the shortest first.
    """
    return [k for k in range(1, num_steps) if 1 + (num_steps - 1) % k + (num_steps - 1) // k <= most]


def _line(interval: int, num_steps: int) -> str:
    """An even schedule of which the last step is computed: on two of three bundled models that is worth more
    than a longer warm-up.
    """
    return f"taylorseer:interval={interval},warmup_steps={1 + (num_steps - 1) % interval},max_order=1,target=residual"


def aim(result: Result) -> list[str]:
    """Say what reaches the target best, a policy or plain sampling; nothing where there is no target."""
    target = result.settings.target
    if target is None:
        return []
    found = {row.lane.name: _figures(row) for row in result.rows if row.lane.kind in ("policy", "fewer") and row.cost < 1}
    if target.kind == "front":
        ahead = target.ranked(list(found.values()))
        return [f"Not beaten in cost and PSNR: {', '.join(name for name, own in found.items() if own in ahead)}."] if found else []
    best = target.best(list(found.values()))
    if best is None:
        nearest = target.ranked(list(found.values()))
        near = f"; nearest is {_name(found, nearest[0])}" if nearest else ""
        return [f"Nothing here that saves steps reaches {target}{near}. `foreseer tune` searches for a policy that does."]
    name = _name(found, best)
    plain = f"plain sampling ({name})" if name.startswith("full,") else name
    others = sum(target.reached(own) for own in found.values()) - 1
    more = f"; {others} more reach it" if others else ""
    return [f"For {target}: {plain}, {best.speedup:.2f}x by block-rows, {best.mean:.1f} dB in the mean and {best.worst:.1f} in the worst sample{more}."]


def _name(found: Mapping[str, Figures], wanted: Figures) -> str:
    return next(name for name, own in found.items() if own is wanted)


def _figures(row: Line) -> Figures:
    lane = row.lane
    seconds = [second / len(unit.indices) for unit in lane.units for second in unit.clock_seconds[:1] for _ in unit.indices]
    psnrs = counted_psnr(lane.values("psnr")).tolist()
    return Figures(psnrs=psnrs, ratios=[row.cost] * len(psnrs), steps=lane.steps, seconds=seconds)


def remarks(result: Result) -> list[str]:
    """Return what a reader of the table must know, in sentences."""
    found = []
    done, asked = result.count, result.settings.samples or 0
    if result.interrupted:
        rest, every = (
            f"the results rest on {done} of {asked} samples",
            f"all {asked} samples are in the results",
        )
        found.append(f"The comparison was interrupted: {rest if done < asked else every}.")
    if any(np.isfinite(row.frechet) for row in result.rows):
        found.append(FRECHET_NOTE)
    if any(row.lane.kind == "hindsight" for row in result.rows):
        found.append(HEADROOM_NOTE)
    if result.batches == 1:
        return [*found, "Speed-ups rest on one batch, so nothing is known about their spread."]
    ratios = [row.lane.ratios for row in result.rows if row.lane.ratios]
    spread = max((max(some) / min(some) for some in ratios), default=1.0)
    found.append(f"Speed-ups are medians over {result.batches} batches; the least steady row varied by a factor of {spread:.2f} between batches.")
    if spread > BUSY:
        found.append("The machine was busy with other work: repeat the comparison on an idle one before you quote its speed-ups.")
    return found


def verdict(result: Result) -> str:
    """Say how many policies beat fewer steps."""
    gains = [row.gain for row in result.rows if row.fewer and row.lane.kind == "policy"]
    better, closer = (
        sum(gain > 0 for gain in gains),
        "closer to full computation than plain sampling with as many steps.",
    )
    if not gains:
        return "No policy saved steps."
    if len(gains) == 1:
        return f"The policy that saved steps came {'' if better else 'no '}{closer}"
    return f"{better} of {len(gains)} policies that saved steps came {closer}"


def print_table(result: Result) -> None:
    """Print the table to stdout, what its reader must know, and where the page is."""
    out = console()
    print_lanes(out, result.results, result.batch)
    for sentence in [*footnotes(result.results), *aim(result), verdict(result), *remarks(result)]:
        out.print(sentence)
    for row in result.rows:
        alike: dict[str, list[str]] = {}  # but for their numbers
        for warning in row.warnings:
            alike.setdefault(re.sub(r"[\d.e-]+", "", warning), []).append(warning)
        for first, *others in alike.values():
            more = f" ({len(others)} more like it)" if others else ""
            out.print(f"{row.lane.name}: {first}{more}", style="yellow")
    for lane in result.failed:
        out.print(f"{lane.name} failed: {lane.error}", style="red")
    out.print(f"page: {result.page}", soft_wrap=True)
