"""What `foreseer tune` does."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from foreseer.bench.fields import check_guidance, whole
from foreseer.bench.source import Drawing, Source, source_from
from foreseer.bench.target import Target
from foreseer.bench.workload import prompts_of
from foreseer.errors import ForeseerError, OptionError
from foreseer.registry import PolicySpec, parse_policy
from foreseer.workbench.promise import Claim

__all__ = ["TuneSettings", "built_in"]

optional: Any = attrs.validators.optional
BUILT_IN = ("agreement", "taylorseer", "cg_taylor", "speca", "speca_released", "reuse")
TOGETHER = 4
"""Samples of a bundled model that are drawn together: on a CPU sixteen took as long, and a trial can be given up
after each batch.
"""


def _several(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, (str, PolicySpec)) else tuple(value)


@attrs.frozen(kw_only=True)
class TuneSettings:
    """What `tune` does.

    Attributes:
        policies: As on the command line, one or several; the options that one fixes are held. None named
            means `built_in`.
        target: What to look for; None with a promise.
        promise: What to promise of samples to come, ``"psnr>=35 for 95% of samples"``: the fastest setting
            that keeps it is looked for.
        confidence: With a promise: of all searches that are made so, at most 1 minus this end with a false one.
        tested: With a promise: on how many further samples settings are tested; None for twice as many as it
            needs at least.
        workload: Where samples come from, see `foreseer.bench.source.Source`; a text is the name of a
            workload.
        ranges: What to search, where the policies' declarations do not do; several may follow. See
            `foreseer.workbench.search.parse_range`.
        samples: How many samples each trial draws. They are the first; with a promise all samples are dealt
            out at random.
        held_out: How many further samples the chosen point is checked on; None for as many.
        batch: Samples that are drawn together; None for 4, and for 1 with a promise or a pipeline of yours.
        steps: Denoising steps; None for the workload's own number.
        guidance: Weight of the guidance; None for the workload's own.
        seed: Seed of the noise, and of the search.
        trials: How many points are tried, those of the study's file counted.
        at_once: How many trials are asked for before any of them is drawn; None for as many as the study was
            begun with, or 1, or with a cluster as many as keep its workers busy. What is tried depends on this
            number, and not on who draws.
        whole: Draw all samples of every trial, also of one that can no longer be the best.
        study: SQLite file in which the trials are kept; with one that exists, the search goes on. None keeps
            nothing.
        name: Of the preset; None for workload and target.

    Raises:
        OptionError: A value is out of range, or the promise needs more samples; the message says what to
            write.
    """

    policies: tuple[str | PolicySpec, ...] = attrs.field(default=(), converter=_several)
    target: Target | None = None
    promise: str | None = None
    confidence: float = 0.9
    tested: int | None = attrs.field(default=None, validator=optional(whole(1)))
    workload: Drawing = attrs.field(factory=Source, converter=source_from)
    ranges: tuple[str, ...] = attrs.field(default=(), converter=_several)
    samples: int = attrs.field(default=16, validator=whole(1))
    held_out: int | None = attrs.field(default=None, validator=optional(whole(1)))
    batch: int | None = attrs.field(default=None, validator=optional(whole(1)))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, 1000)))
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    seed: int = attrs.field(default=0, validator=whole(0))
    trials: int = attrs.field(default=30, validator=whole(1, 100_000))
    at_once: int | None = attrs.field(default=None, validator=optional(whole(1, 10_000)))
    whole: bool = False
    study: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    name: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.target is None) == (self.promise is None):
            was = "neither a target nor a promise" if self.target is None else "a target and a promise"
            raise OptionError(f"{was} was given; write one of --speedup 3, --steps-computed 14, --time 4s, --psnr 35, --front and --promise '...'")
        claim = self.claim
        if claim is None:
            if self.tested is not None:
                raise OptionError(f"tested={self.tested} is for a promise; write --promise 'psnr>=35 for 95% of samples', or leave it out")
        elif self.tests < claim.fewest:
            raise OptionError(
                f"tested={self.tests} samples promise nothing: {claim} with confidence {claim.confidence:g} needs {claim.fewest} that all reach it; "
                f"write --tested {claim.fewest} or more, or a smaller share or confidence"
            )
        elif self.batch not in (None, 1):
            raise OptionError(
                f"batch={self.batch} is no number for a promise: samples that are drawn together may share decisions, and then say less than they count; "
                "write --batch 1, or leave it out"
            )

    @property
    def claim(self) -> Claim | None:
        """What is to be promised; None for nothing."""
        return None if self.promise is None else Claim.parse(self.promise, confidence=self.confidence)

    @property
    def goal(self) -> Target:
        """What the trials look for: the target, or what the promise comes to."""
        claim = self.claim
        if claim is not None:
            return claim.target
        assert self.target is not None  # one of the two was given
        return self.target

    @property
    def tests(self) -> int:
        """How many samples a setting is tested on; 0 without a promise."""
        claim = self.claim
        return 0 if claim is None else self.tested or 2 * claim.fewest

    @property
    def together(self) -> int:
        """How many samples are drawn together."""
        yours = isinstance(self.workload, Source) and self.workload.pipeline is not None
        alone = yours or self.promise is not None or prompts_of(self.workload) is not None
        return self.batch or (1 if alone else TOGETHER)

    def parts(self) -> tuple[list[int], list[int], list[int]]:
        """Return the indices of the samples that trials draw, that settings are tested on, and that the chosen
        one is checked on.
        """
        counts = self.samples, self.tests, self.held_out or self.samples
        order = np.arange(sum(counts))
        if self.promise is not None:  # a file of prompts may be in an order that means something
            order = np.random.default_rng((self.seed, len(order))).permutation(order)
        chosen, tested, held_out = np.split(order, np.cumsum(counts)[:-1])
        return sorted(chosen.tolist()), sorted(tested.tolist()), sorted(held_out.tolist())

    def specs(self) -> list[PolicySpec]:
        """Return the policies.

        Raises:
            PluginError, OptionError: One is not installed, or has other options; or it has no name that a
                preset could write down.
        """
        return [_spec(policy) for policy in self.policies] or built_in()


def _spec(policy: str | PolicySpec) -> PolicySpec:
    if not isinstance(policy, PolicySpec):
        return parse_policy(policy)
    again = None
    with contextlib.suppress(ForeseerError):
        again = parse_policy(str(policy))
    if again != policy:
        raise OptionError(f"policy {str(policy)!r} cannot be written on one line, as a preset does; write its options as text")
    return policy


def built_in() -> list[PolicySpec]:
    """Return the policies of this package whose options alone decide what they do: `planned` follows a plan, and
    `auto` what earlier runs left behind.
    """
    return [parse_policy(name) for name in BUILT_IN]
