"""Who carries out what there is to draw: this process, or workers on other machines.

Whoever sweeps (a benchmark, a search, a recording) decides what comes next, and is handed what came of it;
where that is drawn is the business of its hands. `Here` is the own process; `foreseer.bench.ray_hands.RayHands`
are workers of a Ray cluster. Work is pulled: hands ask for the next call when one of their places is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs

from foreseer.bench.source import Drawing, loaded
from foreseer.bench.workload import Workload

if TYPE_CHECKING:
    from foreseer.bench.ray_settings import RaySettings

__all__ = ["Call", "Came", "Hands", "Here", "Take", "hands_for"]

R = TypeVar("R")


@attrs.frozen(eq=False, kw_only=True)
class Call:
    """Something to be carried out at one place.

    Attributes:
        about: Whose it is, for who asked.
        do: ``do(desk, *shared) -> what came of it``; what it refers to must be picklable, but for this process.
        what: In a few words, for messages.
        shared: What `Hands.share` returned.
    """

    about: Any
    do: Callable[..., Any] = attrs.field(repr=False)
    what: str = ""
    shared: tuple[Any, ...] = attrs.field(default=(), repr=False)


@attrs.frozen(eq=False, kw_only=True)
class Came:
    """What came of a call.

    Attributes:
        call: The call.
        value: What it returned; None where it raised.
        error: What it raised; None where it did not.
        where: The machine that did it, in words; empty for this process.
    """

    call: Call
    value: Any = attrs.field(default=None, repr=False)
    error: Exception | None = None
    where: Mapping[str, str] = attrs.field(factory=dict)


Take = Callable[[int], Call | None]
"""``take(place) -> the next call for this place``; None where there is none now. What came of other calls may
bring more.
"""


class Hands(Protocol):
    """Carry out calls on a desk: what each place makes of its own workload."""

    @property
    def elsewhere(self) -> bool:
        """Whether calls are carried out in other processes, each with a workload of its own."""

    @property
    def places(self) -> int:
        """How many calls are carried out at once, as far as is known: at least 1."""

    def look(self, ask: Callable[[Workload], R]) -> R:
        """Return what is to be known of the workload. Raises whatever that raises."""

    def open(self, make: Callable[[Workload], Any]) -> None:
        """Make of each place's workload what calls are carried out on."""

    def ask(self, do: Callable[[Any], R]) -> R:
        """Carry out one call, anywhere. Raises whatever that raises."""

    def share(self, value: Any) -> Any:
        """Return what stands for a value in `Call.shared`, where many calls want it."""

    def carry_out(self, take: Take) -> Iterator[Came]:
        """Carry out calls until there are none, and yield what came of each as it comes. An exception is
        yielded; an interruption is raised, and what is under way is then lost.
        """


class Here:
    """The own process: one call after the other.

    Args:
        workload: What draws.
    """

    elsewhere, places = False, 1

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._desk: Any = None

    def look(self, ask: Callable[[Workload], R]) -> R:
        """See `Hands`."""
        return ask(self._workload)

    def open(self, make: Callable[[Workload], Any]) -> None:
        """See `Hands`."""
        self._desk = make(self._workload)

    def ask(self, do: Callable[[Any], R]) -> R:
        """See `Hands`."""
        return do(self._desk)

    def share(self, value: Any) -> Any:
        """See `Hands`."""
        return value

    def carry_out(self, take: Take) -> Iterator[Came]:
        """See `Hands`."""
        while (call := take(0)) is not None:
            try:
                came = Came(call=call, value=call.do(self._desk, *call.shared))
            except Exception as error:
                came = Came(call=call, error=error)
            yield came


def hands_for(
    drawing: Drawing,
    ray: RaySettings | None,
    *,
    threads: int | None = None,
    like: Mapping[str, str] | None = None,
) -> AbstractContextManager[Hands]:
    """Return who draws: this process, with the workload loaded, or with settings of a cluster its workers.

    Args:
        drawing: Where samples come from.
        ray: Which cluster, and what each worker takes of it; None for this process.
        threads: Of the CPU, of each worker; None for as many as it takes CPUs, or as this
            process has.
        like: Machine of the results that are gone on with, see `foreseer.bench.machine.machine`; None for none.

    Raises:
        OptionError, PluginError and others: See the loaders, and `foreseer.bench.ray_hands.RayHands`.
        ImportError: Ray is not installed.
    """
    if ray is None or ray.ray is None:
        return nullcontext(Here(loaded(drawing)))
    from foreseer.bench.ray_hands import RayHands

    return RayHands(drawing, ray, threads=threads, like=like)
