"""What a benchmark keeps on disk: ``results.json``, and beside it what was drawn. Both are written after each
finished unit, whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch

from foreseer.bench.likeness import Drawn
from foreseer.bench.machine import circumstances
from foreseer.bench.results import FILE, Results
from foreseer.document import changes
from foreseer.errors import OptionError
from foreseer.files import write_whole

__all__ = ["Key", "Restart", "Store", "file_names", "machine_of"]

Key = tuple[str, int]
"""Of a lane: its name and batch size."""

Restart = bool | Literal["if other"]
"""Whether results that are there are thrown away: always, or where they are of other settings or versions."""


class Store:
    """A benchmark's folder.

    Args:
        folder: Made with the first thing that is kept in it; nothing is written for reading.
        restart: Throw away what is there; ``"if other"``: only where `resume` would refuse it.
    """

    def __init__(self, folder: Path, *, restart: Restart = False) -> None:
        self.folder, self._restart = folder, restart
        if restart is True:
            self._throw_away()
        self._names: dict[Key, str] = {}

    def _throw_away(self) -> None:
        (self.folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "samples", ignore_errors=True)

    def resume(self, new: Results) -> Results:
        """Return what is there, if it was begun with the same settings and versions; else ``new``.

        Raises:
            OptionError: It was begun otherwise; the message says what differs.
        """
        if not (self.folder / FILE).exists():
            return new
        old = Results.load(self.folder)
        if differing := _differing(old, new):
            if self._restart == "if other":
                self._throw_away()
                return new
            advice = "Write another --out, or --restart to begin anew"
            raise OptionError(f"{str(self.folder)!r} holds results of other settings: {differing}. {advice}")
        return old

    def begin_again(self, found: Results, *, samples: int) -> Results:
        """Return what is there, without what must be done again.

        What failed is tried once more. Batches whose samples are gone are drawn anew where they are needed:
        those of full computation, which the rest is compared with, and those of lanes that have not drawn so
        many ``samples``. What is finished stays as it was measured.
        """
        self.name([lane.key for lane in found.lanes])
        if found.finished and not any(lane.error for lane in found.lanes):
            return found
        kept = []
        for lane in found.lanes:
            needed = lane.kind == "full" or len(lane.indices) < samples
            units = tuple(unit for unit in lane.units if not needed or self.samples(lane.key, unit.number).exists())
            kept.append(attrs.evolve(lane, error="", units=units))
        return attrs.evolve(found, lanes=tuple(kept))

    def keep(self, lane: Key, number: int, drawn: Drawn) -> None:
        """Write what a lane drew of a batch."""
        content = io.BytesIO()
        parts = attrs.asdict(drawn)
        if drawn.latents is drawn.images:  # large pictures are kept once
            del parts["latents"]
        np.savez(content, **parts)
        write_whole(self.samples(lane, number), content.getvalue())

    def drawn(self, lane: Key, number: int) -> Drawn:
        """Read what a lane drew of a batch.

        Raises:
            OptionError: The file is damaged.
        """
        path = self.samples(lane, number)
        try:
            with np.load(io.BytesIO(path.read_bytes())) as found:
                parts = {name: torch.from_numpy(found[name]) for name in attrs.fields_dict(Drawn) if name != "latents" or name in found}
                return Drawn(**{"latents": parts["images"], **parts})
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            advice = "delete it, and the same command draws it again"
            raise OptionError(f"{str(path)!r} is damaged: {error}; {advice}") from error

    def samples(self, lane: Key, number: int) -> Path:
        """Return where a lane's batch is kept."""
        return self.folder / "samples" / f"{self._names[lane]}-{number:03d}.npz"

    def name(self, lanes: Sequence[Key]) -> None:
        """Give lanes their file names. A name depends on the lanes before it only, so that lanes may be added
        at the end.
        """
        titles = {f"{batch}-{name}": (name, batch) for name, batch in lanes}
        self._names = {titles[title]: file for title, file in file_names(titles).items()}


def machine_of(folder: Path) -> Mapping[str, str] | None:
    """Return the machine of the results in a folder; None where there are none that can be read."""
    with contextlib.suppress(OptionError):
        return Results.load(folder).machine
    return None


def file_names(lanes: Iterable[str]) -> dict[str, str]:
    """Give each lane a file name without its ending: safe on every system, and unlike the others whatever the
    case of letters means there.
    """
    names: dict[str, str] = {}
    for lane in lanes:
        plain = re.sub(r"[^A-Za-z0-9.=_-]+", "_", lane).strip("._")[:80] or "policy"
        name, count = plain, 1
        while name.lower() in (taken.lower() for taken in names.values()):
            count += 1
            name = f"{plain}-{count}"
        names[lane] = name
    return names


def _differing(old: Results, new: Results) -> str:
    was, now = (circumstances(found.settings, found.versions, found.machine, found.git) for found in (old, new))
    # a package that was missing may be why a lane failed; once it is installed the lane is tried again
    return changes(was, {key: value for key, value in now.items() if key in was or not key.startswith("version of ")})
