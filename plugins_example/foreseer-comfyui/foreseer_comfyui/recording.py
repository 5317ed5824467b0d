"""Recordings of a model's samplings, and plans that are made of them, in ComfyUI's output folder."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import attrs

import foreseer
from foreseer import OptionError, PolicySpec
from foreseer.workbench.planner import plan
from foreseer.workbench.recorder import TraceRecorder
from foreseer.workbench.trace import Trace

__all__ = ["Recorded", "folder", "planned_from", "recordings"]


def folder() -> Path:
    """Where recordings and plans lie."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "foreseer"


def recordings() -> list[str]:
    """Return the names of the recordings and plans that are there."""
    return sorted(path.name for ending in ("*.safetensors", "*.json") for path in folder().glob(ending))


def path_of(name: str) -> Path:
    """Return where a recording or plan of that name lies.

    Raises:
        OptionError: It is no name of a file.
    """
    if not re.fullmatch(r"[\w][\w. -]*", name):
        raise OptionError(f"name={name!r} is no name of a file; write letters, digits, dots and dashes, such as name='flux-dev-20'")
    return folder() / name


@attrs.define(eq=False)
class Recorded:
    """Samplings that are recorded one after the other into one file.

    Attributes:
        name: Of the file, without its ending. Where there is one already, of another session, a number follows.
        recorder: What sees the samplings.
    """

    name: str
    recorder: TraceRecorder = attrs.field(factory=lambda: TraceRecorder(keep_on="cpu"))
    _path: Path | None = attrs.field(default=None, init=False)

    def save(self) -> str:
        """Write all samplings so far. Returns what happened, in a sentence."""
        try:
            trace = self.recorder.trace()
            self._path = trace.save(self._path or _free(self.name))
        except (OptionError, OSError) as error:
            return f"not written: {error}; what was recorded so far is in the file. For other steps or sizes write another name in Foreseer Record"
        return f"{trace.samples} samples of {trace.num_steps} evaluations are recorded in {self._path}"


def _free(name: str) -> Path:
    """Return a path at which nothing lies, of that name or of it with a number."""
    return next(path for number in itertools.count(1) if not (path := path_of(f"{name}{f'-{number}' * (number > 1)}.safetensors")).exists())


def found(name: str) -> Path:
    """Return where a recording or plan lies.

    Raises:
        OptionError: It is not there.
    """
    path = path_of(name)
    if not path.exists():
        there = ", ".join(recordings()) or "none yet: Foreseer Record makes them"
        raise OptionError(f"recording={name!r} is not in {folder()}; there are {there}")
    return path


def planned_from(name: str, *, steps: int, target: str) -> PolicySpec:
    """Return the policy of a plan, made now where the name is that of a recording.

    Args:
        name: As `recordings` has it.
        steps: How many evaluations are computed; 0 for what the plan says, or a quarter.
        target: What is forecast in the others: ``"last_block"`` or ``"modules"``.

    Raises:
        OptionError: There is no such file, or it has no plan with so many evaluations.
    """
    path = found(name)
    if path.suffix != ".json":
        made = plan(Trace.load(path), budget=steps or None, target="modules" if target == "modules" else "last_block")
        path = made.save(path.with_name(f"{path.stem}-{steps or 'some'}-{target}.json"))
    return foreseer.policy("planned", schedule=str(path), target=target, **({"budget": steps} if steps else {}))
