"""`foreseer tune`: search policies and their options in the closed loop, on samples of a workload, and check
what was found on others.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from foreseer.bench.hands import Hands, hands_for
from foreseer.bench.harness import Tell
from foreseer.bench.kept_draws import KeptDraws
from foreseer.bench.machine import versions
from foreseer.bench.per_sample import Figures
from foreseer.bench.source import named
from foreseer.bench.subject import subject_of
from foreseer.bench.target import Target
from foreseer.document import Document
from foreseer.errors import OptionError
from foreseer.presets import Measured, Preset, Promise
from foreseer.registry import PolicySpec, parse_policy
from foreseer.workbench.draws import Noises, sampler_of
from foreseer.workbench.gauge import Gauge, NotFiniteError, Reading
from foreseer.workbench.promise import Claim, Test, in_order, run_tests
from foreseer.workbench.search import Search, search_of
from foreseer.workbench.study import Point, Study
from foreseer.workbench.tune_settings import TuneSettings
from foreseer.workbench.tuned import Tuned

if TYPE_CHECKING:
    from foreseer.bench.ray_settings import RaySettings

__all__ = ["Target", "TuneSettings", "Tuned", "tune"]

TESTED_AFTER = "settings were tested after so many trials"
AT_ONCE = "trials that are asked for at once"
FULL_TIME = "seconds of full computation for a sample"
DRAWS = Document(format="foreseer tune draws 1", made_by="`foreseer tune`", again="delete that folder, or write another --study", sealed=False)


def tune(settings: TuneSettings, *, tell: Tell = lambda what, done, total: None, ray: RaySettings | None = None) -> Tuned:
    """Search, and check what was found.

    Unless the target is a time, cost is the ratio of block-rows or the computed steps, which are the same on
    every machine; wall-clock time is kept, and decides nothing. Full computation is drawn once. With a
    study's file every batch is kept in a folder beside it, and a call that repeats a finished one draws nothing.

    Args:
        settings: What to do.
        tell: Told how far it is, in samples.
        ray: Workers of a Ray cluster that draw; None for this process.

    Raises:
        PluginError, OptionError: See `TuneSettings`, `foreseer.workbench.search.space_of` and
            `foreseer.workbench.study.Study`.
        NotFiniteError: Samples of full computation are not finite.
        KeyboardInterrupt: The batches that were drawn are kept beside the study's file, where there is one; the
            same call goes on.
    """
    search = search_of(settings.specs(), settings.ranges)  # what is wrong with it is told before anything is loaded
    with hands_for(settings.workload, ray) as hands:
        return _Tuning(settings, search, hands, tell).run()


class _Tuning:
    """One call of `tune`."""

    def __init__(self, settings: TuneSettings, search: Search, hands: Hands, tell: Tell) -> None:
        self.settings, self.search, self.hands = settings, search, hands
        if hands.elsewhere:
            tell("workers are on their way", 0, 0)
        self.subject = hands.look(subject_of)
        hands.open(functools.partial(sampler_of, seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance))
        self.noises = hands.ask(Noises.of)
        self.study = Study(
            self._kept(),
            self.search,
            settings.goal,
            samples=settings.samples,
            seed=settings.seed,
            file=settings.study,
            prune=not settings.whole,
        )
        file = settings.study
        self.draws = KeptDraws(None if file is None else file.with_name(f"{file.name}.draws"), self._drawn_with(), DRAWS)
        self.chosen_on, self.tested_on, self.held_out = map(self._gauge, settings.parts())
        self.done, self.total, self._tell = 0, 0, tell

    def _gauge(self, part: list[int]) -> Gauge:
        among = None if self.settings.claim is None else sum(map(len, self.settings.parts()))
        first = min(part, default=0) if among is None else 0
        return Gauge(self.noises, first=first, samples=part, batch=self.settings.together, among=among, kept=self.draws, hands=self.hands)

    def run(self) -> Tuned:
        settings, claim = self.settings, self.settings.claim
        begun = len(self.study.points)
        spent = self.study.kept(TESTED_AFTER)
        if spent is not None and max(begun, settings.trials) > spent:
            raise OptionError(
                f"trials={settings.trials} is out of range: after {spent} trials settings were tested, and trials that come later could choose by the same "
                f"samples; write --trials {spent}, or begin with another --study and another --seed"
            )
        self.total = settings.samples * (settings.trials + 1) + self.checks
        self.done = settings.samples * (begun + 1) if begun else 0
        if begun < settings.trials:
            for batch in range(len(self.chosen_on.batches)):  # what fails here is no trial's fault
                self._told("full computation", settings.samples * begun + len(self.chosen_on.batches[0]) * batch)
                self.chosen_on.full(batch)
        while (number := len(self.study.points)) < settings.trials:
            at_once = self._at_once()
            self._round(number, min(at_once - number % at_once, settings.trials - number))
        points = tuple(self.study.points)
        tests = () if claim is None else tuple(self._test(claim, points))
        held = [test for test in tests if test.held]
        chosen: Point | Test | None = min(held, key=lambda test: test.figures.ratio, default=None) if claim else settings.goal.best(points)
        preset = None if chosen is None else self._preset(chosen.policy, points, tests)
        found = chosen.figures if isinstance(chosen, Test) else chosen
        self._told("done", self.total)
        return Tuned(settings=settings, search=self.search, points=points, chosen=found, tests=tests, preset=preset, time=self._full_time())

    def _at_once(self) -> int:
        """How many trials are asked for together: what a study was begun with stays."""
        asked, kept = self.settings.at_once, self.study.kept(AT_ONCE) or (1 if self.study.points else None)
        if kept is None:
            kept = asked or max(1, self.hands.places // len(self.chosen_on.batches))
            self.study.keep(AT_ONCE, kept)
        if asked not in (None, kept):
            raise OptionError(f"at_once={asked} is out of range: the study was begun with {kept}; write --at-once {kept}, or leave it out")
        return int(kept)

    def _round(self, number: int, count: int) -> None:
        """Ask for trials, and draw them: batch by batch, that of all trials at once where hands are many."""
        samples = self.settings.samples
        begun, which = samples * (number + 1), f"trial {number + 1}" if count == 1 else f"trials {number + 1} to {number + count}"
        self._told(which, begun)
        drawn: dict[str, int] = {}

        def measure(spec: PolicySpec) -> Iterator[Figures]:
            for reading in self.chosen_on.follow(spec):
                if reading.broken:  # whatever its mean: nobody wants a policy that breaks samples
                    raise NotFiniteError(f"{reading.broken} of the first {reading.figures.samples} samples are broken: they are not finite")
                yield reading.figures
                drawn[str(spec)] = reading.figures.samples
                self._told(f"{which}, {sum(drawn.values())} of {samples * count} samples", begun + sum(drawn.values()))

        def ahead(specs: Sequence[PolicySpec], given: int) -> None:
            width = max(1, self.hands.places // max(1, len(specs)))
            self.chosen_on.ahead([one for spec in specs for one in self.chosen_on.with_policy(spec, range(given, given + width))])

        self.study.step(measure, count=count, ahead=ahead)

    @property
    def checks(self) -> int:
        """How many samples the check draws: those that it was chosen by with fewer plain steps; those held out
        in full and with the setting besides.
        """
        return 0 if self.settings.goal.kind == "front" else self.settings.samples + 3 * len(self.held_out.indices)

    def _full_time(self) -> float:
        """Seconds of full computation for a sample, also where an earlier call drew it."""
        if not math.isnan(self.chosen_on.time):
            self.study.keep(FULL_TIME, self.chosen_on.time)
        kept = self.study.kept(FULL_TIME)
        return math.nan if kept is None else float(kept)

    def _told(self, what: str, done: int) -> None:
        self.done = done
        self._tell(what, done, max(self.total, done))

    def _test(self, claim: Claim, points: tuple[Point, ...]) -> list[Test]:
        """Test settings."""
        count = len(self.tested_on.indices)
        self.study.keep(TESTED_AFTER, len(points))
        whole = {point.policy: point for point in reversed(points) if point.whole}
        sequence = [point.policy for point in in_order(claim, list(whole.values()), samples=count)]
        begun = self.done = self.settings.samples * (self.settings.trials + 1)
        self.total += count * len(sequence)

        def draw(policy: str) -> Iterator[Figures]:
            for reading in self.tested_on.follow(parse_policy(policy)):
                figures = reading.figures
                done = begun + count * sequence.index(policy) + figures.samples
                self._told(f"test {sequence.index(policy) + 1} of {len(sequence)} or fewer, {figures.samples} of {count} samples", done)
                yield figures

        return run_tests(claim, sequence, samples=count, draw=draw)

    def _kept(self) -> dict[str, Any]:
        """What the trials depend on."""
        settings = self.settings
        of_settings = ("samples", "seed", "whole", *(("confidence", "tests") if settings.claim else ()))
        found = {
            "search": [str(space) for space in self.search.spaces],
            "target": str(settings.goal),
            "steps": self.noises.num_steps,
            "guidance": self.noises.guidance,
            "batch": settings.together,
            **named(settings.workload),
        } | {name: getattr(settings, name) for name in of_settings}
        if settings.claim is not None:
            found["held_out"] = len(settings.parts()[2])  # decides which samples the others are
        return found | self._machine()

    def _machine(self) -> dict[str, Any]:
        """What times depend on, where they decide."""
        said = self.subject.machine if self.settings.goal.kind == "time" else {}
        return {name: value for name, value in said.items() if name in ("processor", "GPU")}

    def _drawn_with(self) -> dict[str, Any]:
        """What draws depend on, besides their samples and what drives the model."""
        return {
            **named(self.settings.workload),
            "model": self.subject.model,
            "scheduler": self.subject.scheduler,
            "steps": self.noises.num_steps,
            "guidance": self.noises.guidance,
            "seed": self.noises.seed,
            **self._machine(),
        }

    def _preset(self, policy: str, points: tuple[Point, ...], tests: tuple[Test, ...]) -> Preset:
        """Measure the chosen setting on the samples it was chosen by and on others."""
        settings, spec = self.settings, parse_policy(policy)
        tuned = self._beside_fewer(self.chosen_on, spec, "the chosen setting", self.total - self.checks, drawn=0)
        held_out = self._beside_fewer(self.held_out, spec, "on held-out samples", self.total - self.checks + settings.samples, drawn=2)
        signature = self.chosen_on.signature(tuned.run, dtype=self.subject.dtype, versions=versions())
        timed = settings.goal.kind == "time"
        return Preset(
            name=settings.name or f"{settings.workload.name}_{settings.goal.short}",
            policy=policy,
            signature=signature,
            tuned=_timed(tuned) if timed else tuned.measured,
            held_out=_timed(held_out) if timed else held_out.measured,
            found={**self._kept(), "trials": settings.trials, "trial": next(p.number for p in points if p.policy == policy)},
            machine=self.subject.machine,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            promise=None if settings.claim is None else self._promise(settings.claim, policy, tests, held_out.figures),
        )

    def _beside_fewer(self, gauge: Gauge, spec: PolicySpec, what: str, begun: int, *, drawn: int) -> Reading:
        """Measure a setting; ``drawn`` is how often that draws each sample before fewer plain steps."""
        count = len(gauge.indices)
        self._told(what, begun)

        def tell(followed: int, fewer: int) -> None:
            part = f"{fewer} of {count} samples with as many plain steps" if fewer else f"{followed} of {count} samples"
            self._told(f"{what}, {part}", begun + drawn * followed + fewer)

        return gauge.beside_fewer(spec, tell=tell)

    def _promise(self, claim: Claim, policy: str, tests: tuple[Test, ...], checked: Figures) -> Promise | None:
        """Return what the tests showed; None where held-out samples contradict it."""
        reached, test = checked.reaching(claim.psnr), next(test for test in tests if test.policy == policy)
        if claim.refuted(reached, checked.samples):
            return None
        guidance = "" if self.noises.guidance is None else f", guidance {self.noises.guidance:g}"
        where = f"the model, scheduler, {self.noises.num_steps} steps{guidance} and {self.subject.dtype} of this preset"
        prompts = self.subject.prompts
        # a prompt that is drawn several times tells of its noises, and not of other prompts
        alike = "samples like those (exchangeable with them)"
        if prompts is not None and len(prompts) < sum(map(len, self.settings.parts())):
            alike = f"samples of the same {len(prompts)} prompts with other noises"
        return Promise(
            at_least=claim.psnr,
            share=claim.share,
            confidence=claim.confidence,
            samples=test.figures.samples,
            reached=test.reached,
            settings=len(tests),
            checked=checked.samples,
            checked_reached=reached,
            assumes=f"{alike}, each drawn alone with {where}",
        )


def _timed(reading: Reading) -> Measured:
    return attrs.evolve(reading.measured, seconds=reading.figures.time)
