"""What `foreseer record` has finished so far: a trace for each batch, so that an interrupted recording goes
on where it was.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.document import Document
from foreseer.errors import OptionError
from foreseer.files import write_whole
from foreseer.workbench.trace import Trace

__all__ = ["Parts", "joined", "unlike"]

Array = NDArray[np.float64]

REQUEST = "request.json"
FILE = Document(
    format="foreseer recording 1",
    made_by="`foreseer record`",
    again="record anew, with --restart",
    earlier=lambda content: {"format": "foreseer recording 1", **content},
    sealed=False,
)


class Parts:
    """A folder of finished batches beside the file to come, with what was asked for. Raises `OptionError` where
    it holds parts of another request; the message says what differs.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._folder = folder
        FILE.resume(folder / REQUEST, request)

    def load(self, batch: int) -> tuple[Trace, Array] | None:
        """Return what is there of a batch: its trace so far, and the final latents ``(S, N)``. None where
        there is nothing that can be read.
        """
        path = self._path(batch)
        try:
            return Trace.load(path), np.load(path.with_suffix(".npy"), allow_pickle=False)
        except (OptionError, OSError, ValueError):
            return None

    def keep(self, batch: int, trace: Trace, final: Array) -> None:
        """Keep what was recorded of a batch so far."""
        path = self._path(batch)
        if not path.with_suffix(".npy").exists():
            content = io.BytesIO()
            np.save(content, final, allow_pickle=False)
            write_whole(path.with_suffix(".npy"), content.getvalue())
        trace.save(path)

    def begin(self, batch: int) -> None:
        """Throw away what is there of a batch."""
        for suffix in (".npy", ".safetensors"):
            self._path(batch).with_suffix(suffix).unlink(missing_ok=True)

    def remove(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, batch: int) -> Path:
        return self._folder / f"{batch:05d}.safetensors"


def unlike(first: Trace, other: Trace) -> str:
    """Say what keeps the samples of two traces from being put side by side; empty where nothing does."""
    differing = first.signature.conflicts(other.signature)
    for what in ("depth", "copies", "streams", "sites", "target", "final_size", "measured", "grid"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if mine != theirs and (what != "measured" or (mine and theirs)):
            differing.append(f"{what} {mine} before, {theirs} now")
    return "; ".join(differing)


def joined(traces: Sequence[Trace]) -> Trace:
    """Put the samples of one or more traces side by side; everything else is the first's. Raises `OptionError`
    where they were recorded on different things; the message says what differs.
    """
    first = traces[0]
    for other in traces[1:]:
        if differing := unlike(first, other):
            raise OptionError(f"traces of different things cannot be joined: {differing}; record them alike")
        first = attrs.evolve(first, measured=first.measured or other.measured)
    return attrs.evolve(
        first,
        seed=first.seed if all(trace.seed == first.seed for trace in traces) else None,
        labels=tuple(label for trace in traces for label in trace.labels),
        grams={key: np.concatenate([trace.grams[key] for trace in traces]) for key in first.grams},
        sensitivity=np.concatenate([trace.sensitivity for trace in traces]),
        final_norm=np.concatenate([trace.final_norm for trace in traces]),
        evaluations=sum(trace.evaluations for trace in traces),
    )
