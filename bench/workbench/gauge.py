"""What a policy costs on a workload's samples, and how near it stays to full computation of the same noise."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from foreseer.bench.hands import Call, Hands, Here
from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.bench.lanes import Sampler, as_many, split
from foreseer.bench.per_sample import Figures
from foreseer.document import plain, structured
from foreseer.presets import Measured
from foreseer.psnr import likeness_of
from foreseer.registry import PolicySpec
from foreseer.signature import Signature
from foreseer.types import Run
from foreseer.workbench.draws import Batch, Fewer, Full, Noises, NotFiniteError, draw_fewer, draw_full, draw_with

__all__ = ["Gauge", "NotFiniteError", "Reading"]

Drawing = Callable[[Sequence[int], Sampler, Tensor], object]
"""``draw(indices, sampler, images of full computation) -> what it came to``."""

FULL_DRAW = "full computation"


@attrs.frozen(kw_only=True)
class Reading:
    """What was measured of one policy, on the samples of the batches that were drawn so far.

    Attributes:
        figures: Of each sample.
        run: The run of the first batch's first stream.
        broken: How many samples are not finite.
        measured: What they come to, as a preset has it.
    """

    figures: Figures
    run: Run = attrs.field(repr=False)
    broken: int
    measured: Measured

    @property
    def seconds(self) -> float:
        """Wall-clock time of drawing the samples."""
        return sum(self.figures.seconds)


class Gauge:
    """Some samples of a workload. A batch is drawn when it is first needed, of full computation or with a
    policy, and what it came to is then kept.

    Args:
        sampler: Draws them; with hands, what their samplers have in common.
        first: Index of the first sample.
        samples: How many, from ``first`` on; or the indices of all.
        batch: How many are drawn together.
        among: Where indices are given: how many samples they were taken from at random, from ``first`` on.
        kept: Where draws are kept besides, for the next process; None for nowhere.
        hands: Who draws, opened with `foreseer.workbench.draws.sampler_of`; None for this process.
    """

    def __init__(
        self,
        sampler: Sampler | Noises,
        *,
        first: int = 0,
        samples: int | Sequence[int],
        batch: int,
        among: int | None = None,
        kept: KeptDraws | None = None,
        hands: Hands | None = None,
    ) -> None:
        self.indices = tuple(range(first, first + samples)) if isinstance(samples, int) else tuple(samples)
        self.batches = split(self.indices, batch)
        self._first, self._among, self._kept = first, among, kept
        if hands is None:
            assert isinstance(sampler, Sampler)
            hands, own = Here(sampler.workload), sampler
            hands.open(lambda workload: own)
        self._hands = hands
        self._noises = Noises.of(sampler) if isinstance(sampler, Sampler) else sampler
        self._full: dict[int, tuple[Tensor, float]] = {}
        self._shared: dict[int, Any] = {}
        self._facts: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._raised: dict[tuple[str, int], Exception] = {}

    @property
    def time(self) -> float:
        """Seconds of full computation for a sample, by the clock; NaN where none was needed yet."""
        drawn = sum(len(self.batches[number]) for number in self._full)
        return sum(clock for _, clock in self._full.values()) / drawn if drawn else math.nan

    def full(self, number: int) -> Tensor:
        """Return the images of full computation of a batch, drawn once.

        Raises:
            NotFiniteError: They are not finite.
        """
        if number not in self._full:
            self._put_full(number)
        return self._full[number][0]

    def _drawing_full(self, number: int) -> Callable[[Sampler], Full]:
        return functools.partial(draw_full, self.batches[number])

    def _put_full(self, number: int, came: Full | None = None) -> None:
        """Take what came of drawing a batch in full, or what is kept of it; None draws it where nothing is."""

        def draw() -> Draw:
            made = came or self._hands.ask(self._drawing_full(number))
            return Draw(tensors={"images": made.images}, facts={"seconds": made.seconds})

        drawn = self._draw(FULL_DRAW, number, draw)
        self._full[number] = drawn.tensors["images"], drawn.facts["seconds"]

    def _draw(self, what: str, number: int, make: Callable[[], Draw]) -> Draw:
        name = self._name(what, number)
        return make() if self._kept is None else self._kept.draw(name, make)

    def _name(self, what: str, number: int) -> str:
        return f"{what}, samples {'+'.join(map(str, self.batches[number]))}"

    def _found(self, what: str, number: int, do: Drawing) -> Mapping[str, Any]:
        """What a batch came to, measured where it is not known."""
        key = what, number
        if key in self._raised:
            raise self._raised.pop(key)
        if key not in self._facts:

            def made() -> object:
                full = self.full(number)  # first: what is drawn with the policy is then lost to no interruption
                return self._hands.ask(functools.partial(_carried_out, do, self.batches[number], full=full))

            self._facts[key] = self._draw(what, number, lambda: Draw(tensors={}, facts=plain(made()))).facts
        return self._facts[key]

    def ahead(self, wanted: Iterable[tuple[str, int, Drawing]]) -> None:
        """Have batches drawn by all hands at once, where they are elsewhere; what one raises is raised when it
        is asked for. In this process nothing is drawn before it is asked for.

        Args:
            wanted: What is drawn, the number of the batch, and who draws it.
        """
        if not self._hands.elsewhere:
            return
        lacking = {(what, number): do for what, number, do in wanted if self._lacks(what, number)}
        self._all_full(sorted({number for _, number in lacking}))
        left = list(lacking.items())

        def take(place: int) -> Call | None:
            if not left:
                return None
            key, do = left.pop(0)
            return Call(about=key, do=functools.partial(_carried_out, do, self.batches[key[1]]), what=key[0], shared=(self._share(key[1]),))

        for came in self._hands.carry_out(take):
            what, number = came.call.about
            if came.error is not None:
                self._raised[what, number] = came.error
            else:
                facts = plain(came.value)
                self._facts[what, number] = self._draw(what, number, functools.partial(Draw, tensors={}, facts=facts)).facts

    def _lacks(self, what: str, number: int) -> bool:
        key = what, number
        return key not in self._facts and key not in self._raised and not (self._kept is not None and self._kept.has(self._name(what, number)))

    def _all_full(self, numbers: Sequence[int]) -> None:
        left = [number for number in numbers if number not in self._full]
        there = [number for number in left if self._kept is not None and self._kept.has(self._name(FULL_DRAW, number))]
        left = [number for number in left if number not in there]
        for number in there:
            self.full(number)

        def take(place: int) -> Call | None:
            number = left.pop(0) if left else None
            return None if number is None else Call(about=number, do=self._drawing_full(number), what=FULL_DRAW)

        for came in self._hands.carry_out(take):
            if came.error is not None:
                raise came.error
            self._put_full(came.call.about, came.value)

    def _share(self, number: int) -> Any:
        if number not in self._shared:
            self._shared[number] = self._hands.share(self.full(number))
        return self._shared[number]

    def with_policy(self, spec: PolicySpec, numbers: Iterable[int]) -> list[tuple[str, int, Drawing]]:
        """Return what `ahead` wants to know, of batches with a policy; those that do not exist are left out."""
        return [(str(spec), number, functools.partial(draw_with, spec)) for number in numbers if number < len(self.batches)]

    def follow(self, spec: PolicySpec) -> Iterator[Reading]:
        """Draw the samples with a policy, batch by batch. Those that are broken, that is not finite, count as
        0 dB.

        Yields:
            After each batch, the reading of the samples up to it.

        Raises:
            NotFiniteError: See `full`.
            Exception: Whatever the policy raises.
        """
        figures, broken, rows, of, lead = Figures(), 0, 0.0, 0.0, None
        for number in range(len(self.batches)):
            self.ahead(self.with_policy(spec, range(number, number + self._hands.places)))
            found = structured(Batch, self._found(str(spec), number, functools.partial(draw_with, spec)))
            figures, broken, rows, of, lead = figures + found.figures, broken + found.broken, rows + found.rows, of + found.of, lead or found.run
            yield Reading(figures=figures, run=lead, broken=broken, measured=self._measured(figures, rows / of, broken))

    def measure(self, spec: PolicySpec) -> Reading:
        """Draw all samples with a policy. Raises as `follow`."""
        (last,) = deque(self.follow(spec), maxlen=1)
        return last

    def beside_fewer(self, spec: PolicySpec, *, tell: Callable[[int, int], None] = lambda followed, fewer: None) -> Reading:
        """As `measure`, with plain sampling of as many steps beside it: half a step is rounded up. ``tell`` is
        told after each batch of how many samples there is either.
        """
        for reading in self.follow(spec):
            tell(reading.figures.samples, 0)
        count, psnrs, followed = as_many(reading.figures.computed), list[float](), reading.figures.samples
        what, do = f"{count} plain steps", functools.partial(draw_fewer, count)
        self.ahead((what, number, do) for number in range(len(self.batches)))
        for number in range(len(self.batches)):
            psnrs += structured(Fewer, self._found(what, number, do)).psnrs
            tell(followed, len(psnrs))
        return attrs.evolve(reading, measured=attrs.evolve(reading.measured, fewer_psnr_mean=likeness_of(np.array(psnrs)).mean))

    def _measured(self, figures: Figures, ratio: float, broken: int) -> Measured:
        return Measured(
            samples=figures.samples,
            first=self._first,
            seed=self._noises.seed,
            block_rows_ratio=ratio,
            steps_computed=figures.computed,
            psnr_mean=figures.mean,
            psnr_worst=figures.worst,
            broken=broken,
            among=self._among,
        )

    def signature(self, run: Run, *, dtype: str, versions: dict[str, str]) -> Signature:
        """Return what a policy was measured on."""
        many = f"{len(self.indices)} of " if self._among is not None else ""
        which = f"{many}samples {self._first} to {self._first + (self._among or len(self.indices)) - 1}, seed {self._noises.seed}"
        return Signature(
            model=run.model,
            scheduler=run.scheduler,
            num_steps=run.num_steps or self._noises.num_steps,
            timesteps=run.timesteps,
            guidance=self._noises.guidance,
            dtype=dtype,
            conditions=f"{self._noises.name}: {which}",
            versions=versions,
        )


def _carried_out(do: Drawing, indices: Sequence[int], sampler: Sampler, full: Tensor) -> object:
    return do(indices, sampler, full)
