"""The file of timings: written whole after each lane, and resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreseer.bench.machine import circumstances, git_state, machine, versions
from foreseer.document import changes
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable, write_whole

__all__ = ["NOTE", "Record"]

NOTE = (
    "Weights and inputs are random. Decisions do not depend on them: schedules are fixed, and gates are forced to published rates while they compute their "
    "evidence. So times, memory and counts are those of the real models in these shapes, and of quality nothing is said. Text encoders, VAE and the "
    "scheduler's own arithmetic are left out."
)


class Record:
    """Timings on disk.

    Args:
        path: A JSON file; its folder is made if it is missing.
        settings: What decides the numbers. What is there must have been made with the same.
        device: For the machine's description.
        order: Pairs of model and policy, in the order in which they are listed; others come first.
        restart: Throw away what is there.

    Raises:
        OptionError: What is there was made otherwise, or is no such file; the message says what differs.
    """

    def __init__(self, path: Path, settings: dict[str, Any], device: str, order: Sequence[tuple[str, str]] = (), *, restart: bool = False) -> None:
        self._path, self._order = path, list(order)
        found = machine(device)
        refuse_unwritable(path)
        self.content: dict[str, Any] = {
            "note": NOTE,
            "settings": settings,
            "machine": found,
            "versions": versions(),
            "git": git_state(),
            "bandwidth": None,
            "models": {},
            "lanes": [],
            "laws": None,
            "finished": False,
        }
        if restart or not path.exists():
            return
        try:
            old = json.loads(path.read_text())
            parts = ("settings", "versions", "machine", "git")
            was, now = (circumstances(*(content[part] for part in parts)) for content in (old, self.content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"out={str(path)!r} holds no timings ({type(error).__name__}: {error}); write another file, or --restart to replace it") from None
        if differing := changes(was, now):
            raise OptionError(f"out={str(path)!r} holds timings of other settings: {differing}. Write another file, or --restart to begin anew")
        self.content = {**old, "finished": False}

    def has(self, model: str, policy: str) -> bool:
        """Whether a lane was timed. What was skipped was not: there may be memory now."""
        return any((lane["model"], lane["policy"]) == (model, policy) and not lane["skipped"] for lane in self.content["lanes"])

    def add(self, lane: dict[str, Any]) -> None:
        """Add a lane, in the place of what is there of it, and write the file."""
        key = (lane["model"], lane["policy"])
        lanes = [old for old in self.content["lanes"] if (old["model"], old["policy"]) != key] + [lane]
        places = {pair: place for place, pair in enumerate(self._order)}
        self.content["lanes"] = sorted(lanes, key=lambda found: places.get((found["model"], found["policy"]), -1))
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_whole(self._path, json.dumps(self.content, indent=1, allow_nan=False) + "\n")
