"""Makes every result anew that the pages of evidence are written from, each where it is committed.

    python docs/_build/make_results.py              what is there of this commit and these settings is gone on with
    python docs/_build/make_results.py --list       says how long each takes, and runs nothing
    python docs/_build/make_results.py rows speca   these alone

Two run at a time, the longest first. Results of another commit or of other settings are thrown away and made anew:
git has the old ones. Stop it when you like, and the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from foreseer.bench.lanes import as_many
from foreseer.bench.results import FILE, Results
from foreseer.bench.solvers import Solver

ROOT = Path(__file__).resolve().parents[2]
SETTINGS, RESULTS = ROOT / "docs" / "benchmarks", ROOT / "docs" / "results"
A_STEP = {"dit": (0.04, 0.0175), "flux": (0.03, 0.0044), "wan": (0.0, 0.0265), "fashion": (0.008, 0.0058)}
"""Processor seconds of a step: of a batch, and of each sample in it; measured on one thread."""
A_THIRD = 1 / 3
"""Of the steps is what a lane computes of which no results are known."""
COSTS = {
    "laws": (5.0, ["tests/benchmarks/laws.py"]),
    "kept": (12.0, ["tests/benchmarks/kept.py"]),
    "in_flight": (12.0, ["tests/benchmarks/in_flight.py", "--out"]),
    "load_dit": (8.0, ["docs/_build/load_test.py", "dit", "--out"]),
    "load_flux": (8.0, ["docs/_build/load_test.py", "flux", "--out"]),
}
"""Minutes of the scripts that measure what forecasting and batching cost, and how they are called."""


@attrs.frozen(kw_only=True)
class Job:
    """What makes one result.

    Attributes:
        name: Of its file in ``docs/results``, without an ending.
        minutes: Of one core, estimated; 0 where that is not known.
        commands: In turn.
    """

    name: str
    minutes: float
    commands: Sequence[Sequence[str]]

    def run(self) -> int:
        """Run the commands until one fails, and return the exit status of the last."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return next((status for command in self.commands if (status := subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)), 0)


def minutes_of(settings: Mapping[str, Any], known: Results | None) -> float:
    """Estimate the minutes of one core that a benchmark takes.

    Args:
        settings: The content of its settings file. Policies and peers need not be installed.
        known: Earlier results, from which is taken how many steps a method computes; otherwise a third.
    """
    total, samples = settings.get("steps", 50), settings.get("samples", 32)
    lanes = [each for key in ("lanes", "peers") for table in settings.get(key, ()) for each in _steps_of(table, total, known)]
    counts = {*settings.get("counts", ()), *map(as_many, lanes)}
    solvers = [None, *map(Solver.read, settings.get("solvers", ()))]
    fewer = [count for solver in solvers for count in counts if solver is None or solver.fits(count)]
    of_batch, of_sample = A_STEP.get(settings["workload"].partition("_")[0], A_STEP["dit"])
    sizes = settings.get("batch", 16)
    seconds = 0.0
    for place, batch in enumerate(sizes if isinstance(sizes, list) else [sizes]):
        batches, a_step = -(-samples // batch), of_batch + of_sample * min(batch, samples)
        steps = batches * (total + sum(lanes) + sum(fewer))
        if settings.get("timed", "pairs") == "pairs":
            steps += settings.get("repeats", 3) * sum(total + count for count in (*lanes, *fewer))
        if "reference" in settings and not place:  # drawn once, with all its steps and with half of them
            steps += batches * 1.5 * settings.get("reference_steps", 400)
        seconds += a_step * steps
    return seconds / 60


def _steps_of(table: Mapping[str, Any], total: int, known: Results | None) -> list[float]:
    """Return how many steps each lane of a table computes."""
    method = str(table.get("policy", table.get("peer", ""))).partition(":")[0]
    solvers = table.get("solver", [""])
    values = [*table.get("grid", {}).values(), solvers if isinstance(solvers, list) else [solvers]]
    of_method = [lane for lane in (known.lanes if known else ()) if lane.method == method and lane.steps]
    share = float(np.mean([np.mean(lane.steps) / lane.num_steps for lane in of_method])) if of_method else A_THIRD
    runs = table.get("steps", [total])
    return [share * count for count in (runs if isinstance(runs, list) else [runs]) for _ in range(math.prod(map(len, values)))]


def jobs() -> list[Job]:
    """Return every job, the longest first: benchmarks, and what forecasting adds to a step."""
    foreseer, found = str(Path(sys.executable).with_name("foreseer")), []
    for path in SETTINGS.glob("*.toml"):
        folder = RESULTS / path.stem
        minutes = minutes_of(tomllib.loads(path.read_text()), Results.load(folder) if (folder / FILE).exists() else None)
        command = [foreseer, "bench", "run", str(path.relative_to(ROOT)), "--out", str(folder.relative_to(ROOT)), "--restart-other"]
        found.append(Job(name=path.stem, minutes=minutes, commands=[command]))
    for name, (minutes, script) in COSTS.items():
        command = [sys.executable, *script, f"docs/results/{name}.json"]
        found.append(Job(name=name, minutes=minutes, commands=[command]))
    return sorted(found, key=lambda job: (-job.minutes, job.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {job.name: job for job in jobs()}
    parser.add_argument("names", nargs="*", choices=[*every, []], metavar="name")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="How many run at a time.")
    given = parser.parse_args()
    chosen = [every[name] for name in given.names or every]
    if given.list:
        for job in chosen:
            print(f"{job.minutes:6.0f} min  {job.name}")
        print(f"{sum(job.minutes for job in chosen):6.0f} min  of one core in all")
        return
    with ThreadPoolExecutor(given.jobs) as pool:
        failed = [job.name for job, status in zip(chosen, pool.map(Job.run, chosen), strict=True) if status]
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
