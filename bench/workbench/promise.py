"""A promise of samples that nobody has drawn yet, with a stated confidence: what is claimed, how many samples
that needs, which settings are tested for it in which order, and when one holds.

The settings are tested one after another in an order that was fixed on other samples, each by the
Clopper-Pearson bound at the full confidence, until one fails. Whichever of those that held is then chosen, the
chance that it does not fulfil the claim is at most 1 minus the confidence (fixed-sequence testing, as in Learn
then Test, arXiv 2110.01052).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs
import numpy as np

from foreseer.bench.kept_draws import DamagedDrawError
from foreseer.bench.per_sample import Figures
from foreseer.bench.target import Target
from foreseer.errors import FileError, OptionError, in_one_line

__all__ = ["Claim", "Test", "in_order", "run_tests"]

MOST = 6
"""Settings that are tested: each costs its samples."""
SURE, WORTH = 0.95, 0.2
"""How probable success should look on other samples: of the first setting that is tested, and of the last."""
REFUTED = 0.01
"""Held-out samples withdraw a promise that they would contradict so seldom if it were true."""
NUMBER = r"(-?\d+\.?\d*|-?\.\d+)"
EXAMPLE = "write 'psnr>=35 for 95% of samples'"


@attrs.frozen
class Claim:
    """That at least so large a share of samples reaches a PSNR to full computation.

    Attributes:
        psnr: dB.
        share: Above 0 and below 1.
        confidence: Above 0 and below 1: a search ends with a false promise with a probability
            of at most 1 minus that.

    Raises:
        OptionError: A value is out of range.
    """

    psnr: float
    share: float
    confidence: float

    def __attrs_post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise OptionError(f"promise={str(self)!r} is out of range: no number of samples shows more than a share above 0% and below 100%; {EXAMPLE}")
        if not 0.0 < self.confidence < 1.0:
            raise OptionError(f"confidence={self.confidence!r} is out of range; write a number above 0 and below 1, such as 0.9")

    @classmethod
    def parse(cls, text: str, *, confidence: float) -> Claim:
        """Read ``"psnr>=35 for 95% of samples"``. Raises `OptionError` where it is something else."""
        match = re.fullmatch(rf"\s*psnr\s*>=\s*{NUMBER}\s*(?:dB)?\s+for\s+{NUMBER}\s*%\s+of\s+(?:the\s+)?samples\s*", text, re.IGNORECASE)
        if match is None:
            raise OptionError(f"promise={text!r} is no promise; {EXAMPLE}")
        return cls(float(match[1]), float(match[2]) / 100.0, confidence)

    def __str__(self) -> str:
        return f"psnr>={self.psnr:g} for {100 * self.share:g}% of samples"

    @property
    def target(self) -> Target:
        """What a search looks for."""
        return Target("psnr", self.psnr, self.share)

    def bound(self, reached: int, samples: int) -> float:
        """Return the lower Clopper-Pearson bound of the share, where so many of the samples reached it."""
        from scipy.stats import beta

        return float(beta.ppf(1.0 - self.confidence, reached, samples - reached + 1)) if reached else 0.0

    def holds(self, reached: int, samples: int) -> bool:
        """Whether that shows the claim."""
        return self.bound(reached, samples) >= self.share

    @property
    def fewest(self) -> int:
        """Samples that are needed at least, where all of them reach it."""
        count = max(1, math.floor(math.log(1.0 - self.confidence) / math.log(self.share)))
        return next(n for n in range(max(1, count - 1), count + 3) if self.holds(n, n))

    def misses(self, samples: int) -> int:
        """Return how many of so many samples may miss it; -1 where they are too few to show anything."""
        return _misses(self, samples)

    def refuted(self, reached: int, samples: int) -> bool:
        """Whether other samples contradict the claim."""
        from scipy.stats import binom

        return bool(binom.cdf(reached, samples, self.share) < REFUTED)

    def chance(self, figures: Figures, samples: int) -> float:
        """Guess how probably a test on so many other samples succeeds, from figures of some: as if PSNRs were
        normal. It decides what is tested, never what is promised.
        """
        from scipy.stats import binom, t

        n, psnrs = figures.samples, np.asarray(figures.psnrs)
        spread = float(psnrs.std(ddof=1)) * math.sqrt(1.0 + 1.0 / n) if n > 1 else 0.0
        above = float(psnrs.mean()) - self.psnr
        share = float(t.cdf(above / spread, n - 1)) if spread else float(above >= 0.0)
        return float(binom.cdf(self.misses(samples), samples, 1.0 - share))


@functools.lru_cache(maxsize=64)
def _misses(claim: Claim, samples: int) -> int:
    return next((missed - 1 for missed in range(samples + 1) if not claim.holds(samples - missed, samples)), samples)


F = TypeVar("F", bound=Figures)


def in_order(claim: Claim, found: Sequence[F], *, samples: int) -> list[F]:
    """Return the settings to be tested, safest first, each faster than that before it.

    Of settings that no other beats in block-rows and in what probably succeeds, it begins with the next slower
    than the fastest that looks sure, since samples that come out badly are more frequent than the guess has
    it, and ends with the fastest that is worth a test. Many are thinned.

    Args:
        claim: What is to be shown.
        found: Figures of settings on other samples than those of the tests.
        samples: How many a test draws.
    """
    chances = {id(figures): claim.chance(figures, samples) for figures in found}
    front: list[F] = []
    for figures in sorted(found, key=lambda f: (f.ratio, -chances[id(f)], -claim.target.quality(f))):
        if not front or chances[id(figures)] > chances[id(front[-1])]:
            front.append(figures)
    worth = [figures for figures in front if chances[id(figures)] >= WORTH]  # fastest first
    if not worth:
        return front[-1:]  # the surest; its test says how far it is off
    sure = next((number for number, figures in enumerate(worth) if chances[id(figures)] >= SURE), len(worth) - 1)
    chosen = worth[: sure + 2][::-1]
    thinned = np.unique(np.linspace(0, len(chosen) - 1, min(MOST, len(chosen))).round().astype(int))
    return [chosen[i] for i in thinned]


@attrs.frozen(kw_only=True)
class Test:
    """The test of one setting.

    Attributes:
        policy: As one writes it on the command line.
        figures: Of the samples that were drawn: fewer than asked for where it had failed before the last.
        reached: How many of those reach the PSNR.
        held: Whether the claim was shown.
        error: What the policy raised; empty where nothing.
    """

    __test__ = False  # for pytest

    policy: str
    figures: Figures
    reached: int
    held: bool
    error: str = ""


def run_tests(
    claim: Claim,
    policies: Sequence[str],
    *,
    samples: int,
    draw: Callable[[str], Iterator[Figures]],
) -> list[Test]:
    """Test settings in their order, until one fails.

    Args:
        claim: What is to be shown.
        policies: In an order that was fixed without the samples of the tests.
        samples: How many each test draws.
        draw: Gives the figures of the samples so far, several times. A test that can no longer succeed asks
            for no more. What it raises of `Exception` is a failure, but for files that cannot be read or
            written.
    """
    allowed, tests = claim.misses(samples), list[Test]()
    for policy in policies:
        figures, error = Figures(), ""
        try:
            for figures in draw(policy):
                if figures.samples - figures.reaching(claim.psnr) > allowed:
                    break
        except (FileError, DamagedDrawError):  # no fault of the policy
            raise
        except Exception as raised:
            error = in_one_line(raised)
        reached = figures.reaching(claim.psnr)
        held = not error and figures.samples == samples and claim.holds(reached, samples)
        tests.append(Test(policy=policy, figures=figures, reached=reached, held=held, error=error))
        if not held:
            break
    return tests
