"""The sessions of one run of an attachment: one for each stream of a step's calls and each kind of call, on backbones that later runs use again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import attrs

from foreseer.adapters.module_backbone import ModuleBackbone
from foreseer.adapters.wires import Wires
from foreseer.bank import Storage
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import Run
from foreseer.vote import Vote

__all__ = ["Key", "Stream", "Streams"]

SIGNATURES = 6
"""For how many kinds of call (shapes, arguments) an attachment remembers what it found out about a model."""


class Key(NamedTuple):
    """What tells sessions of a run apart: the denoiser's name, the stream's, and the kind of call."""

    name: str
    stream: str
    signature: object


@attrs.define(eq=False)
class Stream:
    """One session, the backbone that it drives, and the step of the generation at which it began."""

    session: Session
    backbone: ModuleBackbone
    start: int


class Streams:
    """See the module.

    Args:
        wires: Of each denoiser, by its name.
        spec: The policy.
        observers, on_error, storage: Of every session.
        follow_first: Whether later streams do what the first of their denoiser decides.
    """

    def __init__(
        self,
        wires: Mapping[str, Wires],
        spec: PolicySpec,
        *,
        observers: Sequence[object],
        on_error: Literal["raise", "compute"],
        storage: Storage,
        follow_first: bool,
    ) -> None:
        self._wires, self._spec, self._follow = wires, spec, follow_first
        self._given: dict[str, Any] = {"observers": tuple(observers), "on_error": on_error, "storage": storage}
        self._backbones: dict[tuple[str, object], ModuleBackbone] = {}
        self._open: dict[Key, Stream] = {}

    def begin(self) -> None:
        """A run begins; the last one's sessions are let go."""
        self._open = {}
        for backbone in self._backbones.values():
            backbone.spent = 0

    def finish(self) -> None:
        """End every session of the run."""
        for stream in self._open.values():
            stream.session.finish()
            stream.backbone.pool.clear()

    def forget_models(self) -> None:
        """The models are others than they were, and nothing that was found out about them holds."""
        self._backbones.clear()

    def find(self, key: Key) -> Stream | None:
        """Return a session that is under way."""
        return self._open.get(key)

    def any(self) -> Stream | None:
        """Return the run's first session."""
        return next(iter(self._open.values()), None)

    def drop(self, key: Key) -> None:
        """Let go of a session as if it had never begun."""
        del self._open[key]

    def backbone(self, name: str, signature: object, vote: Vote | None) -> ModuleBackbone:
        """Return the denoiser's backbone for a kind of call: the one of an earlier run, or a new one."""
        backbone = self._backbones.pop((name, signature), None) or ModuleBackbone(self._wires[name], vote)
        self._backbones[name, signature] = backbone
        while len(self._backbones) > SIGNATURES * len(self._wires):
            del self._backbones[next(iter(self._backbones))]
        return backbone

    def open(self, key: Key, backbone: ModuleBackbone, run: Run, *, start: int, vote: Vote | None) -> Stream:
        """Begin a session.

        Raises:
            UnsupportedModelError: The policy looks at single blocks of a model that is compiled as a whole.
            ContractError: As `foreseer.Session`.
        """
        leader = next(
            (s.session for k, s in self._open.items() if self._follow and k.name == key.name and (s.start, s.session.run.rows) == (start, run.rows)), None
        )
        try:
            session = Session(backbone, self._spec, run, leader=leader, vote=vote, **self._given)
        except ContractError as error:
            if not self._wires[key.name].opaque:
                raise
            raise UnsupportedModelError(
                f"{self._spec} looks at single blocks, and the model is compiled as a whole, so that only its output can be forecast: "
                "compile its blocks instead (compile_repeated_blocks), or choose a policy that looks at the output alone: taylorseer with target='output'"
            ) from error
        backbone.watch(session.sites)
        first = [row for row in range(run.rows) if run.groups[row] == run.groups[0]]
        backbone.sample_rows = first if session.verifies and len(first) < run.rows else None
        for note in backbone.notes:
            session.warn(note)
        self._open[key] = Stream(session, backbone, start)
        return self._open[key]

    @property
    def reports(self) -> dict[str, Report]:
        """The account of each stream, by its name; the denoiser's stands before it where there are several."""
        found: dict[str, Report] = {}
        for key, stream in self._open.items():
            label = ": ".join(part for part in (key.name if len(self._wires) > 1 else "", key.stream) if part) or "model"
            name, count = label, 1
            while name in found:
                count += 1
                name = f"{label} #{count}"
            found[name] = stream.session.report
        return found
