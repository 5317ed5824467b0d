"""Two results side by side, and what changed beyond noise.

How noise is judged. Figures of samples are paired where both results drew the same samples (family, seed,
steps, guidance, dtype): the mean of the differences counts as a change where it is beyond noise as
`standard_errors` has it; of a single sample that differs nobody can say. Without pairs, the standard
errors of both means count, and the smaller number of samples. Ratios of time are held against the notches of
their medians, 1.57 IQR / sqrt(n), added in squares, with three timed runs at least on each side. Counts
(steps are figures of samples; block-rows, FLOPs, bytes are not) have no noise: any change is one, except of
CUDA's allocator, where 1 % is let pass.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from foreseer.bench.figures import Figure
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import counted, standard_errors

__all__ = ["Change", "Diff", "diff"]

TIMED_RUNS = 3
ROUNDING = 1e-9


@attrs.frozen
class Change:
    """One figure of one lane in both results.

    Attributes:
        lane, batch: Which.
        figure: ``"steps"``, a name of `Results.figures`, ``"speedup"``, ``"block_rows"``, ``"flops"``,
            ``"peak_bytes"`` or ``"bytes_held"``.
        before, after: Mean, median or count.
        difference: Of pairs where there are pairs.
        noise: What the difference was held against.
        changed: Whether it is beyond noise; None where too little was measured to say.
        better: Whether the change is for the better; None where nothing changed or neither end is better.
    """

    lane: str
    batch: int
    figure: str
    before: float
    after: float
    difference: float
    noise: float
    changed: bool | None
    better: bool | None


@attrs.frozen(kw_only=True)
class Diff:
    """What differs between two results.

    Attributes:
        changes: Of every figure of every lane that both have, changed or not.
        only_before, only_after: Lanes that one of them has.
        errors: Lanes that fail in one of them, or otherwise in each: name, error before, error after.
        conditions: What else differs: settings, versions, machine.
        paired: Whether samples are the same, so that differences are of pairs.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    errors: tuple[tuple[str, str, str], ...]
    conditions: tuple[str, ...]
    paired: bool

    @property
    def changed(self) -> tuple[Change, ...]:
        """The changes beyond noise."""
        return tuple(change for change in self.changes if change.changed)


def diff(before: Results, after: Results) -> Diff:
    """Compare two results, lane by lane."""
    paired = _drawn(before) == _drawn(after)
    old, new = ({lane.key: lane for lane in results.lanes} for results in (before, after))
    both, figures = [key for key in old if key in new], {**after.figures, **before.figures}
    return Diff(
        changes=tuple(change for key in both for change in _changes(old[key], new[key], paired, (before.speedup(old[key]), after.speedup(new[key])), figures)),
        only_before=tuple(_title(key) for key in old if key not in new),
        only_after=tuple(_title(key) for key in new if key not in old),
        errors=tuple((_title(key), old[key].error, new[key].error) for key in both if old[key].error != new[key].error),
        conditions=tuple(_conditions(before, after)),
        paired=paired,
    )


def _drawn(results: Results) -> dict[str, object]:
    named = {"family": results.family, "seed": results.seed, "num_steps": results.num_steps, "guidance": results.guidance}
    return named | {"dtype": results.settings.get("dtype")}


def _title(key: tuple[str, int]) -> str:
    return f"{key[0]} (batch {key[1]})"


def _conditions(before: Results, after: Results) -> list[str]:
    found = []
    for name, old, new in (
        ("", _drawn(before), _drawn(after)),
        ("", before.settings, after.settings),
        ("version of ", before.versions, after.versions),
        ("", before.machine, after.machine),
        ("git ", before.git, after.git),
    ):
        found += [f"{name}{key}: {old.get(key)} -> {new.get(key)}" for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return [text for text in dict.fromkeys(found) if not text.startswith(("lanes:", "peers:"))]


def _changes(old: LaneResult, new: LaneResult, paired: bool, speedups: tuple[float, float], figures: Mapping[str, Figure]) -> list[Change]:
    if not old.units or not new.units:
        return []

    def change(figure: str, before: float, after: float, difference: float, noise: float, higher: bool | None, known: bool = True) -> Change:
        beyond = abs(difference) > noise + ROUNDING * max(1.0, abs(before))
        better = (difference > 0) == higher if beyond and known and higher is not None else None
        said = beyond if known else None
        return Change(old.name, old.batch, figure, before, after, difference, noise, said, better)

    found = []
    readers: list[tuple[str, Callable[[LaneResult], Sequence[float]], bool | None]] = [("steps", lambda lane: lane.steps, False)]
    shared = [name for name in figures if old.has(name) and new.has(name)]
    readers += [(name, operator.methodcaller("values", name), figures[name].higher_is_better) for name in shared]
    for figure, read, higher in readers:
        one, other = (dict(zip(lane.indices, read(lane), strict=True)) for lane in (old, new))
        common = sorted(one.keys() & other.keys()) if paired else []
        raw = [[values[i] for i in common] if common else list(values.values()) for values in (one, other)]
        broken = [any(map(math.isnan, values)) for values in raw]
        a, b = (counted(figure, values, figures=figures) for values in raw)
        means = float(a.mean()), float(b.mean()), float(b.mean() - a.mean())
        if broken[0] != broken[1]:  # a figure that came or went is a change that no noise explains
            found.append(attrs.evolve(change(figure, *means, 0.0, None), changed=True, better=broken[0]))
        if broken[0] != broken[1] or np.isnan(a).any():
            continue
        noise, samples = (_error(b - a) if common else math.hypot(_error(a), _error(b))), min(len(a), len(b))
        known = samples > 1 or bool(np.array_equal(a, b))
        noise *= standard_errors(samples) if samples > 1 else 0.0
        found.append(change(figure, *means, noise, higher, known))
    if old.ratios and new.ratios and old.by_clock == new.by_clock and all(map(math.isfinite, speedups)):
        enough = min(len(old.ratios), len(new.ratios)) >= TIMED_RUNS
        noise = math.hypot(_notch(old.ratios), _notch(new.ratios))
        found.append(change("speedup", *speedups, speedups[1] - speedups[0], noise, True, enough))
    held = [max(unit.bytes_held for unit in lane.units) for lane in (old, new)]
    counts: list[tuple[str, float, float, float]] = [("bytes_held", held[0], held[1], 0.0)]
    if {unit.number: unit.indices for unit in old.units} == {unit.number: unit.indices for unit in new.units}:
        counts.append(("block_rows", old.block_rows, new.block_rows, 0.0))
    if old.counted and new.counted:
        let_pass = 0.01 * old.counted.peak_bytes if old.counted.peak_how == "cuda allocator" else 0.0
        counts += [("flops", old.counted.flops, new.counted.flops, 0.0), ("peak_bytes", old.counted.peak_bytes, new.counted.peak_bytes, let_pass)]
    return found + [change(name, was, now, now - was, noise, False) for name, was, now, noise in counts]


def _error(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _notch(ratios: Sequence[float]) -> float:
    low, high = np.percentile(ratios, [25, 75])
    return float(1.57 * (high - low) / math.sqrt(len(ratios)))
