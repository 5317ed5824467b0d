"""Requests of a serving engine: one generation and one account each. What foreseer cannot do is computed in
full, and the log says why: no request fails for its sake.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from foreseer.adapters._attach import attach
from foreseer.adapters.attachment import Attachment
from foreseer.adapters.calls import Interception, intercept
from foreseer.adapters.generation import Generation
from foreseer.adapters.streams import FIRST_OF
from foreseer.declared import Numbers
from foreseer.errors import ContractError, ForeseerError, OptionError
from foreseer.plugins import policy_hooks
from foreseer.registry import policy as named
from foreseer.report import Report

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Request", "Requests", "Served", "deciding_together"]

TOGETHER = "two requests were under way at once, and their calls cannot be told apart; let requests wait for one another"
MOST_NOTES = 64
"""How many different notes a worker logs: those with figures in them differ from request to request."""


@attrs.frozen(eq=False)
class Served:
    """What became of a request. Its text is one line, for a log.

    Attributes:
        name: Whose request it was.
        reports: Of each stream, by its name; empty where nothing was driven.
        refused: Why the request, or the rest of it, was computed in full; empty where it was not.
        ended: Type of the exception that ended it; empty where none did.
    """

    name: str
    reports: Mapping[str, Report]
    refused: str = ""
    ended: str = ""

    def __str__(self) -> str:
        told = [f"{stream} {_told(report)}" for stream, report in self.reports.items()]
        told += [f"{'the rest was ' if self.reports else ''}computed in full: {self.refused}"] if self.refused else []
        told += [f"ended by {self.ended}"] if self.ended else []
        return f"request {self.name}: {'; '.join(told) or 'no model was called'}"


def _told(report: Report) -> str:
    made = len(report.outcomes)
    return f"{report.steps_computed:g} of {made} steps computed, {report.block_rows_ratio:.0%} of the blocks" if made else "made no step"


class Request:
    """A request under way, as the engine's code sees it. Made by `Requests.serve`.

    Attributes:
        name: Whose it is.
        refused: Why it is computed in full from here on; empty where it is not.
    """

    def __init__(self, name: str) -> None:
        self.name, self.refused = name, ""
        self._attached: Attachment | None = None
        self._generation: Generation | None = None

    def step(self) -> None:
        """Begin the next step: call it before each evaluation, unless steps begin by themselves."""
        if self._generation is not None:
            self._generation.step()

    def call(self, stream: str = "", *, groups: Sequence[int] | int | None = None) -> contextlib.AbstractContextManager[None]:
        """Say whose the calls of the models inside are.

        Args:
            stream: A name that is the same in every step (``"cond"``); empty to tell it by text or place.
            groups: Which rows are one sample, as in `foreseer.Attachment.run`; None: each row is one.
        """
        return contextlib.nullcontext() if self._generation is None else self._generation.call(stream=stream, groups=groups)

    def give_up(self, why: str) -> None:
        """Compute the rest in full: the policy is taken off the models. What was reported so far stays."""
        self.refused = self.refused or why
        self._generation = None
        if self._attached is not None:
            self._attached.detach()

    def reports(self) -> Mapping[str, Report]:
        """The account of each stream so far, by its name."""
        return {} if self._attached is None else self._attached.reports

    def begun(self, attached: Attachment, generation: Generation) -> None:
        """It is driven from here on."""
        self._attached, self._generation = attached, generation


class Requests:
    """The requests of a worker, one after another, under one policy.

    The policy stays attached from one request to the next, so that what was found out about the models is
    found out once. It is taken off for a request that is refused. Where foreseer raises in a call of a model,
    that call is made again without it, and the rest of the request is computed.

    Args:
        policy: As `foreseer.attach` takes it.
        keep: How many accounts are kept in ``served``, the newest last. None holds a model.
        folder: Where the report of each stream is written, as ``REQUEST-STREAM.json``; None writes none.
        log: Where the account of each request goes, in one line, and what a report notes, the first time.
        **options: The policy's own options.

    Attributes:
        spec: The policy.
        served: The last accounts.

    Raises:
        PluginError, OptionError: The policy or an option of it is not there or out of range, as of
            `foreseer.attach`. Make it when the worker starts, so that it says so then.
    """

    def __init__(self, policy: Any, *, keep: int = 16, folder: str | Path | None = None, log: logging.Logger, **options: Any) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise OptionError(f"keep={keep!r} is out of range; write a whole number >= 1")
        self.spec = named(policy, **options)
        policy_hooks(self.spec.look())
        self.served: deque[Served] = deque(maxlen=keep)
        self._folder, self._log = None if folder is None else Path(folder), log
        self._numbers, self._noted = itertools.count(1), set[str]()
        self._attached: Attachment | None = None
        self._models: dict[str, nn.Module] = {}
        self._guards: list[Interception] = []
        self._group: Any = None
        self._under_way: list[Request] = []

    @contextlib.contextmanager
    def serve(
        self,
        models: Mapping[str, nn.Module],
        *,
        name: str = "",
        refused: str = "",
        process_group: ProcessGroup | None = None,
        timesteps: Numbers = None,
        num_steps: int | None = None,
        by_itself: bool = False,
    ) -> Iterator[Request]:
        """Serve one request: its calls of the models are inside. Nothing of it is left behind, however it ends.

        Args:
            models: The denoisers by their names; the names stand in reports where there are several.
            name: Whose request it is; empty numbers it.
            refused: Why it is to be computed in full; empty to drive it.
            process_group: The processes that decide alike, as of `foreseer.attach`; None: this one alone.
            timesteps: ``(T,)`` one per step.
            num_steps: Number of steps, where the timesteps are not known.
            by_itself: As in `foreseer.Attachment.generation`.
        """
        request, other, ended = Request(name or str(next(self._numbers))), self._now, ""
        self._under_way.append(request)
        if other is not None:
            other.give_up(TOGETHER)
        with contextlib.ExitStack() as ending:
            try:
                if refused or other is not None:
                    self.detach()
                    request.give_up(refused or TOGETHER)
                else:
                    self._begin(request, ending, models, process_group, timesteps=timesteps, num_steps=num_steps, by_itself=by_itself)
                yield request
            except BaseException as error:
                ended = type(error).__name__
                raise
            finally:
                self._under_way.remove(request)
                ending.close()
                self.account(request.name, request.reports(), refused=request.refused or _inert(request, self._attached), ended=ended)
                if request.refused:
                    self.detach()

    @property
    def _now(self) -> Request | None:
        return self._under_way[-1] if self._under_way else None

    def attach(self, models: Mapping[str, nn.Module], process_group: ProcessGroup | None = None) -> Attachment:
        """Attach the policy to models, or keep it there.

        Raises:
            ForeseerError: As `foreseer.attach`.
        """
        same = self._models.keys() == models.keys() and all(self._models[name] is model for name, model in models.items())
        if self._attached is None or not same or process_group is not self._group:
            self.detach()
            self._attached = attach(dict(models), self.spec, on_error="compute", process_group=process_group)
            self._models, self._group = dict(models), process_group
            self._guards = [intercept(model, functools.partial(self._guard, model)) for model in models.values()]
        return self._attached

    def _guard(self, model: nn.Module, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return inner(*args, **kwargs)
        except ForeseerError as error:
            if self._now is None or self._now.refused:
                raise
            self._now.give_up(str(error))
        return model(*args, **kwargs)

    def detach(self) -> None:
        """Take the policy off: the models are bit for bit what they were."""
        attached, self._attached, self._models = self._attached, None, {}
        while self._guards:
            self._guards.pop().restore()
        if attached is not None:
            attached.detach()

    def account(self, name: str, reports: Mapping[str, Report], *, refused: str = "", ended: str = "") -> None:
        """Keep the account of a request, and log it. An empty name numbers it."""
        served = Served(name := name or str(next(self._numbers)), reports, refused, ended)
        self.served.append(served)
        self._log.log(logging.WARNING if refused else logging.INFO, "foreseer: %s%s", _rank(": "), served)
        for note in itertools.chain.from_iterable(report.warnings for report in reports.values()):
            if note not in self._noted and len(self._noted) < MOST_NOTES and not note.startswith(FIRST_OF):
                self._noted.add(note)
                self._log.info("foreseer: request %s: %s", served.name, note)
        for stream, report in reports.items() if self._folder is not None else ():
            file = Path(self._folder or "") / (re.sub(r"[^\w.-]+", "_", f"{name}-{stream}{_rank('', '-')}") + ".json")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                report.to_json(file)
            except OSError as error:
                self._log.warning("foreseer: the report of request %s was not written: %s", name, error)

    def _begin(self, request: Request, ending: contextlib.ExitStack, models: Mapping[str, nn.Module], group: Any, **steps: Any) -> None:
        try:
            kept, attached = self._attached, self.attach(models, group)
            try:
                generation = ending.enter_context(attached.generation(**steps))
            except ContractError:
                if attached is not kept:
                    raise
                self.detach()  # the engine has compiled or wrapped the models since
                attached = self.attach(models, group)
                generation = ending.enter_context(attached.generation(**steps))
            request.begun(attached, generation)
        except ForeseerError as error:
            self.detach()
            request.give_up(str(error))


def deciding_together(groups: Callable[[], Iterable[Any]]) -> tuple[ProcessGroup | None, str]:
    """Find the processes that must decide alike, since they share each sample.

    Args:
        groups: Asks the engine for its groups of sequence and tensor parallelism, with ``world_size`` and
            ``device_group`` (as the coordinators of SGLang and vLLM-Omni have). Not called in a single process.

    Returns:
        Their group, None where this process decides for itself; and why requests must be computed in full,
        empty where they need not be.
    """
    if not _several():
        return None, ""
    try:
        found = [group.device_group for group in groups() if group.world_size > 1]
    except (ImportError, AttributeError, AssertionError) as error:
        return None, f"which processes share a sample is not known ({error})"
    if len(found) > 1:
        return None, "sequence and tensor parallelism are both on, and a vote knows one group; use one of them"
    return next(iter(found), None), ""


def _inert(request: Request, attached: Attachment | None) -> str:
    """Why none of the calls of a request that was not refused could be driven; empty where some were."""
    return "" if request.reports() or attached is None else "; ".join(attached.inert)


def _rank(after: str, before: str = "") -> str:
    """Which of several processes this is; empty where there is one."""
    return f"{before}rank {torch.distributed.get_rank()}{after}" if _several() else ""


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
