"""A request in a batch, and what it wants evaluated."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import attrs
from torch import nn

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
        rows: Rows of the call.

    Attributes:
        future: What comes of it.
        visit: What it wants next; None before it has begun and when it has ended.
    """

    def __init__(self, request: Request, place: Place, visits: Visits[Any]) -> None:
        self.request, self.place, self._visits = request, place, visits
        self.future: Future[Any] = Future()
        self.visit: Visit | Plain | None = None

    def go_on(self, came: Any = None) -> bool:
        """Go on to the next visit, or to the end. Returns whether there is another.

        Args:
            came: Of the last visit: what the model returned, or the exception that ended it.
        """
        try:
            self.visit = self._visits.throw(came) if isinstance(came, BaseException) else self._visits.send(came)
        except StopIteration as end:
            self._end(result=end.value)
        except Exception as error:
            self._end(error=error)
        except BaseException as error:
            self._end(error=error)
            raise
        return self.visit is not None

    def make_alone(self) -> None:
        """Make all its visits, with nobody beside."""
        try:
            self._end(result=alone(self._visits))
        except BaseException as error:
            self._end(error=error)

    def give_up(self, error: BaseException) -> None:
        """End it by an exception, unless it has ended."""
        if not self.future.done():
            self._visits.close()
            self._end(error=error)

    def _end(self, *, result: Any = None, error: BaseException | None = None) -> None:
        self.visit = None
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Request:
    """A request that takes part in a `foreseer.adapters.batching.Batch`. Made by its ``join``.

    Call it as you would call the model: it returns a `concurrent.futures.Future` of what the model returns.
    Calls with other texts in turns (guidance in two calls) are streams of their own, and both may wait for one
    tick. ``request.stream("cond")`` names one.

    Attributes:
        name: As it was given.
        left: Whether it has left.
        slow: Whether it is evaluated in a thread of its own, since its policy took long.
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
        self.name, self.left, self.slow = name, False, False
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

    @property
    def model(self) -> StandIn:
        """What stands for the model in code that calls it and waits: a pipeline in a thread of its own."""
        return StandIn(self, self._model)

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *raised: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End it: what it wants is cancelled, and its features are let go, at once or when the tick under way
        has ended. A second time does nothing. The reports stay.
        """
        with self._lock:
            self.left = True
            for evaluation in self._waiting:
                evaluation.future.cancel()
            self._waiting.clear()
            ended = not self._under_way
        if ended:
            self._finish()

    @property
    def reports(self) -> Mapping[str, Report]:
        """The account of each stream so far, by its name."""
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
    def asking(self) -> bool:
        """Whether it wants something that no tick has taken."""
        return bool(self._waiting)

    @property
    def expected(self) -> bool:
        """Whether it will want something soon, as far as anybody knows: it did before."""
        return self._begun and not self.slow and not self.left

    def note(self, sentence: str) -> None:
        """Add a note to its report, once."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    def takes(self, evaluation: Evaluation) -> bool | None:
        """Begin an evaluation. Returns whether it has begun: False where it is not its turn, since what is under
        way belongs to another step or is of the same stream; None where it was cancelled.
        """
        with self._lock:
            if evaluation not in self._waiting or evaluation.future.cancelled():
                self._waiting = [other for other in self._waiting if other is not evaluation]
                return None
            place = evaluation.place
            same = all(other.place.step == place.step and other.place.stream != place.stream for other in self._under_way)
            if self._waiting[0] is not evaluation or not same or (self.slow and self._under_way):
                return False
            self._waiting.remove(evaluation)
            if not evaluation.future.set_running_or_notify_cancel():
                return None
            self._under_way.append(evaluation)
            if not self._begun:
                self._begun = True
                self._driver.begin()
            return True

    def paused(self, patience: float) -> None:
        """What was under way has ended. A policy that took longer than ``patience`` seconds is slow."""
        with self._lock:
            before, self._spent = self._spent, self._driver.policy_seconds
            slow = self._spent - before > patience
            self._under_way = [evaluation for evaluation in self._under_way if not evaluation.future.done()]
            self._share()
            if slow and not self.slow:
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
            call = Call(self._model, args, kwargs)
            evaluation = Evaluation(self, place, self._driver.evaluate("model", self._generation, place, call))
            self._waiting.append(evaluation)
        self._ask(evaluation)
        return evaluation.future

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        with contextlib.ExitStack() as ending:
            ending.callback(self._let_go, self)
            ending.callback(self._generation.forget)
            self._driver.finish()


class StandIn:
    """Is called in the place of a request's model, and returns what the batch makes of it. What else there is of
    the model is the model's.
    """

    def __init__(self, request: Request, model: nn.Module) -> None:
        self._request, self._model, self._stream = request, model, ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, and wait."""
        return self._request.stream(self._stream)(*args, **kwargs).result()

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
