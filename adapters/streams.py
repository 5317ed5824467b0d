"""The sessions of one run of an attachment: one for each stream of a step's calls and each kind of call, on
backbones that later runs use again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from foreseer.adapters.findings import KINDS, Findings, Key, Learnt
from foreseer.adapters.module_backbone import ModuleBackbone
from foreseer.adapters.wires import Wires
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.session import Session
from foreseer.storage import Allowance, Storage
from foreseer.types import Run
from foreseer.vote import Vote

__all__ = ["FIRST_OF", "Key", "Stream", "Streams"]

ALL_BUT = 0.9
"""Share of the blocks' work that module parts must hold to pass for all of it."""
FIRST_OF = "this is the first of"
"""How the note begins in a first report that there are others."""


@attrs.define(eq=False)
class Stream:
    """One session, the backbone that it drives, and the step of the generation at which it began.

    Attributes:
        examined: How often the model had to be examined anew for it.
        changed: Why the last time.
    """

    session: Session
    backbone: ModuleBackbone
    start: int
    examined: int = 0
    changed: str = ""


class Streams:
    """See the module.

    Args:
        wires: Of each denoiser, by its name.
        spec: The policy.
        observers, on_error, storage: Of every session; the sessions of a run hold of one allowance.
        follow_first: Whether later streams do what the first of their denoiser decides.
        findings: What an earlier attachment found out; None for nothing.
        shared: What others on the same wires find out, and what is found out here; None for nobody's.
    """

    def __init__(
        self,
        wires: Mapping[str, Wires],
        spec: PolicySpec,
        *,
        observers: Sequence[object],
        on_error: Literal["raise", "compute"],
        storage: Storage | None,
        follow_first: bool,
        findings: Findings | None = None,
        shared: Learnt | None = None,
    ) -> None:
        self._shared = shared
        self._wires, self.spec, self._follow = dict(wires), spec, follow_first
        self._given: dict[str, Any] = {"observers": tuple(observers), "on_error": on_error, "storage": storage}
        self._most = None if storage is None else storage.max_bytes
        self._several = len(wires) > 1
        self._learnt = {} if findings is None else findings.for_models(wires)
        self._backbones: dict[Key, ModuleBackbone] = {}
        self._open: dict[Key, Stream] = {}
        self._reports: dict[str, Report] = {}

    def begin(self) -> None:
        """A run begins; the last one's sessions are let go."""
        self._open, self._reports = {}, {}
        self._allowance = Allowance(self._most)
        for backbone in self._backbones.values():
            backbone.spent = 0

    def finish(self) -> None:
        """End every session of the run, and keep nothing of it but the reports."""
        with contextlib.ExitStack() as ending:  # the last is called first, and each whatever another (an observer) raises
            ending.callback(self._open.clear)
            ending.callback(self._keep_reports)
            for stream in reversed(self._open.values()):
                ending.callback(stream.backbone.anatomy.pool.clear)
                ending.callback(stream.session.finish)

    def _keep_reports(self) -> None:
        self._reports = self.reports

    def forget(self) -> None:
        """Nothing that was found out about the models holds."""
        self._learnt.clear()
        self._backbones.clear()

    @property
    def findings(self) -> Findings:
        """What was found out so far, and what was taken over of it."""
        taken = {key: learnt for key, learnt in self._learnt.items() if not self._wires[key.name].version}
        return Findings.of(self._wires, ((key, backbone.anatomy) for key, backbone in self._backbones.items()), taken)

    def release(self) -> None:
        """Let go of the models."""
        self.forget()
        self._wires.clear()

    def find(self, key: Key) -> Stream | None:
        """Return a session that is under way."""
        return self._open.get(key)

    @property
    def policy_seconds(self) -> float:
        """What the policy took for itself in the streams that are open."""
        return sum(stream.session.tenure.seconds for stream in self._open.values())

    def drop(self, key: Key) -> None:
        """Let go of a session as if it had never begun."""
        del self._open[key]

    def backbone(self, key: Key, vote: Vote | None, *, anew: bool = False) -> ModuleBackbone:
        """Return the backbone of a stream and kind of call: its own of an earlier run, or another stream's of
        the same kind, which is held against each step; or a new one.

        Args:
            key: Which.
            vote: The processes that share its rows' tokens.
            anew: Make a new one in any case.
        """
        wires = self._wires[key.name]
        self._backbones = {k: b for k, b in self._backbones.items() if k.name != key.name or wires.knows(b.anatomy.version)}
        found = self._backbones.pop(key, None)
        if found is None or found.anatomy.version != wires.version:
            alike = (b for k, b in reversed(self._backbones.items()) if (k.name, k.signature) == (key.name, key.signature))
            found = next((b for b in alike if b.anatomy.version == wires.version), None)
        if found is None or anew:
            fresh = ModuleBackbone(wires, vote, learnt=None if anew or vote is not None else self._learnt_of(key))
            if found is not None:
                fresh.spent, found.spent = found.spent, 0
            found = fresh
        self._backbones[key] = found
        while len(self._backbones) > KINDS * len(self._wires):
            del self._backbones[next(iter(self._backbones))]
        return found

    def share(self) -> None:
        """Let others on the same wires know what was found out."""
        if self._shared is not None:
            for key, backbone in self._backbones.items():
                self._shared.add(key, backbone.anatomy)

    def _learnt_of(self, key: Key) -> Mapping[str, Any] | None:
        version = self._wires[key.name].version
        if self._shared is not None:
            return self._shared.of(key, version)
        if version:
            return None
        alike = (learnt for other, learnt in self._learnt.items() if (other.name, other.signature) == (key.name, key.signature))
        return self._learnt.get(key) or next(alike, None)

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
            session = Session(backbone, self.spec, run, leader=leader, vote=vote, allowance=self._allowance, **self._given)
        except ContractError as error:
            if not self._wires[key.name].opaque:
                raise
            raise UnsupportedModelError(
                f"{self.spec} looks at single blocks, and the model is compiled as a whole, so that only its output can be forecast: "
                "compile its blocks instead (compile_repeated_blocks), or choose a policy that looks at the output alone: taylorseer with target='output'"
            ) from error
        stream = self._open[key] = Stream(session, backbone, start)
        self._bind(stream)
        return stream

    def begin_anew(self, key: Key, backbone: ModuleBackbone, why: str) -> None:
        """Go on with a stream on another backbone, or on one that has learnt something else. Its report goes
        on too.

        Args:
            key: Which.
            backbone: The backbone.
            why: For the report; empty where nothing was lost.
        """
        stream = self._open[key]
        stream.backbone = backbone
        stream.session.tenure.begin_anew(why, backbone=backbone)
        self._bind(stream)

    def _bind(self, stream: Stream) -> None:
        stream.backbone.watch(stream.session.tenure.sites, stream.session.tenure.forecasts)
        for note in stream.backbone.anatomy.notes:
            stream.session.recorder.warn(note)
        wires = stream.backbone.wires
        name, in_parts = type(wires.model).__name__, any(site.part not in ("block", "output") for site in stream.session.tenure.forecasts)
        if in_parts and wires.covered < ALL_BUT:
            stream.session.recorder.warn(
                f"{name}: the module parts that are known hold {wires.covered:.0%} of its blocks' weights; the rest runs in every step"
            )
        elif in_parts and (inline := next((cut.inline for cut in wires.parts if cut is not None and cut.inline), "")):
            stream.session.recorder.warn(
                f"{name}: its blocks compute their {inline} themselves, so that it runs in every step; target='last_block' forecasts it too"
            )

    @property
    def reports(self) -> dict[str, Report]:
        """The account of each stream, by its name; the denoiser's stands before it where there are several."""
        found = dict(self._reports)
        for key, stream in tuple(self._open.items()):  # another thread may open one meanwhile
            label = ": ".join(part for part in (key.name if self._several else "", key.stream) if part) or "model"
            name, count = label, 1
            while name in found:
                count += 1
                name = f"{label} #{count}"
            found[name] = stream.session.report
        return found
