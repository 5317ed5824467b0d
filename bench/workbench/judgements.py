"""How well a gate's evidence knows the true error: counts at a tolerance, rank correlations, and what other
thresholds would have done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError

__all__ = ["Entry", "Judgements", "StepCounts", "Sweep", "first_rows", "judgements", "spearman"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation of two vectors; ties share their mean rank. NaN for fewer than two
    pairs, or where one side is constant.
    """
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


@attrs.frozen(eq=False, kw_only=True)
class Entry:
    """One forecast step of one run of R rows, computed as well.

    Attributes:
        policy: As one would write it on the command line; empty where the run did not come to an end.
        run: Number of the run in its ledger, from 1.
        stream: The run's stream.
        step: Index of the step.
        groups: ``(R,)`` sample of each row.
        error: ``(R,)`` the gate's error, NaN where nothing was judged.
        threshold: What it was held against, NaN where nothing was judged.
        accept: ``(R,)`` the gate's answer; None where nothing was judged.
        computed: ``(R,)`` whether the run went on with the computed row.
        site: The forecast site whose error is the truth: the last one of the plan.
        site_error: ``(R,)`` error of the forecast there, of used and refused rows alike. Rows of one sample
            share it.
        output_error: ``(R,)`` error of the denoiser's output that the run went on with; NaN where the row was
            computed, since a refused forecast never became an output.
    """

    policy: str
    run: int
    stream: str
    step: int
    groups: tuple[int, ...]
    error: tuple[float, ...]
    threshold: float
    accept: tuple[bool, ...] | None
    computed: tuple[bool, ...]
    site: str
    site_error: tuple[float, ...]
    output_error: tuple[float, ...]


@attrs.frozen(kw_only=True)
class StepCounts:
    """What a gate did in one step, over all samples and runs.

    Attributes:
        step: Index of the step; None for all steps together.
        drafts: Samples whose draft was looked at.
        judged: Those of them that a gate judged, with a true error that is known.
        accepted: Judged drafts that the gate accepted.
        false_accepts: Accepted although the true error was above the tolerance.
        false_rejects: Rejected although the true error was within it; None where the truth of refused drafts
            is not known.
        error_mean: Mean of the gate's error; NaN where nothing was judged.
        truth_mean, truth_worst: Mean and largest true error of all drafts, judged or not.
        rank: Spearman's correlation of evidence and truth over the samples of the step.
    """

    step: int | None
    drafts: int
    judged: int
    accepted: int
    false_accepts: int
    false_rejects: int | None
    error_mean: float
    truth_mean: float
    truth_worst: float
    rank: float


@attrs.frozen(eq=False, kw_only=True)
class Sweep:
    """What a gate would have done with its threshold multiplied by a factor; ascending, one entry for each
    judged draft and one before the first.

    Attributes:
        factor: Multiplies the threshold: drafts with error <= factor * threshold are accepted. 1 is the gate
            as it was. Of a gate that names no threshold, or a threshold of 0, it is the threshold itself.
        good_accepted: Share of the drafts within the tolerance that are accepted; NaN where there is none.
        bad_accepted: Share of the drafts above the tolerance that are accepted; NaN where there is none.
        area: Area under ``good_accepted`` over ``bad_accepted``: how often a good draft has the smaller error
            than a bad one. 1 is perfect, 0.5 is chance.
    """

    factor: Array
    good_accepted: Array
    bad_accepted: Array
    area: float


