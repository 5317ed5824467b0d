"""The whole in a number of seconds: groups of parts in order of worth, each in a process of its own. What ends a
process, a fault of the device or of somebody's compiler, ends one piece of work and not the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from foreseer.bench.gpu.budget import LATE, Budget
from foreseer.bench.gpu.kept import NAMES, Kept
from foreseer.bench.gpu.settings import NOTE, Settings
from foreseer.bench.gpu.shapes import shapes_of
from foreseer.bench.gpu.suite import check_names

__all__ = ["GROUPS", "Group", "run_whole"]

GRACE = 10.0
"""Seconds that a process may take beyond its own budget before it is ended."""
LEAST = 20.0
"""Seconds below which no process is started: it would have only begun."""
AGAIN = 6
"""Processes for one group, at most."""

Launch = Callable[[Sequence[str], float], int | None]


@attrs.frozen
class Group:
    """What one process does.

    Attributes:
        parts: Which parts.
        models: On which models; empty for parts that have none.
        seconds: What it may take of the budget, while later ones want theirs.
    """

    parts: tuple[str, ...]
    models: tuple[str, ...]
    seconds: float


GROUPS = (
    Group(("lanes",), ("flux-dev", "dit-xl-2-256"), 220.0),
    Group(("kernel",), (), 45.0),
    Group(("peers",), ("flux-dev", "dit-xl-2-256"), 110.0),
    Group(("ways",), ("dit-xl-2-256",), 90.0),
    Group(("ways",), ("flux-dev",), 110.0),
    Group(("checks",), (), 60.0),
    Group(("lanes",), ("wan-1.3b",), 120.0),
    Group(("lanes",), ("hunyuan-video",), 150.0),
)
"""In order of worth. Together they may take more than a budget; what then has no time says so, and the next call
begins with it.
"""


def run_whole(
    settings: Settings,
    out: Path,
    *,
    parts: Sequence[str],
    models: Sequence[str],
    policies: Sequence[str],
    budget: float | None,
    restart: bool = False,
    tell: Callable[[str], object] = lambda what: None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Run parts on models, and write the results after each piece of work.

    Args:
        settings: What decides the numbers.
        out: The JSON file.
        parts: Empty for all.
        models: Empty for all of the scale.
        policies: Lanes, empty for all.
        budget: Seconds; None for no limit.
        restart: Throw away what is there.
        tell: Told what is under way.
        launch: Runs this command with arguments within so many seconds, and returns its exit status, None where
            it took longer; None for a process.

    Returns:
        What the file holds.

    Raises:
        OptionError, PluginError: A name or a setting is wrong, or the file holds other results.
    """
    check_names(settings, parts, models, policies)
    clock = Budget(budget)
    kept = Kept.open(out, settings=attrs.asdict(settings), note=NOTE, restart=restart, budget=clock, tell=tell)
    kept.content["unfinished"] = []
    kept.write()
    todo = {" ".join((*group.parts, *group.models, *policies)): group for group in _chosen(settings, parts, models)}
    todo = {name: group for name, group in todo.items() if name not in kept.content["done"]}
    later = sum(group.seconds for group in todo.values())
    for name, group in todo.items():
        later -= group.seconds
        most = max(group.seconds, clock.left - later)  # what later ones do not want is free
        said = len(kept.content["unfinished"])
        left = _run_group(kept, attrs.evolve(group, seconds=most), settings, policies, launch or _process)
        kept.content["unfinished"] += left
        if len(kept.content["unfinished"]) == said and not kept.retried(group.parts, group.models):
            kept.content["done"].append(name)
        kept.write()
    kept.finish()
    return kept.content


def _chosen(settings: Settings, parts: Sequence[str], models: Sequence[str]) -> Iterator[Group]:
    """The groups, less what was not asked for."""
    there = [shape.name for shape in shapes_of(tuple(models), settings.scale)]
    for group in GROUPS:
        on = tuple(model for model in group.models if model in there)
        own = tuple(part for part in group.parts if (part in parts if parts else on or not models) and (on or "model" not in NAMES[part]))
        if own:
            yield attrs.evolve(group, parts=own, models=on)
    # what was asked for by name and is in no group
    grouped = {(part, model) for group in GROUPS for part in group.parts for model in group.models}
    for model in there if models else ():
        if others := tuple(part for part in parts if "model" in NAMES[part] and (part, model) not in grouped):
            yield Group(others, (model,), 150.0)


def _run_group(kept: Kept, group: Group, settings: Settings, policies: Sequence[str], launch: Launch) -> list[str]:
    """Run a group, in another process after one that was ended. Returns in words what could not be."""
    name, clock = " ".join((*group.models, *group.parts)), kept.budget
    for _ in range(AGAIN):
        if clock.left < LEAST:
            return [f"{name}: {LATE}{clock.left:.0f} s of {clock.seconds:.0f} s left; the same command goes on"]
        seconds = clock.left if clock.seconds is None else min(group.seconds, clock.left - GRACE / 2)
        status = launch(_arguments(kept, group, settings, policies, seconds), seconds + GRACE / 2)
        kept.read()
        if status == 0:
            return []
        ended = f"it took longer than {seconds:.0f} s" if status is None else f"its process ended with {_named(status)}"
        under_way = kept.content["under_way"]
        if under_way is None:
            if status == LOST:  # what it was at is kept already
                continue
            return [f"{name}: {ended} before anything was under way; what it printed says why"]
        part, *entry = under_way
        kept.keep(part, *entry, skipped=ended, **_left_of(kept.entry(part, *entry)))
        if status is None:
            return [f"{name}: {', '.join(entry)}: {ended}"]
    return [f"{name}: {AGAIN} processes were ended"]


LOST = 75
"""Exit status of a process in which the device answers nothing any more."""


def _left_of(entry: dict[str, Any] | None) -> dict[str, Any]:
    """What an entry says beside its name and why it was skipped."""
    return {
        key: value for key, value in (entry or {}).items() if key not in ("skipped", "at", "for_good", *(name for names in NAMES.values() for name in names))
    }


def _named(status: int) -> str:
    try:
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
    except ValueError:
        return f"signal {-status}"


def _arguments(kept: Kept, group: Group, settings: Settings, policies: Sequence[str], seconds: float) -> list[str]:
    """The command line of a group."""
    words = ["--here", "--out", str(kept.out), "--since", repr(kept.since)]
    words += ["--scale", settings.scale, "--steps", str(settings.steps), "--repeats", str(settings.repeats)]
    words += ["--full-steps", str(settings.full_steps), "--device", settings.device, "--dtype", settings.dtype]
    words += [] if kept.budget.seconds is None else ["--until", f"{time.time() + seconds:.1f}"]
    for option, values in (("--parts", group.parts), ("--models", group.models), ("--policies", policies)):
        words += [word for value in values for word in (option, value)]
    return words


def _process(arguments: Sequence[str], seconds: float) -> int | None:
    """Run this command, and end it with all that it has started where it takes longer or this is interrupted."""
    process = subprocess.Popen([sys.executable, "-m", "foreseer.bench.gpu", *arguments], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(None if seconds == float("inf") else seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
