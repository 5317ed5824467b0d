"""What became of samples, in plain words: of each one, and of all that a lane drew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Line, counted

__all__ = ["CHANGED", "INDISTINGUISHABLE", "LAYOUT_KEPT", "NOTE", "Judged", "Told", "hurt", "in_plain_words", "judged", "noun_of"]

INDISTINGUISHABLE = 35.0
"""PSNR in dB from which nobody tells two samples apart at a glance."""

CHANGED = 20.0
"""PSNR in dB below which a sample is another one, in detail, colour or composition: `LAYOUT_KEPT` decides."""

LAYOUT_KEPT = 0.8
"""`foreseer.bench.layout.layout` of which a composition is the same."""

NAMED = 3
"""So many samples are named in a sentence where several others are counted."""

NOTE = (
    f"Indistinguishable is a PSNR of at least {INDISTINGUISHABLE:g} dB. A sample changed its composition where its PSNR is below {CHANGED:g} dB and the "
    f"means of 8x8 cells correlate to less than {LAYOUT_KEPT:g} with those of full computation: what moves, comes, goes or is mirrored does that; noise, "
    f"detail, brightness and tint do not. Below {CHANGED:g} dB with its layout kept it changed much."
)

Judged = Literal["same", "indistinguishable", "slightly", "much", "composition", "broken"]
"""What became of a sample, from the best to the worst."""

WORDS: dict[Judged, str] = {
    "same": "the same",
    "indistinguishable": "indistinguishable",
    "slightly": "changed a little",
    "much": "changed much",
    "composition": "changed its composition",
    "broken": "broken (not finite)",
}


def judged(psnr: float, layout: float = math.nan) -> Judged:
    """Say what became of a sample.

    Args:
        psnr: To full computation's, dB; infinite for the same, NaN for a broken one.
        layout: See `foreseer.bench.layout.layout`; NaN where it is not known: then no composition is said
            to have changed.
    """
    if math.isnan(psnr):
        return "broken"
    if math.isinf(psnr):
        return "same"
    if psnr >= CHANGED:
        return "indistinguishable" if psnr >= INDISTINGUISHABLE else "slightly"
    return "composition" if layout < LAYOUT_KEPT else "much"


def hurt(lanes: Sequence[LaneResult]) -> dict[int, float]:
    """Return by sample the PSNR in dB, as it is counted, of the lane that hurt it most; the worst comes first,
    of equals the first.
    """
    worst: dict[int, float] = {}
    for lane in lanes:
        for index, value in zip(lane.indices, counted("psnr", lane.values("psnr")).tolist(), strict=True):
            worst[index] = min(worst.get(index, math.inf), value)
    return dict(sorted(worst.items(), key=lambda pair: (pair[1], pair[0])))


@attrs.frozen(kw_only=True)
class Told:
    """A lane in a sentence.

    Attributes:
        lane: Its name.
        noun: What the sentence calls a sample: prompt, where there are prompts.
        sentence: How much faster it is, how many samples nobody tells apart, and what became of the worst.
        look: The samples that the sentence names, the worst first.
        worst: PSNR of the worst sample as it is counted, dB.
    """

    lane: str
    noun: str
    sentence: str
    look: tuple[int, ...]
    worst: float


def noun_of(results: Results) -> str:
    """Return what readers call a sample: a prompt, where each has its own."""
    words = results.conditions
    return "prompt" if words and len(set(words)) == len(words) else "sample"


def in_plain_words(results: Results, line: Line) -> Told:
    """Say what a lane came to, as one would tell a colleague.

    Args:
        results: With the lane's samples.
        line: A lane that finished at least one sample.
    """
    lane, noun = line.lane, noun_of(results)
    psnr, layouts = lane.values("psnr"), lane.values("layout")
    found = {index: judged(*pair) for index, *pair in zip(lane.indices, psnr, layouts, strict=True)}
    order = list(hurt([lane]))
    counts: Mapping[Judged, list[int]] = {word: [index for index in order if found[index] == word] for word in WORDS}
    total, alike = len(found), len(counts["same"]) + len(counts["indistinguishable"])
    least: NDArray[np.float64] = counted("psnr", psnr)
    worst = float(least.min())
    head = f"{line.speedup:.1f}x" if math.isfinite(line.speedup) else f"{line.cost:.0%} of the work"
    if len(counts["same"]) == total:
        return Told(lane=lane.name, noun=noun, sentence=f"{head}, the same as full computation in {_all(total, noun)}.", look=(), worst=worst)
    parts, look = [f"{_of(alike, total, noun)} indistinguishable at {INDISTINGUISHABLE:g} dB"], list[int]()
    for word in ("broken", "composition", "much"):
        if indices := counts[word]:
            named = indices[:NAMED] if len(indices) > NAMED + 1 else indices
            parts.append(_named(named, len(indices) - len(named), noun, word))
            look += named
    if not look and alike < total:
        parts.append(f"the worst is {noun} {order[0]} with {worst:.1f} dB")
        look = order[:1]
    return Told(lane=lane.name, noun=noun, sentence=f"{head}, {', '.join(parts)}.", look=tuple(look), worst=worst)


def _all(total: int, noun: str) -> str:
    return f"all {total} {noun}s" if total > 1 else f"its one {noun}"


def _of(alike: int, total: int, noun: str) -> str:
    return _all(total, noun) if alike == total else f"{alike or 'none'} of {total} {noun}{'s' * (total != 1)}"


def _named(indices: Sequence[int], rest: int, noun: str, word: Judged) -> str:
    """Name samples that came to the same, and count the others."""
    several = len(indices) > 1
    ended = [*map(str, indices), *([f"{rest} more"] if rest else [])]
    listed = " and ".join(filter(None, [", ".join(ended[:-1]), ended[-1]]))
    said = {"broken": "are broken (not finite)", "composition": "changed their composition"}.get(word, WORDS[word]) if several else WORDS[word]
    return f"{noun}{'s' * several} {listed} {'is ' * (word == 'broken' and not several)}{said}"