@attrs.frozen(eq=False, kw_only=True)
class Judgements:
    """N drafts, one for each sample and step that was looked at.

    Attributes:
        step: ``(N,)`` index of the step.
        error: ``(N,)`` the gate's error, NaN where nothing was judged.
        threshold: ``(N,)`` likewise.
        judged: ``(N,)`` whether a gate was asked.
        accepted: ``(N,)`` whether it accepted; False where it was not asked.
        truth: ``(N,)`` the true error; NaN where it is not known.
        at: Whose error the truth is: ``"site"`` or ``"output"``.
        tolerance: The true error that is tolerable. Where nobody says it, the median one; NaN where no truth
            is known.
    """

    step: NDArray[np.int64]
    error: Array
    threshold: Array
    judged: Flags
    accepted: Flags
    truth: Array
    at: Literal["site", "output"] = "site"
    tolerance: float = attrs.field()

    @tolerance.default
    def _usual(self) -> float:
        known = self.truth[np.isfinite(self.truth)]
        return float(np.median(known)) if len(known) else math.nan

    def __len__(self) -> int:
        return len(self.step)

    @property
    def comparable(self) -> Flags:
        """``(N,)`` whether evidence and truth are both known."""
        return self.judged & np.isfinite(self.error) & np.isfinite(self.truth)

    def rank(self, step: int | None = None) -> float:
        """Return Spearman's correlation of evidence and truth, of one step's samples or of everything that
        was judged.
        """
        chosen = self.comparable & (True if step is None else self.step == step)
        return spearman(self.error[chosen], self.truth[chosen])

    def counts(self, step: int | None = None) -> StepCounts:
        """Count for one step, or for all together."""
        here = np.ones(len(self), dtype=bool) if step is None else self.step == step
        known = np.isfinite(self.truth)
        judged = here & self.judged & known
        good = self.truth <= self.tolerance
        errors, truths = self.error[judged & np.isfinite(self.error)], self.truth[here & known]
        return StepCounts(
            step=step,
            drafts=int(here.sum()),
            judged=int(judged.sum()),
            accepted=int((judged & self.accepted).sum()),
            false_accepts=int((judged & self.accepted & ~good).sum()),
            false_rejects=None if self.at == "output" else int((judged & ~self.accepted & good).sum()),
            error_mean=float(errors.mean()) if len(errors) else math.nan,
            truth_mean=float(truths.mean()) if len(truths) else math.nan,
            truth_worst=float(truths.max()) if len(truths) else math.nan,
            rank=self.rank(step),
        )

    def table(self) -> list[StepCounts]:
        """Return the counts of every step that has drafts, in order, and of all together as the last entry."""
        return [self.counts(int(step)) for step in np.unique(self.step)] + [self.counts()]

    def sweep(self) -> Sweep:
        """Return what other thresholds would have done with these drafts. What later drafts would have been
        after other decisions is not in it.
        """
        chosen = self.comparable
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = self.error / self.threshold
        score = (scaled if np.all(self.threshold[chosen] > 0) else self.error)[chosen]
        good = self.truth[chosen] <= self.tolerance
        order = np.argsort(score, kind="stable")
        factor, good = score[order], good[order]
        shares = [np.concatenate([[0.0], np.cumsum(flags)]) / flags.sum() if flags.any() else np.full(len(flags) + 1, math.nan) for flags in (good, ~good)]
        area = math.nan
        if good.any() and not good.all():
            from sklearn.metrics import roc_auc_score

            area = float(roc_auc_score(good, -factor))
        return Sweep(factor=np.concatenate([[0.0], factor]), good_accepted=shares[0], bad_accepted=shares[1], area=area)


def judgements(entries: Iterable[Entry], *, at: Literal["site", "output"] = "site", tolerance: float | None = None) -> Judgements:
    """Flatten a ledger's entries, each sample once: rows of one sample share error and fate.

    Args:
        entries: Of one policy, as a rule.
        at: ``"site"``: the true error is that of the forecast feature, of used and refused drafts alike.
            ``"output"``: that of the denoiser's output, known of accepted drafts only.
        tolerance: The true error that is tolerable, >= 0; None for the median one.

    Raises:
        OptionError: ``at`` is neither, or the tolerance is out of range.
    """
    if tolerance is not None and not tolerance >= 0:
        advice = "write a true error that is tolerable, a number >= 0"
        raise OptionError(f"tolerance={tolerance!r} is out of range; {advice}")
    if at not in ("site", "output"):
        raise OptionError(f"at={at!r} is unknown; write 'site' or 'output'")
    found: list[tuple[float, ...]] = []
    for entry in entries:
        truth = entry.site_error if at == "site" else entry.output_error
        for row in first_rows(entry.groups):
            judged = entry.accept is not None
            accepted = entry.accept is not None and entry.accept[row]
            found.append((entry.step, entry.error[row], entry.threshold, judged, accepted, truth[row]))
    columns = np.array(found, dtype=np.float64).reshape(-1, 6).T
    return Judgements(
        step=columns[0].astype(np.int64),
        error=columns[1],
        threshold=columns[2],
        judged=columns[3] > 0,
        accepted=columns[4] > 0,
        truth=columns[5],
        at=at,
        **({} if tolerance is None else {"tolerance": tolerance}),
    )


def first_rows(groups: Sequence[int]) -> list[int]:
    """Return the first row of each sample: rows of one sample share a fate."""
    return [groups.index(group) for group in dict.fromkeys(groups)]
