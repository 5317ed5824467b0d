"""Requests at different steps, under different policies, in one batch of one model.

>>> with Batch(model, max_rows=32) as batch:  # doctest: +SKIP
...     request = batch.join("taylorseer:interval=3", timesteps=times)
...     output = request(x, times[0], prompt)  # what it wants evaluated: a Future
...     batch.tick()  # evaluates what all want, in at most two calls of the model
...     x = update(x, output.result())

A session asks for passes and a host for visits of its model. Here those of all requests are held, and made
together: first those that forecast, then those that compute, with the rows in them that were rejected.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from foreseer.adapters.driver import Driver
from foreseer.adapters.findings import Learnt
from foreseer.adapters.generation import Generation
from foreseer.adapters.passes_together import Together
from foreseer.adapters.refusals import mark, refuse, refuse_options, unmark
from foreseer.adapters.requests import Evaluation, Request
from foreseer.adapters.streams import Streams
from foreseer.adapters.wires import Wires
from foreseer.declared import Numbers, Schedule
from foreseer.errors import ContractError, OptionError
from foreseer.plugins import observer_hooks, policy_hooks
from foreseer.registry import build_observers
from foreseer.registry import policy as named
from foreseer.storage import Storage

__all__ = ["Batch"]

MODEL = "model"


class Batch:
    """A model that evaluates many requests at once. Use it as a context manager.

    Each request gets what it would get alone: bit for bit where the model's arithmetic does not depend on the
    batch, else as closely as the same row in another batch. Calls are joined where all but their rows is alike;
    those of other resolutions or lengths of prompt are calls of their own. Before calls of one kind are joined
    for the first time, one is put beside another with other rows, and held against itself alone; where it
    differs, each is made alone, and the report says so. A request that raises, is cancelled or leaves takes
    nothing from the others.

    `join` and the requests may be used in any thread; `tick` makes one tick at a time. Gradients are off in it.

    Args:
        model: The denoiser, as `foreseer.attach` takes it.
        max_rows: Most rows in one call of the model; None for no limit.
        linger: Seconds that a tick waits for requests that are between two evaluations; 0 takes what is there.
            Who was waited for in vain is not again, until it wants something.
        patience: Seconds that the hooks of a request's policy may take in a tick. One that takes longer is
            evaluated in a thread of its own from then on, and nobody waits for it.
        blocks: As in `foreseer.attach`.

    Attributes:
        calls: How often the model was called so far.

    Raises:
        OptionError: An argument is out of range.
        UnsupportedModelError: The model has no block list, or a cache of diffusers is enabled on it.
        ContractError: A policy is attached to it.
    """

    def __init__(self, model: nn.Module, *, max_rows: int | None = None, linger: float = 0.0, patience: float = 1.0, blocks: str | None = None) -> None:
        if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
            raise OptionError(f"max_rows={max_rows!r} is out of range; write a whole number >= 1, or None for no limit")
        for name, value in (("linger", linger), ("patience", patience)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise OptionError(f"{name}={value!r} is out of range; write a number of seconds >= 0")
        refuse(model)
        self._wires = Wires(model, blocks)
        self._linger, self._patience = linger, patience
        self._together = Together(self._wires, max_rows)
        self._learnt = Learnt()
        self._requests: dict[int, Request] = {}
        self._asked: deque[Evaluation] = deque()
        self._news = threading.Condition()
        self._ticking = threading.Lock()
        self._ticks: threading.Thread | None = None
        self._elsewhere: set[threading.Thread] = set()
        self._closed = False
        self._wires.several = True
        self._wires.install(self)
        mark(model, "by a Batch")

    @property
    def calls(self) -> int:
        """How often the model was called so far."""
        return self._together.calls

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that have joined and not left."""
        return tuple(self._requests.values())

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every request, and put the model back as it was, bit for bit. A second time does nothing. Waits
        for the tick under way, and for what is evaluated in threads of its own.

        Raises:
            ContractError: It is called from inside of a tick, by a policy or a model.
        """
        here = threading.current_thread()
        if here is self._ticks or here in self._elsewhere:
            raise ContractError("a batch cannot be closed from inside of its own tick; close it when the tick has ended")
        with self._news:
            self._closed = True
            self._news.notify_all()
        for request in self.requests:
            request.leave()
        for thread in tuple(self._elsewhere):
            thread.join()
        with self._ticking:
            self._wires.restore()
            unmark(self._wires.model)

    def join(
        self,
        policy: Any,
        /,
        *,
        timesteps: Numbers = None,
        num_steps: int | None = None,
        sigmas: Numbers = None,
        log_snr: Numbers = None,
        groups: Sequence[int] | int | None = None,
        name: str = "",
        observers: Sequence[object] = (),
        on_error: Literal["raise", "compute"] = "raise",
        storage: Storage | None = None,
        **options: Any,
    ) -> Request:
        """Let a request join, at any time. It holds features from its first evaluation until it leaves.

        Args:
            policy: Its policy, as `foreseer.attach` takes it.
            timesteps: ``(T,)`` one per step, in the order of the steps.
            num_steps: Number of steps, where the timesteps are not known.
            sigmas: ``(T,)`` noise levels, as its loop counts them.
            log_snr: ``(T,)`` log(alpha / sigma), likewise.
            groups: Which rows are one sample, as in `foreseer.Attachment.run`; None: every row is one.
            name: What to call it in errors.
            observers: Plugins that watch it, or names of installed ones.
            on_error: As in `foreseer.attach`.
            storage: As in `foreseer.attach`.
            **options: The policy's own.

        Raises:
            PluginError, OptionError: The policy, or an argument, is wrong.
            ContractError: The batch is closed.
        """
        refuse_options(on_error, storage)
        spec = named(policy, **options)
        policy_hooks(spec.look())
        watchers = build_observers(observers)
        observer_hooks(watchers)
        schedule = Schedule(timesteps=timesteps, num_steps=num_steps, sigmas=sigmas, log_snr=log_snr)
        generation = Generation(schedule=schedule, groups=groups, steps_by_itself=True, alone=False)
        with self._news:
            if self._closed:
                raise ContractError("this batch is closed; make another")
            streams = Streams({MODEL: self._wires}, spec, observers=watchers, on_error=on_error, storage=storage, follow_first=False, shared=self._learnt)
            last_block = storage is not None and storage.on_over_budget == "last_block"
            driver = Driver({MODEL: self._wires}, streams, scheduler=str, process_group=None, last_block_over_budget=last_block, copies=None)
            request = Request(name, self._wires.model, generation, driver, streams.share, self._ask, self._let_go)
            self._requests[id(request)] = request
        return request

    def tick(self, wait: float = 0.0) -> int:
        """Evaluate what the requests want: of each the next evaluation, and those of its other streams in the
        same step. Returns how many evaluations there were. Who waits for them is told at its end, in this
        thread.

        Args:
            wait: Seconds to wait for the first, where nobody wants anything.

        Raises:
            ContractError: The batch is closed, or this is called from inside of a tick.
        """
        if threading.current_thread() is self._ticks:
            raise ContractError("a tick cannot make another; tick again when it has ended")
        taken: list[Evaluation] = []
        try:
            with self._ticking, torch.no_grad():
                self._ticks = threading.current_thread()
                try:
                    self._take(wait, taken)
                    self._wires.looked = not self._wires.stale
                    self._together.evaluate(taken)
                except BaseException as error:  # who stops a tick stops what is under way in it
                    for evaluation in taken:
                        evaluation.give_up(error)
                    raise
                finally:
                    self._ticks, self._wires.looked = None, False
                    self._paused(taken)
        finally:
            for evaluation in taken:
                evaluation.answer()
        return len(taken)

    def _paused(self, evaluations: Sequence[Evaluation]) -> None:
        for request in dict.fromkeys(evaluation.request for evaluation in evaluations):
            request.paused(self._patience)
        with self._news:
            self._news.notify_all()

    def _ask(self, evaluation: Evaluation) -> None:
        with self._news:
            if self._closed:
                raise ContractError("this batch is closed; make another")
            self._asked.append(evaluation)
            self._news.notify_all()

    def _let_go(self, request: Request) -> None:
        with self._news:
            self._requests.pop(id(request), None)
            self._news.notify_all()

    def _take(self, wait: float, taken: list[Evaluation]) -> None:
        """Take what is evaluated in this tick."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._asked, wait)
            if self._closed:
                raise ContractError("this batch is closed; make another")
            if self._asked:
                self._news.wait_for(lambda: self._closed or not any(request.awaited for request in self._requests.values()), self._linger)
                for request in self._requests.values():
                    request.missed |= request.awaited
            for evaluation in tuple(self._asked):
                taking = evaluation.request.takes(evaluation)
                if taking is False:
                    continue
                self._asked.remove(evaluation)
                if taking and evaluation.request.slow:
                    self._evaluate_elsewhere(evaluation)
                elif taking:
                    taken.append(evaluation)

    def _evaluate_elsewhere(self, evaluation: Evaluation) -> None:
        def evaluate() -> None:
            with torch.no_grad():
                evaluation.make_alone()
            self._paused([evaluation])
            self._elsewhere.discard(threading.current_thread())
            evaluation.answer()

        thread = threading.Thread(target=evaluate, name="foreseer, a slow policy", daemon=True)
        self._elsewhere.add(thread)
        thread.start()
