"""A policy on a model or pipeline: the sessions of its streams, and what calls of the model do meanwhile."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import attrs
from torch import nn

from foreseer.adapters._detach import ALL
from foreseer.adapters.bystanders import Bystanders
from foreseer.adapters.calls import Call, Interception, intercept
from foreseer.adapters.contexts import Context
from foreseer.adapters.driver import Driver
from foreseer.adapters.findings import Findings
from foreseer.adapters.generation import Generation
from foreseer.adapters.identity import identity_of
from foreseer.adapters.loops import PipelineLoop
from foreseer.adapters.refusals import mark, refuse, refuse_cache, refuse_unreachable, unmark
from foreseer.adapters.streams import FIRST_OF, Streams
from foreseer.adapters.visits import alone
from foreseer.adapters.wires import Wires
from foreseer.declared import Numbers, Schedule
from foreseer.errors import ContractError
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.storage import Storage

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Attachment"]


class Attachment:
    """A policy on a model or pipeline. Made by `attach`; all state lives here, none on a model or pipeline."""

    def __init__(
        self,
        pipeline: Any,
        wires: Mapping[str, Wires],
        spec: PolicySpec,
        *,
        streams: Literal["independent", "follow_first"],
        observers: Sequence[object],
        on_error: Literal["raise", "compute"],
        storage: Storage | None,
        process_group: ProcessGroup | Literal["auto"] | None,
        copies: int | None,
        findings: Findings | None,
        bystanders: Mapping[str, nn.Module],
    ) -> None:
        self.spec, self._pipeline, self._wires = spec, pipeline, dict(wires)
        self._driver = Driver(
            self._wires,
            Streams(self._wires, spec, observers=observers, on_error=on_error, storage=storage, follow_first=streams == "follow_first", findings=findings),
            scheduler=lambda: "" if self._pipeline is None else identity_of(self._pipeline.scheduler),
            process_group=process_group,
            last_block_over_budget=storage is not None and storage.on_over_budget == "last_block",
            copies=copies,
        )
        self._run = self._outside = self._thread = self._evaluating = 0
        self._detached = self._leaving = False
        self._generation: Generation | None = None
        self._on = type(next(iter(wires.values())).model if pipeline is None else pipeline).__name__
        self._roots: list[Interception] = []
        self._contexts: dict[str, Context] = {}
        self._bystanders = Bystanders({}, lambda _: None)
        self._loop: PipelineLoop | None = None
        try:
            if pipeline is not None:
                self._loop = PipelineLoop(pipeline, self._reachable, self._ended)
            for name, wire in self._wires.items():
                self._contexts[name] = Context(wire.model)
                wire.install(self)
                self._roots.append(intercept(wire.model, functools.partial(self._called, name)))
                mark(wire.model, str(spec))
            self._bystanders = Bystanders(bystanders, self._step_under_way, pipeline, () if pipeline is None else (*wires, "scheduler"))
        except BaseException:
            self.detach()
            raise
        ALL.add(self)

    def __repr__(self) -> str:
        runs = (f"{len(run.full_steps)} of {len(run.outcomes)} steps computed in full" for run in self._driver.reports.values())
        return f"<foreseer.Attachment of {self.spec} {'detached from' if self._detached else 'on'} {self._on}; {next(runs, 'nothing has run yet')}>"

    def drives(self, target: Any) -> bool:
        """Whether it is attached to this pipeline, or to this model or one inside of it."""
        inside = target.modules() if isinstance(target, nn.Module) else ()
        return target is self._pipeline or any(module is wire.model for module in inside for wire in self._wires.values())

    @property
    def elsewhere(self) -> bool:
        """Whether a run is under way in another thread."""
        here = self._generation is None or self._thread == threading.get_ident() or self._thread not in sys._current_frames()
        return not here if self._loop is None else self._loop.elsewhere

    @property
    def model(self) -> nn.Module:
        """The denoiser; the first where a pipeline has several. Raises `ContractError` where it is detached, and
        keeps no model alive.
        """
        self._refuse_detached()
        return next(iter(self._wires.values())).model

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put everything back as it was, bit for bit; a second time does nothing. Ends a run that is under way;
        the reports stay. From within a call of the model (a hook, a thread), that call comes to its end first.
        """
        self._leaving = True
        if self._detached or self._evaluating:
            return
        self._detached, self._generation = True, None
        with contextlib.ExitStack() as ending:  # the last is called first, and each whatever another raises
            ending.callback(vars(self).update, _roots=[], _contexts={}, _wires={}, _pipeline=None)
            ending.callback(self._driver.release)
            for wire in self._wires.values():
                ending.callback(wire.restore)
            for root in self._roots:
                ending.callback(unmark, root.module)
                ending.callback(root.restore)
            for context in self._contexts.values():
                ending.callback(context.end)
            ending.callback(self._bystanders.end)
            if self._loop is not None:
                ending.callback(self._loop.restore)
            self._driver.finish()

    @contextlib.contextmanager
    def run(
        self,
        *,
        timesteps: Numbers = None,
        num_steps: int | None = None,
        sigmas: Numbers = None,
        log_snr: Numbers = None,
        groups: Sequence[int] | int | None = None,
        stream: str = "",
    ) -> Iterator[Attachment]:
        """One sampling run of a model without a pipeline: calls of the model inside are its steps.

        A step is one call. Calls with other texts in turns (guidance in two calls), or several of one
        timestep, are streams of their own; what else a loop calls in turns it says by `generation`.

        Args:
            timesteps: ``(T,)`` one per step, in the order of the steps.
            num_steps: Number of steps, where the timesteps are not known. Policies that need it say so.
            sigmas: ``(T,)`` noise levels, as the loop counts them, for policies that want them.
            log_snr: ``(T,)`` log(alpha / sigma) where the model is given alpha x + sigma noise, likewise.
            groups: Which rows are one sample: ``(R,)`` labels, or the number of samples, B, if row r belongs
                to sample r mod B (guidance by concatenation). None: every row is a sample.
            stream: A name for the report, where several runs make up one sampling.

        Raises:
            ContractError: A run is under way, or the model was compiled or wrapped since it was attached.
            OptionError: What is said of the steps is out of range, or contradicts itself.
        """
        schedule = Schedule(timesteps=timesteps, num_steps=num_steps, sigmas=sigmas, log_snr=log_snr)
        with self._sampling(Generation(schedule=schedule, groups=groups, stream=stream, steps_by_itself=True)):
            yield self

    @contextlib.contextmanager
    def generation(
        self, *, timesteps: Numbers = None, num_steps: int | None = None, sigmas: Numbers = None, log_snr: Numbers = None, by_itself: bool = False
    ) -> Iterator[Generation]:
        """One sampling by a loop that knows whose each call is: several in a step, each a stream with a history.

        >>> with attached.generation(timesteps=times) as generation:  # doctest: +SKIP
        ...     for time in times:
        ...         generation.step()  # before each evaluation
        ...         with generation.call(stream="cond"):
        ...             cond = model(x, time, prompt)
        ...         with generation.call(stream="uncond"):
        ...             uncond = model(x, time, empty)

        Args:
            timesteps: As of `run`; and so are the errors.
            num_steps: As of `run`.
            sigmas: As of `run`.
            log_snr: As of `run`.
            by_itself: Calls begin steps by themselves, as in `run`, and nobody calls ``step()``.
        """
        schedule = Schedule(timesteps=timesteps, num_steps=num_steps, sigmas=sigmas, log_snr=log_snr)
        with self._sampling(Generation(schedule=schedule, steps_by_itself=by_itself, alone=False)) as generation:
            yield generation

    @contextlib.contextmanager
    def _sampling(self, generation: Generation) -> Iterator[Generation]:
        if self._loop is not None:
            raise ContractError("this is attached to a pipeline, whose calls are its runs; just call the pipeline")
        self._refuse_detached()
        if self._generation is not None:
            raise ContractError("a run is under way already; end it before the next")
        self._run = generation.number = self._run + 1
        self._begin()
        self._generation, self._thread = generation, threading.get_ident()
        try:
            yield generation
        finally:
            self._generation = None
            generation.forget()
            self._driver.finish()

    @property
    def findings(self) -> Findings:
        """What was found out about the models so far, for `attach` on the same ones later; as `model`."""
        self._refuse_detached()
        return self._driver.findings

    @property
    def inert(self) -> list[str]:
        """Which calls are always computed, and why."""
        return self._driver.inert

    def _refuse_detached(self) -> None:
        if self._detached:
            raise ContractError("this attachment is detached; attach anew")

    @property
    def reports(self) -> dict[str, Report]:
        """The account of the run under way, or of the last one: of each stream, by its name. Empty before."""
        if self._loop is not None and not self._detached:
            self._loop.settle()
        reports = self._driver.reports
        outside = [f"{self._outside} calls came outside of a run and were computed"] if self._outside else []
        notes = [*self.inert, *self._bystanders.notes(), *outside]
        if len(reports) > 1:
            notes.append(f"{FIRST_OF} {len(reports)} streams; attached.reports has {', '.join(list(reports)[1:])} too")
        for name in list(reports)[:1] if notes else ():
            reports[name] = attrs.evolve(reports[name], warnings=(*reports[name].warnings, *notes))
        return reports

    @property
    def report(self) -> Report:
        """The account of the run under way, or of the last one; of its first stream, where it has several.
        Raises `ContractError` where nothing has run yet, or nothing that could be driven.
        """
        if reports := self.reports:
            return next(iter(reports.values()))
        raise ContractError("; ".join(("nothing has run yet: call the pipeline, or a model inside `with attached.run(timesteps=...):`", *self.inert)))

    def _reachable(self) -> None:
        for root, (name, wire) in zip(self._roots, self._wires.items(), strict=True):
            refuse_unreachable(self._pipeline, name, wire.model, intact=root.intact and wire.intact)

    def _ended(self) -> None:
        self._bystanders.ended()
        self._driver.finish()

    def _begin(self) -> None:
        self._reachable()
        for wire in self._wires.values():
            refuse(wire.model, attached=True)
        self._driver.begin()
        self._bystanders.begin()
        self._outside = 0

    def _called(self, name: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        model = self._wires[name].model
        generation = self._under_way()
        if generation is None:
            self._outside += 1
            return inner(*args, **kwargs)
        refuse_cache(model)
        named = self._contexts[name].name or ("" if self._loop is None else self._loop.guiders.name)
        place = generation.place(model, args, kwargs, named=named)
        self._bystanders.last = place.step
        self._evaluating += 1
        try:
            return alone(self._driver.evaluate(name, generation, place, Call(inner, args, kwargs)))
        finally:
            self._evaluating -= 1
            if self._leaving:
                self.detach()

    def _under_way(self) -> Generation | None:
        generation = self._generation if self._loop is None else self._loop.under_way()
        if generation is not None and generation.number != self._run:
            self._run = generation.number
            self._begin()
        return generation

    def _step_under_way(self, module: nn.Module) -> int | None:
        """A bystander is called. One of the kind of the denoisers begins a step as they do."""
        like = any(type(module) is type(wire.model) for wire in self._wires.values())
        generation = self._under_way() if like or self._loop is None else self._loop.generation
        return None if generation is None or generation.index < 0 else generation.index
