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
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from foreseer.adapters.driver import Driver
from foreseer.adapters.findings import Learnt
from foreseer.adapters.generation import Generation
from foreseer.adapters.passes_together import Together
from foreseer.adapters.refusals import mark, refuse, unmark
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
    for the first time the result is compared with each alone; where it differs, each goes on being made alone,
    and the report says so. A request that raises, is cancelled or leaves takes nothing from the others.

    `join` and the requests may be used in any thread; `tick` makes one tick at a time. Gradients are off in it.

    Args:
        model: The denoiser, as `foreseer.attach` takes it.
        max_rows: Most rows in one call of the model; None for no limit.
        linger: Seconds that a tick waits for requests that are between two evaluations; 0 takes what is there.
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
        self._max_rows, self._linger, self._patience = max_rows, linger, patience
        self._together = Together(self._wires, max_rows)
        self._learnt = Learnt()
        self._requests: dict[int, Request] = {}
        self._asked: deque[Evaluation] = deque()
        self._news = threading.Condition()
        self._ticking = threading.Lock()
        self._elsewhere: ThreadPoolExecutor | None = None
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
        """End every request, and put the model back as it was, bit for bit. Waits for the tick under way."""
        for request in self.requests:
            request.leave()
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._elsewhere is not None:
            self._elsewhere.shutdown()
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
            name: For its report.
            observers: Plugins that watch it, or names of installed ones.
            on_error: As in `foreseer.attach`.
            storage: As in `foreseer.attach`.
            **options: The policy's own.

        Raises:
            PluginError, OptionError: The policy, or an argument, is wrong.
            ContractError: The batch is closed.
        """
        if on_error not in ("raise", "compute"):
            raise OptionError(f"on_error={on_error!r} is unknown; write 'raise' or 'compute'")
        if storage is not None and not isinstance(storage, Storage):
            raise OptionError(f"storage={storage!r} is a {type(storage).__name__}; write foreseer.Storage(dtype=..., device=..., max_bytes=...), or None")
        spec = named(policy, **options)
        policy_hooks(spec.look())
        watchers = build_observers(observers)
        observer_hooks(watchers)
        schedule = Schedule(timesteps=timesteps, num_steps=num_steps, sigmas=sigmas, log_snr=log_snr)
        generation = Generation(schedule=schedule, groups=groups, stream=name, steps_by_itself=True, alone=False)
        with self._news:
            if self._closed:
                raise ContractError("this batch is closed; make another")
            streams = Streams({MODEL: self._wires}, spec, observers=watchers, on_error=on_error, storage=storage, follow_first=False, shared=self._learnt)
            driver = Driver({MODEL: self._wires}, streams, scheduler=str, process_group=None, last_block_over_budget=False, copies=None)
            request = Request(name, self._wires.model, generation, driver, streams.share, self._ask, self._let_go)
            self._requests[id(request)] = request
        return request

    def tick(self, wait: float = 0.0) -> int:
        """Evaluate what the requests want: of each the next evaluation, and those of its other streams in the
        same step. Returns how many evaluations there were.

        Args:
            wait: Seconds to wait for the first, where nobody wants anything.
        """
        with self._ticking, torch.no_grad():
            taken = self._take(wait)
            try:
                self._together.evaluate(taken)
            except BaseException as error:  # who stops the tick stops what was under way in it
                for evaluation in taken:
                    evaluation.give_up(error)
                raise
            finally:
                for evaluation in taken:
                    evaluation.request.paused(self._patience)
                with self._news:
                    self._news.notify_all()
            return len(taken)

    def _ask(self, evaluation: Evaluation) -> None:
        with self._news:
            if self._closed:
                raise ContractError("this batch is closed; make another")
            self._asked.append(evaluation)
            self._news.notify_all()

    def _let_go(self, request: Request) -> None:
        with self._news:
            if self._requests.pop(id(request), None) is not None:
                self._asked = deque(asked for asked in self._asked if asked.request is not request)
                self._news.notify_all()

    def _take(self, wait: float) -> list[Evaluation]:
        """Take what is evaluated in this tick."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._asked, wait)
            begun = [request for request in self._requests.values() if request.expected]
            if self._asked:
                self._news.wait_for(lambda: self._closed or all(request.asking or request.left for request in begun), self._linger)
            taken: list[Evaluation] = []
            left: deque[Evaluation] = deque()
            for asked in self._asked:
                taking = asked.request.takes(asked)
                if taking is False:
                    left.append(asked)
                elif taking and asked.request.slow:
                    self._evaluate_elsewhere(asked)
                elif taking:
                    taken.append(asked)
            self._asked = left
            return taken

    def _evaluate_elsewhere(self, evaluation: Evaluation) -> None:
        if self._elsewhere is None:
            self._elsewhere = ThreadPoolExecutor(thread_name_prefix="foreseer-slow")

        def evaluate() -> None:
            with torch.no_grad():
                evaluation.make_alone()
            evaluation.request.paused(self._patience)
            with self._news:
                self._news.notify_all()

        self._elsewhere.submit(evaluate)
