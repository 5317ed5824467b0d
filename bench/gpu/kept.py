"""The file of the results: what was measured, what was skipped and why, what is under way. It is written after
each piece of work and gone on with, by this process or another.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from foreseer.bench.gpu.budget import LATE, Budget, pace_of
from foreseer.bench.machine import circumstances, git_state, machine, versions
from foreseer.document import changes
from foreseer.errors import ForeseerError, OptionError, in_one_line
from foreseer.files import refuse_unwritable, write_whole

__all__ = ["NAMES", "DeviceLostError", "Kept", "answers", "let_go"]

NAMES = {"kernel": ("feature",), "lanes": ("model", "policy"), "peers": ("model", "peer"), "ways": ("model", "way"), "checks": ("selection",)}
"""The lists of the file, one for each part, and what names an entry of each."""

Tell = Callable[[str], object]


class DeviceLostError(ForeseerError):
    """The device answers nothing in this process any more, or holds what is over: another one goes on."""


@attrs.define
class Kept:
    """The results.

    Attributes:
        content: What the file holds.
        out: The file.
        since: What was skipped at this time or later, in seconds since 1970, is not tried again.
        budget: Of all that is still to be done.
        tell: Told what is under way.
        device: What is measured.
    """

    content: dict[str, Any]
    out: Path
    since: float
    budget: Budget
    tell: Tell
    device: torch.device

    @classmethod
    def open(
        cls,
        out: Path,
        *,
        settings: Mapping[str, Any],
        note: str,
        restart: bool = False,
        since: float | None = None,
        budget: Budget | None = None,
        tell: Tell = lambda what: None,
    ) -> Kept:
        """Go on with a file, or begin one.

        Args:
            out: The file; its folder is made when it is first written.
            settings: What decides the numbers; ``"device"`` is one of them.
            note: What the numbers are, in words.
            restart: Throw away what is there.
            since: See the attribute; None for now.
            budget: None for no limit.
            tell: See the attribute.

        Raises:
            OptionError: The file cannot be written, or holds other results.
        """
        refuse_unwritable(out)
        device = str(settings["device"])
        new: dict[str, Any] = {"note": note, "settings": dict(settings), "machine": machine(device), "versions": versions(), "git": git_state()}
        new |= {"bandwidth": None, "models": {}, **{part: [] for part in NAMES}, "under_way": None, "done": [], "unfinished": [], "finished": False}
        content = new
        if out.exists() and not restart:
            try:
                old: dict[str, Any] = json.loads(out.read_text())
                parts = ("settings", "versions", "machine", "git")
                was, now = (circumstances(*(content[part] for part in parts)) for content in (old, new))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"out={str(out)!r} holds no timings ({type(error).__name__}: {error})"
                raise OptionError(f"{problem}; write another file, or --restart to replace it") from None
            if differing := changes(was, now):
                advice = "Write another file, or --restart to begin anew"
                raise OptionError(f"out={str(out)!r} holds timings of other settings: {differing}. {advice}")
            content = new | old | {"finished": False}
        return cls(content, out, time.time() if since is None else since, budget or Budget(), tell, torch.device(device))

    def read(self) -> None:
        """Take what another process has written."""
        self.content = json.loads(self.out.read_text())

    def write(self) -> None:
        """Write the file."""
        write_whole(self.out, json.dumps(_finite(self.content), indent=1, allow_nan=False) + "\n")

    def finish(self) -> None:
        """Say whether anything is left for want of time, and write the file."""
        late = any(entry["skipped"].startswith(LATE) for part in NAMES for entry in self.content[part])
        self.content["finished"] = not late and not self.content["unfinished"]
        self.write()

    def retried(self, parts: Collection[str], models: Collection[str]) -> bool:
        """Whether another call would try anything again, in these parts of these models."""
        entries = [entry for part in parts for entry in self.content[part] if entry.get("model") in (None, *models)]
        return any(entry["skipped"] and not entry.get("for_good", False) for entry in entries)

    def entry(self, part: str, *name: str) -> dict[str, Any] | None:
        """Return an entry; None where there is none."""
        return next((entry for entry in self.content[part] if tuple(entry[key] for key in NAMES[part]) == name), None)

    def settled(self, part: str, *name: str) -> bool:
        """Whether something was measured, skipped for good, or skipped in this call. What memory or time was
        short for before is tried again.
        """
        entry = self.entry(part, *name)
        return entry is not None and (not entry["skipped"] or entry.get("for_good", False) or entry.get("at", 0.0) >= self.since)

    def keep(self, part: str, *name: str, skipped: str = "", for_good: bool = False, **figures: Any) -> None:
        """Put an entry in the place of what is there of it, or at the end, and write the file.

        Args:
            part: One of `NAMES`.
            name: The entry's.
            skipped: Why there are no figures; empty where there are.
            for_good: Whether another call on this machine would skip it again.
            figures: What was found.
        """
        later = {"for_good": for_good} if skipped else {}
        entry = {**dict(zip(NAMES[part], name, strict=True)), "skipped": skipped, "at": time.time(), **later, **figures}
        entries, old = self.content[part], self.entry(part, *name)
        if old is None:
            entries.append(entry)
        else:
            entries[entries.index(old)] = entry
        self.content["under_way"] = None
        self.write()

    def seconds_of(self, part: str, work: float, usual: float) -> float:
        """Return what work of a part is going to take: ``work`` seconds by a formula, times what such seconds
        took so far, or ``usual``.
        """
        return work * pace_of(self.content[part], usual)

    def attempt(self, part: str, *name: str, work: float, measure: Callable[[], dict[str, Any]], usual: float, **head: Any) -> None:
        """Measure something, unless it is settled or time is short, and keep what came of it. What is raised is
        a sentence, and not the end.

        Args:
            part: One of `NAMES`.
            name: The entry's.
            work: Seconds, by a formula: see `seconds_of`.
            measure: Returns the figures.
            usual: See `seconds_of`.
            head: Kept whatever came of it.

        Raises:
            DeviceLostError: The device answers nothing any more; the entry says so.
        """
        if self.settled(part, *name):
            return
        if shortage := self.budget.shortage(self.seconds_of(part, work, usual)):
            self.keep(part, *name, skipped=shortage, **head)
            return
        self.tell(", ".join((*name, part)))
        self.content["under_way"] = [part, *name]
        self.write()
        began, skipped, for_good, figures = time.monotonic(), "", False, {}
        try:
            figures = measure()
        except torch.cuda.OutOfMemoryError as error:
            skipped = f"memory ran out, against the estimate: {str(error).splitlines()[0]}"
        except Exception as error:
            skipped, for_good = in_one_line(error), True
        let_go(self.device)  # not before: the exception holds what was allocated
        took = time.monotonic() - began
        times = {} if skipped else {"work_seconds": work, "wall_seconds": took}
        self.keep(part, *name, skipped=skipped, for_good=for_good, **head, **figures, **times)
        if not answers(self.device):
            raise DeviceLostError(f"{self.device} answers nothing any more after {', '.join((*name, part))}")


def _finite(value: Any) -> Any:
    """What JSON can hold: a number that is none becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def answers(device: torch.device) -> bool:
    """Whether a device still computes. After some errors CUDA does not, until the process ends."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2.0
    except RuntimeError:
        return False


def let_go(device: torch.device) -> None:
    """Free what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # a device that answers nothing; see `answers`
            return
