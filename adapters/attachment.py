"""A policy on a model or pipeline: the sessions of its streams, and what calls of the model do while it is attached."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters.arguments import differentiates, signature_of_call
from foreseer.adapters.calls import Interception, intercept
from foreseer.adapters.identity import identity_of
from foreseer.adapters.loops import PipelineLoop, Place
from foreseer.adapters.module_backbone import Call, Rewired
from foreseer.adapters.parallel import vote_for
from foreseer.adapters.rows import copies_in, groups_of
from foreseer.adapters.streams import Key, Stream, Streams
from foreseer.adapters.wires import Wires
from foreseer.bank import Storage
from foreseer.errors import ContractError, OverBudgetError, UnsupportedModelError
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.types import Run
from foreseer.vote import Vote

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from foreseer.workbench.preset import Preset

__all__ = ["Attachment", "refuse"]

_attached: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def refuse(model: nn.Module) -> None:
    """Raise if a model cannot be attached to: somebody is attached already, or a cache of diffusers is enabled."""
    if model in _attached:
        raise ContractError(f"this {type(model).__name__} has policy {_attached[model]} attached already; detach it first (leave its `with`, or call detach())")
    if getattr(model, "is_cache_enabled", False):
        raise UnsupportedModelError(f"a diffusers cache is enabled on this {type(model).__name__}; call its disable_cache() first")


class Attachment:
    """A policy on a model or pipeline. Made by `attach`; all state lives here, none on a model or its class."""

    def __init__(
        self,
        pipeline: Any,
        wires: Mapping[str, Wires],
        spec: PolicySpec,
        *,
        streams: Literal["independent", "follow_first"],
        observers: Sequence[object],
        on_error: Literal["raise", "compute"],
        storage: Storage,
        on_over_budget: Literal["raise", "last_block"],
        process_group: ProcessGroup | Literal["auto"] | None,
        copies: int | None,
        preset: Preset | None = None,
        any_model: bool = False,
    ) -> None:
        self.spec = spec
        self._pipeline = pipeline
        self._wires = dict(wires)
        self._on_over_budget = on_over_budget
        self._streams = Streams(self._wires, spec, observers=observers, on_error=on_error, storage=storage, follow_first=streams == "follow_first")
        self._process_group, self._copies = process_group, copies
        self._preset, self._any_model = preset, any_model
        self._votes: dict[str, Vote | None] = {name: vote_for(wire.model, process_group) for name, wire in self._wires.items()}
        self._run = 0
        self._given: dict[str, Any] | None = None
        self._outside = 0
        self._inert: dict[tuple[str, object], str] = {}
        self._detached = False
        for wire in self._wires.values():
            wire.install()
        self._roots: list[Interception] = [intercept(wire.model, self._around(name)) for name, wire in self._wires.items()]
        for wire in self._wires.values():
            _attached[wire.model] = str(spec)
        self._loop = None if pipeline is None else PipelineLoop(pipeline, [wire.model for wire in self._wires.values()], self._reachable, self._finish)

    @property
    def model(self) -> nn.Module:
        """The denoiser; the first where a pipeline has several."""
        return next(iter(self._wires.values())).model

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put everything back as it was, bit for bit. Ends a run that is under way; does nothing the second time."""
        if self._detached:
            return
        self._detached = True
        self._finish()
        self._given = None
        if self._loop is not None:
            self._loop.restore()
        for root in self._roots:
            root.restore()
        for wire in self._wires.values():
            wire.restore()
            _attached.pop(wire.model, None)
        self._streams.forget_models()

    @contextlib.contextmanager
    def run(
        self,
        *,
        timesteps: Sequence[float] | Tensor | None = None,
        num_steps: int | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        groups: Sequence[int] | int | None = None,
        stream: str = "",
    ) -> Iterator[Attachment]:
        """One sampling run of a model without a pipeline: calls of the model inside are its steps.

        Args:
            timesteps: ``(T,)`` one per call of the model, in the order of the calls.
            num_steps: Number of calls, where the timesteps are not known. Policies that need it say so.
            sigmas: ``(T,)`` noise levels, for policies that want them.
            groups: Which rows are one sample: ``(R,)`` labels, or the number of samples, B, if row r belongs to
                sample r mod B (guidance by concatenation). None: every row is a sample.
            stream: A name for the report, where several runs make up one sampling.

        Raises:
            ContractError: A run is under way already, or the model was compiled or wrapped since it was attached.
        """
        if self._loop is not None:
            raise ContractError("this is attached to a pipeline, whose calls are its runs; just call the pipeline")
        if self._detached:
            raise ContractError("this attachment is detached; attach anew")
        if self._given is not None:
            raise ContractError("a run is under way already; end it before the next")
        self._ready()
        times = _floats(timesteps)
        if times is not None and num_steps is not None and len(times) != num_steps:
            raise ValueError(f"num_steps={num_steps} but timesteps has {len(times)} entries; give one of them")
        self._begin()
        self._given = {
            "timesteps": times,
            "num_steps": len(times) if times is not None else num_steps,
            "sigmas": _floats(sigmas),
            "groups": groups,
            "stream": stream,
        }
        try:
            yield self
        finally:
            self._given = None
            self._finish()

    @property
    def reports(self) -> dict[str, Report]:
        """The account of the run under way, or of the last one: of each stream, by its name. Empty before the first run."""
        return self._streams.reports

    @property
    def report(self) -> Report:
        """The account of the run under way, or of the last one; of its first stream, where it has several.

        Raises:
            ContractError: Nothing has run yet.
        """
        reports = self.reports
        if not reports:
            raise ContractError("nothing has run yet: call the pipeline, or a model inside `with attached.run(timesteps=...):`")
        report = next(iter(reports.values()))
        notes = list(self._inert.values())
        if self._outside:
            notes.append(f"{self._outside} calls came outside of a run and were computed")
        if len(reports) > 1:
            notes.append(f"this is the first of {len(reports)} streams; attached.reports has {', '.join(list(reports)[1:])} too")
        return attrs.evolve(report, warnings=(*report.warnings, *notes)) if notes else report

    def _reachable(self) -> None:
        """Check, at the start of a run, that calls still arrive."""
        for root, (name, wire) in zip(self._roots, self._wires.items(), strict=True):
            if not root.intact or not wire.intact:
                raise ContractError("the model was compiled or wrapped after foreseer was attached, so its calls no longer arrive; compile first, attach last")
            if self._pipeline is not None and getattr(self._pipeline, name) is not wire.model:
                raise ContractError(
                    f"the pipeline's {name} was exchanged or compiled after foreseer was attached, so its calls no longer arrive; compile first, attach last"
                )

    def _ready(self) -> None:
        """Check that calls arrive, and follow modules that were exchanged (a LoRA loaded since)."""
        self._reachable()
        for wire in self._wires.values():
            if wire.stale:
                wire.rewire()
                self._streams.forget_models()
        votes = {name: vote_for(wire.model, self._process_group) for name, wire in self._wires.items()}
        if votes != self._votes:  # parallelism was enabled since: other shapes, other company
            self._votes = votes
            self._streams.forget_models()

    def _begin(self) -> None:
        self._streams.begin()
        self._outside = 0

    def _finish(self) -> None:
        self._streams.finish()

    def _around(self, name: str) -> Callable[..., Any]:
        def around(inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self._called(name, inner, args, kwargs)

        return around

    def _called(self, name: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = self._place(name, kwargs)
        signature = signature_of_call(args, kwargs)
        if (name, signature) in self._inert:
            return inner(*args, **kwargs)
        if place is None:
            self._outside += 1
            return inner(*args, **kwargs)
        call = Call(inner, args, kwargs)
        because = ""
        if torch.is_grad_enabled() and differentiates(self._wires[name].model, args, kwargs):
            because = "gradients are enabled: wrap the loop in torch.no_grad()"
        while (name, signature) not in self._inert:
            key = Key(name, place.stream, signature)
            entry = self._streams.find(key) or self._open(key, place, call)
            index = place.step - entry.start if self._loop is not None else None
            try:
                output = entry.session.evaluate(call, index=index, computed_because=because)
                for note in entry.backbone.notes:  # the self-check of the first computed step may have found out more
                    entry.session.warn(note)
                return output
            except Rewired:
                # The host's sites are others than it said. Nothing is lost but one evaluation: the session begins anew.
                self._streams.drop(key)
            except OverBudgetError as error:
                if self._on_over_budget == "raise" or not entry.backbone.without_parts(f"memory: {error}"):
                    raise
                self._streams.drop(key)
            except UnsupportedModelError as error:
                if self._loop is None or entry.session.report.outcomes:
                    raise
                # One kind of call among a pipeline's (FLUX.2 klein's first returns its keys and values): it is computed, and the report says so.
                self._streams.drop(key)
                self._inert[name, signature] = f"one kind of call is always computed: {error}"
        return inner(*args, **kwargs)

    def _place(self, name: str, kwargs: dict[str, Any]) -> Place | None:
        if self._loop is None:
            return None if self._given is None else Place(self._run, 0, str(self._given["stream"]))
        place = self._loop.place(self._wires[name].model, kwargs)
        if place is not None and place.run != self._run:
            self._run = place.run
            self._begin()
            self._ready()
        return place

    def _open(self, key: Key, place: Place, call: Call) -> Stream:
        """Begin the session of a call that is the first of its kind in this run."""
        name = key.name
        if self._loop is None and (old := self._streams.any()) is not None:
            rows = old.backbone.rows(call)
            what = f"{old.session.run.rows} rows and was called with {rows}" if rows != old.session.run.rows else "arguments of other shapes or names"
            raise ContractError(f"this run began with {what}; give each kind of call a run of its own")
        backbone = self._streams.backbone(name, key.signature, self._votes[name])
        rows = backbone.rows(call)
        groups, start = self._groups(rows, call), 0
        given: dict[str, Any]
        if self._loop is None:
            assert self._given is not None
            given = {option: value for option, value in self._given.items() if option != "groups"}
        else:
            start = place.step
            times = self._loop.timesteps()
            given = {"timesteps": times and times[start:], "num_steps": times and max(len(times) - start, 1), "stream": place.stream}
        which: dict[str, Any] = {
            "model": identity_of(self._wires[name].model),
            "scheduler": "" if self._pipeline is None else identity_of(self._pipeline.scheduler),
        }
        run = Run(depth=backbone.depth, rows=rows, groups=groups, sites=backbone.sites, **which, **given)
        elsewhere = self._elsewhere(run, start)
        stream = self._streams.open(key, backbone, run, start=start, vote=self._votes[name])
        if elsewhere:
            stream.session.warn(elsewhere)
        return stream

    def expect(self, preset: Preset, *, any_model: bool = False) -> None:
        """Hold the coming runs to what a preset was made for, as ``attach(preset=...)`` does: another run raises `OptionError` at its start.

        Args:
            preset: The preset.
            any_model: Let the report say what differs instead.
        """
        self._preset, self._any_model = preset, any_model

    def _elsewhere(self, run: Run, start: int) -> str:
        """Compare a run that begins with what the preset was made for: the whole of a pipeline's timesteps, and the model it has first."""
        if self._preset is None:
            return ""
        if self._loop is not None and start:
            times = self._loop.timesteps()
            run = attrs.evolve(run, timesteps=times, num_steps=None if times is None else len(times))
        if run.model != identity_of(self.model):
            run = attrs.evolve(run, model="")
        return self._preset.check(run, any_model=self._any_model)

    def _groups(self, rows: int, call: Call) -> tuple[int, ...]:
        given = None if self._given is None else self._given["groups"]
        if self._loop is not None:
            given = rows // (self._copies or copies_in(call.args, call.kwargs, rows))
            if self._copies and rows % self._copies:
                raise ContractError(f"copies={self._copies} does not divide the {rows} rows of the call")
        return groups_of(given, rows)


def _floats(values: Sequence[float] | Tensor | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else values
    return tuple(float(v) for v in listed)
