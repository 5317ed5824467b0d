"""A request in a batch, and what it wants evaluated."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import attrs
from torch import nn

from foreseer.adapters.arguments import UnderAutocast
from foreseer.adapters.calls import Call
from foreseer.adapters.driver import Driver
from foreseer.adapters.generation import Generation, Place
from foreseer.adapters.visits import Plain, Visit, Visits, alone
from foreseer.errors import ContractError
from foreseer.report import Report

__all__ = ["Evaluation", "Request", "StandIn"]


class Evaluation:
    """One evaluation that a request wants: how far it is.

    Args:
        request: Whose it is.
        place: Where in its generation.
        visits: What carries it out.

    Attributes:
        future: What comes of it, once it was answered.
        visit: What it wants next; None before it has begun and when it has ended.
        ended: Whether it has come to its end.
    """

    def __init__(self, request: Request, place: Place, visits: Visits[Any]) -> None:
        self.request, self.place, self._visits = request, place, visits
        self.future: Future[Any] = Future()
        self.visit: Visit | Plain | None = None
        self.ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def go_on(self, came: Any = None) -> bool:
        """Go on to the next visit, or to the end. Returns whether there is another.

        Args:
            came: Of the last visit: what the model returned, or the exception that ended it.
        """
        try:
            self.visit = self._visits.throw(came) if isinstance(came, BaseException) else self._visits.send(came)
        except StopIteration as end:
            self._end(end.value)
        except Exception as error:
            self.give_up(error)
        return self.visit is not None

    def make_alone(self) -> None:
        """Make all its visits, with nobody beside."""
        try:
            self._end(alone(self._visits))
        except BaseException as error:
            self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """End it by an exception, unless it has ended."""
        if not self.ended:
            self._visits.close()
            self._error = error
            self._end(None)

    def answer(self) -> None:
        """Tell who waits what has come of it. Their callbacks run here."""
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._error)

    def _end(self, result: Any) -> None:
        self.visit, self._result, self.ended = None, result, True


class Request:
    """A request that takes part in a `foreseer.adapters.batching.Batch`. Made by its ``join``.

    Call it as you would call the model: it returns a `concurrent.futures.Future` of what the model returns.
    Calls with other texts in turns (guidance in two calls) are streams of their own, and both may wait for one
    tick. ``request.stream("cond")`` names one. The autocast of who calls holds for the call.

    Attributes:
        name: As it was given.
        model: What stands for the model in code that calls it and waits: a pipeline in a thread of its own,
            while another thread ticks.
        left: Whether it has left.
        slow: Whether it is evaluated in a thread of its own, since its policy took long.
        missed: Whether a tick waited for it in vain since it last wanted something.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        generation: Generation,
        driver: Driver,
        share: Callable[[], None],
        ask: Callable[[Evaluation], None],
        let_go: Callable[[Request], None],
    ) -> None:
        self.name, self.left, self.slow, self.missed = name, False, False, True
        self.model = StandIn(self, model)
        self._model, self._generation, self._driver, self._share, self._ask, self._let_go = model, generation, driver, share, ask, let_go
        self._lock = threading.RLock()
        self._waiting: list[Evaluation] = []
        self._under_way: list[Evaluation] = []
        self._begun = self._finished = False
        self._spent = 0.0
        self._notes: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Want the model evaluated with these arguments. Returns what comes of it, in time."""
        return self._want("", args, kwargs)

    def stream(self, name: str) -> Callable[..., Future[Any]]:
        """Return what is called for one stream, by a name that is the same in every step (``"cond"``)."""
        return lambda *args, **kwargs: self._want(name, args, kwargs)

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *raised: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End it: what it wants is cancelled, and its features are let go, at once or when the tick under way
        has ended. A second time does nothing. The reports stay.
        """
        with self._lock:
            self.left, waiting, self._waiting = True, self._waiting, []
            ended = not self._under_way
        for evaluation in waiting:  # outside of the lock: callbacks of clients run here
            evaluation.future.cancel()
            evaluation.future.set_running_or_notify_cancel()
        if ended:
            self._finish()

    @property
    def reports(self) -> Mapping[str, Report]:
        """The account of each stream so far, by its name."""
        with self._lock:
            found = self._driver.reports
            notes = [*self._driver.inert, *self._notes]
        for stream in list(found)[:1] if notes else ():
            found[stream] = attrs.evolve(found[stream], warnings=(*found[stream].warnings, *notes))
        return found

    @property
    def report(self) -> Report:
        """The account so far; of the first stream, where there are several. Raises `ContractError` before the
        first evaluation.
        """
        if found := self.reports:
            return next(iter(found.values()))
        raise ContractError("; ".join(("nothing was evaluated for this request yet", *self._driver.inert)))

    @property
    def awaited(self) -> bool:
        """Whether it will want something soon, as far as anybody knows, and does not yet."""
        return not (self.slow or self.left or self.missed or self._waiting or self._under_way)

    def note(self, sentence: str) -> None:
        """Add a note to its report, once."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    def takes(self, evaluation: Evaluation) -> bool | None:
        """Begin an evaluation. Returns whether it has begun: False where it is not its turn, since what is under
        way belongs to another step or is of the same stream; None where it was cancelled.
        """
        with self._lock:
            if evaluation not in self._waiting:
                return None
            place, first = evaluation.place, self._waiting[0] is evaluation
            same = all(other.place.step == place.step and other.place.stream != place.stream for other in self._under_way)
            if not evaluation.future.cancelled() and (not first or not same or (self.slow and self._under_way)):
                return False
            self._waiting.remove(evaluation)
            if not evaluation.future.set_running_or_notify_cancel():
                return None
            self._under_way.append(evaluation)
            return True

    def paused(self, patience: float) -> None:
        """What was under way has ended. A policy that took longer than ``patience`` seconds is slow."""
        with self._lock:
            self._under_way = [evaluation for evaluation in self._under_way if not evaluation.ended]
            before, self._spent = self._spent, self._driver.policy_seconds
            self._share()
            if self._spent - before > patience and not self.slow:
                self.slow = True
                self.note("its policy took long, so that it was evaluated in a thread of its own")
            ended = self.left and not self._under_way
        if ended:
            self._finish()

    def _want(self, stream: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        with self._lock:
            if self.left:
                raise ContractError(f"request {self.name!r} has left its batch; let another join")
            with self._generation.call(stream=stream):
                place = self._generation.place(self._model, args, kwargs)
            evaluation = Evaluation(self, place, self._evaluated(place, Call(UnderAutocast(self._model), args, kwargs)))
            self._waiting.append(evaluation)
            steps = self._generation.schedule().num_steps
            self.missed = steps is not None and place.step == steps - 1  # after the last it is not waited for
        try:
            self._ask(evaluation)
        except ContractError:
            self._waiting.remove(evaluation)
            raise
        return evaluation.future

    def _evaluated(self, place: Place, call: Call) -> Visits[Any]:
        if not self._begun:
            self._begun = True
            self._driver.begin()
        return (yield from self._driver.evaluate("model", self._generation, place, call))

    def _finish(self) -> None:
        with self._lock:
            if self._finished:
                return
            self._finished = True
            with contextlib.ExitStack() as ending:
                ending.callback(self._generation.forget)
                self._driver.finish()
        self._let_go(self)


class StandIn:
    """Is called in the place of a request's model, and returns what the batch makes of it. What else there is of
    the model is the model's.
    """

    def __init__(self, request: Request, model: nn.Module) -> None:
        self._request, self._model, self._stream = request, model, ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, and wait."""
        return self._request.stream(self._stream)(*args, **kwargs).result()

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @contextlib.contextmanager
    def cache_context(self, name: str, *_: Any, **__: Any) -> Iterator[None]:
        """Say whose the calls inside are, as diffusers' models are told. What else they are told is for caches
        of diffusers, which are off.
        """
        before, self._stream = self._stream, name
        try:
            yield
        finally:
            self._stream = before
