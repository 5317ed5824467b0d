"""How often promises on the bundled DiT are broken, for docs/promise.md.

    python docs/_build/promise_results.py draw docs/results/promise_dit.json --samples 300
    python docs/_build/promise_results.py count docs/results/promise_dit.json

``draw`` measures the settings below on many samples and keeps the PSNR of each; it goes on where it was
stopped. ``count`` takes those samples as the population: it repeats search, tests and choice on samples taken
from it at random, each independently of the others, so that the true share of every setting is known.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.lanes import Sampler
from foreseer.bench.machine import machine, versions
from foreseer.bench.per_sample import Figures
from foreseer.bench.workload import load_workload
from foreseer.document import plain
from foreseer.files import write_whole
from foreseer.registry import parse_policy
from foreseer.workbench.gauge import Gauge
from foreseer.workbench.promise import Claim, in_order, run_tests

SETTINGS = [f"taylorseer:target=last_block,interval={interval},max_order={order}" for interval in (2, 3, 4) for order in (1, 2)]
STEPS, GUIDANCE, BATCH, SEED = 12, 1.0, 20, 0
CHOSEN_ON = 16
"""Samples that choose what is tested, in each repetition."""


def draw(path: Path, samples: int) -> None:
    """Measure the settings on samples that are not in the file yet, and write it after each batch."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"steps": STEPS, "guidance": GUIDANCE, "seed": SEED, "settings": {}}
    sampler = Sampler.of(load_workload("dit", device="cpu", dtype="float32"), seed=SEED, num_steps=STEPS, guidance=GUIDANCE)
    kept = content["settings"]
    for first in range(min((len(row["psnrs"]) for row in kept.values()), default=0), samples, BATCH):
        gauge = Gauge(sampler, first=first, samples=BATCH, batch=BATCH)
        for policy in SETTINGS:
            figures, row = gauge.measure(parse_policy(policy)).figures, kept.setdefault(policy, {"ratio": 0.0, "psnrs": []})
            row["ratio"], row["psnrs"] = round(figures.ratio, 6), row["psnrs"][:first] + [round(value, 3) for value in figures.psnrs]
        content |= {"machine": machine("cpu"), "versions": versions()}
        write_whole(path, json.dumps(plain(content)) + "\n")
        print(f"{first + BATCH} of {samples} samples", flush=True)


@attrs.frozen(kw_only=True)
class Setting(Figures):
    """What chooses: figures of the first samples, with the setting's number."""

    number: int


def once(claim: Claim, psnrs: NDArray[np.float64], ratios: Sequence[float], tested: int, random: np.random.Generator) -> int | None:
    """Search, test and choose on samples taken at random; return the number of the setting that is promised."""
    first, others = (random.integers(0, psnrs.shape[1], count) for count in (CHOSEN_ON, tested))
    found = [Setting(number=n, psnrs=row[first].tolist(), ratios=[ratio] * CHOSEN_ON) for n, (row, ratio) in enumerate(zip(psnrs, ratios, strict=True))]
    order = [setting.number for setting in in_order(claim, found, samples=tested)]

    def figures_of(name: str) -> Iterator[Figures]:
        yield Figures(psnrs=psnrs[int(name)][others].tolist(), ratios=[ratios[int(name)]] * tested)

    held = [int(test.policy) for test in run_tests(claim, [str(n) for n in order], samples=tested, draw=figures_of) if test.held]
    return min(held, key=lambda n: ratios[n], default=None)


def count(path: Path, repetitions: int) -> None:
    """Print, for several claims, how many promises were made and how many of them are false."""
    content = json.loads(path.read_text())
    rows = list(content["settings"].values())
    psnrs, ratios = np.array([row["psnrs"] for row in rows]), [row["ratio"] for row in rows]
    print(f"{psnrs.shape[1]} samples, {content['steps']} steps; block-rows {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    print(f"mean PSNR {', '.join(f'{row.mean():.1f}' for row in psnrs)} dB")
    print("| claim, confidence | tested on | true shares, slowest first | promises | false ones |\n|---|---:|---|---:|---:|")
    for share, confidence in ((0.8, 0.9), (0.9, 0.9), (0.9, 0.95)):
        for row in psnrs:  # the hardest claims: a setting misses it by one sample of all
            level = float(np.nextafter(np.sort(row)[round((1.0 - share) * len(row))], np.inf))
            claim, random = Claim(level, share, confidence), np.random.default_rng(16)
            truth = (psnrs >= claim.psnr).mean(1)
            tested = 2 * claim.fewest
            chosen = [once(claim, psnrs, ratios, tested, random) for _ in range(repetitions)]
            made = [number for number in chosen if number is not None]
            false = sum(truth[number] < share for number in made)
            shares = ", ".join(f"{100 * value:.1f}%" for value in truth[np.argsort(ratios)[::-1]])
            print(
                f"| psnr>={claim.psnr:.2f} for {100 * share:g}%, {confidence:g} | {tested} | {shares} | {len(made)} of {repetitions} "
                f"| {100 * false / repetitions:.1f}% |",
                flush=True,
            )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "count"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--samples", type=int, default=300, help="for draw: how many, in all")
    parser.add_argument("--repetitions", type=int, default=1000, help="for count")
    given = parser.parse_args()
    if given.what == "draw":
        draw(given.path, given.samples)
    else:
        count(given.path, given.repetitions)


if __name__ == "__main__":
    main()
