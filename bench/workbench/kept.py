"""What `auto` has recorded and planned of one kind of run: a folder of traces and a plan, which other
processes read and write too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections import Counter
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import FileError, OptionError
from foreseer.schedule_plan import SchedulePlan
from foreseer.signature import Signature
from foreseer.types import OUTPUT, Run
from foreseer.workbench.few import plan_from_few
from foreseer.workbench.parts import joined, unlike
from foreseer.workbench.trace import Trace

__all__ = ["Kept"]

FORM = 1
"""Of what is kept; another one is kept elsewhere."""
PLAN = "plan.json"
DIGITS = 16


@attrs.frozen
class Kept:
    """What is kept of runs of one signature.

    Every run has a file of its own, a `foreseer.workbench.Trace` of the denoiser's output, so that nobody
    writes what another one writes; the plan is a `foreseer.workbench.SchedulePlan` and follows from them.

    Attributes:
        folder: Where.
        signature: Of the runs.
        depth: Blocks of the model.
    """

    folder: Path
    signature: Signature
    depth: int

    @classmethod
    def of(cls, run: Run, cache: Path) -> Kept:
        """Return what is kept of runs like this one: of the same model, scheduler, steps and timesteps, of
        latents of one shape and dtype, with as many rows for a sample. Streams are not told apart.
        """
        assert run.num_steps is not None
        times = run.timesteps or ()
        most = max(map(abs, times), default=0.0) or 1.0
        facts = {
            "form": FORM,
            "model": run.model,
            "scheduler": run.scheduler,
            "num_steps": run.num_steps,
            "start": run.start,
            "timesteps": [f"{time / most:.4f}" for time in times] + [f"{most:.6g}"],
            "latent": run.latent,
            "depth": run.depth,
            "copies": len(run.groups) // len(set(run.groups)),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:DIGITS]
        signature = Signature(model=run.model, scheduler=run.scheduler, num_steps=run.num_steps, timesteps=times, dtype=run.latent.rpartition(" ")[2])
        name = re.sub(r"[^\w.-]", "_", run.model)
        return cls(cache / "auto" / f"{name}-{run.num_steps}-steps-{digest}", signature, run.depth)

    def keep(self, stream: str, grams: NDArray[np.float64]) -> Path:
        """Keep a run's samples.

        Args:
            stream: Whose they are.
            grams: ``(S, T, T)`` inner products of the outputs of two steps, of each sample.

        Raises:
            FileError: The file cannot be written.
        """
        trace = Trace(
            signature=self.signature,
            depth=self.depth,
            labels=(stream,) * len(grams),
            grams={("", OUTPUT): grams},
            target=OUTPUT,
            sensitivity=np.zeros((len(grams), 0)),
        )
        return trace.save(self.folder / f"run-{uuid.uuid4().hex}.safetensors")

    def recorded(self) -> tuple[Trace | None, list[str]]:
        """Return all runs that are kept, side by side, or None where there is none; and what was wrong with
        others, in sentences: those are thrown away.
        """
        found, notes = list[Trace](), list[str]()
        for path in sorted(self.folder.glob("run-*.safetensors")):
            try:
                trace = Trace.load(path)
                if found and (differing := unlike(found[0], trace)):
                    raise OptionError(f"{path} is of other runs: {differing}")
                found.append(trace)
            except OptionError as error:
                notes.append(_thrown_away(path, error))
        return (joined(found) if found else None), notes

    def plan(self, samples: int) -> Planned:
        """Return the plan that follows from at least so many samples, or say how many there are."""
        path, notes = self.folder / PLAN, list[str]()
        if path.exists():
            try:
                if (known := SchedulePlan.load(path)).samples >= samples:
                    return Planned(known, known.samples)
            except OptionError as error:
                notes.append(_thrown_away(path, error))
        trace, damaged = self.recorded()
        notes += damaged
        count = 0 if trace is None else max(Counter(trace.labels).values())
        if trace is None or count < samples:
            return Planned(None, count, tuple(notes))
        made = plan_from_few(trace, samples=count)
        try:
            made.save(path)
        except FileError as error:
            notes.append(f"the plan is made anew for each run: {error}")
        return Planned(made, count, tuple(notes))


@attrs.frozen
class Planned:
    """What is known of runs of one signature.

    Attributes:
        plan: The plan, or None where too few samples are recorded.
        samples: How many are recorded, of the stream of which most are; those that the plan is from.
        notes: Sentences for the report.
    """

    plan: SchedulePlan | None
    samples: int
    notes: tuple[str, ...] = ()


def _thrown_away(path: Path, error: OptionError) -> str:
    """Throw away a file that cannot be used, and say so."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return f"{error}; it is not used, and written anew"
