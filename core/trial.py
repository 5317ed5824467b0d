"""One speculative pass: drafts made when they are asked for, and the verdict on them, merged row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.backbone import Drafted, Pass
from foreseer.bank import FeatureBank
from foreseer.errors import AnswerError
from foreseer.outcome import Kind, Outcome
from foreseer.transfer import on_device, on_host
from foreseer.types import Drafts, Evidence, Late, Live, Plan, Site, Step, Verdict, Weights
from foreseer.vote import Electorate

__all__ = ["Declined", "Done", "LazyDrafts", "Trial", "broken_rows", "check_verdict"]


def broken_rows(tensor: Tensor) -> set[int]:
    """Return which rows of a tensor are not finite, where looking is free: none on an accelerator."""
    # A sum that runs over is looked at again; what is not finite never sums to a finite number.
    if not tensor.is_cpu or math.isfinite(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).item()):
        return set()
    return set((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten().tolist())


def check_verdict(verdict: object, rows: int) -> Verdict:
    """Return what a gate answered, or raise `AnswerError` if it is no verdict on so many rows."""
    if not isinstance(verdict, Verdict):
        raise AnswerError(f"verify gave a {type(verdict).__name__}; give a foreseer.Verdict, or None to reject every row")
    for name, tensor in (("error", verdict.error), ("accept", verdict.accept)):
        if not isinstance(tensor, Tensor):
            raise AnswerError(f"verify gave {name} as a {type(tensor).__name__}; give a tensor of one entry per row, ({rows},)")
        if tensor.shape != (rows,):
            raise AnswerError(f"verify gave {name} of shape {tuple(tensor.shape)}; give one entry per row, ({rows},)")
    if verdict.accept.dtype != torch.bool:
        raise AnswerError(f"verify gave accept as {verdict.accept.dtype}; give a bool tensor, such as error < threshold")
    return verdict


class LazyDrafts(Drafted):
    """The drafts of one step. A weighted sum is formed when its site is reached, so that no second set of
    features is ever held, and so is what waits for it.

    Args:
        bank: The history.
        sites: What was planned.
        drafts: What the predictor answered.
        step: The step, for late drafts.
        form: Forms a late draft; answers None where its policy failed.

    Attributes:
        last: The draft that was formed last.
        broken: Rows of which a draft was seen to be not finite: in float16, where a sum of numbers in range
            may run over, on the CPU; and all of them where a late draft could not be formed.
        evidence: What was shown to the judge; None before.
    """

    def __init__(
        self,
        bank: FeatureBank,
        sites: tuple[Site, ...],
        drafts: Drafts,
        *,
        step: Step | None = None,
        form: Callable[[Late, Live], Any] = lambda late, live: late.form(live),
    ) -> None:
        self._bank, self._step, self._form = bank, step or Step(0), form
        self._drafts: dict[Site, Weights | Tensor | Late] = {}
        self._live: dict[Site, tuple[Callable[[], Tensor | None], Mapping[Site, Tensor]]] = {}
        self.last: Tensor | None = None
        self.broken: set[int] = set()
        self.evidence: Evidence | None = None
        if not isinstance(drafts, Mapping):
            raise AnswerError(f"predict_features gave a {type(drafts).__name__}; give a forecast for each planned site by that site, or None")
        checked, shape = None, bank.anchors.shape
        for site in sites:
            draft = drafts.get(site)
            if draft is None:
                raise AnswerError(f"predict_features gave no forecast for {site}; give one for every planned site, or None to compute the step")
            if draft is not checked and not isinstance(draft, Late):  # one set of weights often serves all sites
                self._check(site, draft, shape)
                checked = draft
            self._drafts[site] = draft

    def _check(self, site: Site, draft: object, shape: tuple[int, ...]) -> None:
        if isinstance(draft, Weights):
            values = draft.values
            if values.shape != shape or values.dtype != np.float64:
                raise AnswerError(f"predict_features gave weights {values.dtype} {values.shape}; give float64 (rows, anchors), here {shape}")
        elif isinstance(draft, Tensor):
            self._bank.check(site, draft)
        else:
            raise AnswerError(f"predict_features gave a {type(draft).__name__} for {site}; give foreseer.Weights or a tensor")

    def reached(self, site: Site, live: Callable[[], Tensor | None], features: Mapping[Site, Tensor] | None = None) -> None:
        """See `Drafted.reached`."""
        if isinstance(self._drafts.get(site), Late):
            self._live[site] = (live, features or {})

    def __getitem__(self, site: Site) -> Tensor:
        draft: Any = self._drafts[site]
        if isinstance(draft, Late):
            live, features = self._live.get(site, (lambda: None, {}))
            draft = self._form(draft, Live(self._step, live(), self.evidence, features))
            if draft is None:
                rows = len(self._bank.anchors)
                self.broken, draft = set(range(rows)), Weights(np.zeros(self._bank.anchors.shape))
            self._check(site, draft, self._bank.anchors.shape)
        self.last = self._bank.forecast(site, draft) if isinstance(draft, Weights) else draft.clone()  # the model may write into it
        if self.last.dtype == torch.float16:
            self.broken |= broken_rows(self.last)
        return self.last

    def __contains__(self, site: object) -> bool:
        return site in self._drafts

    def __iter__(self) -> Iterator[Site]:
        return iter(self._drafts)

    def __len__(self) -> int:
        return len(self._drafts)


class Declined(NamedTuple):
    """Why every row of a step is computed. Attributes as in `foreseer.Outcome`."""

    kind: Kind
    reason: str
    plan: Plan = Plan()


class Done(NamedTuple):
    """A step that was carried out but is not committed yet.

    Attributes:
        output: The denoiser's, in the host's own form.
        features: Of the computed rows, ``(n, ...)``.
        computed: ``(R,)`` which rows those are.
        block_rows: As in `foreseer.Outcome`.
        kind: Likewise.
        reason: Likewise.
        plan: Likewise.
        trial: The speculative pass; None where there was none.
    """

    output: Any
    features: Mapping[Site, Tensor]
    computed: tuple[bool, ...]
    block_rows: int
    kind: Kind
    reason: str
    plan: Plan = Plan()
    trial: Trial | None = None

    @property
    def rows(self) -> list[int]:
        """Indices of the computed rows."""
        return [row for row, computed in enumerate(self.computed) if computed]

    def behind_probe(self, first: Pass, recorded: frozenset[Site]) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Return what the speculative pass computed of the rejected rows up to an input probe, and what
        stands in for all that: the probed block's output.
        """
        probe, rows = self.plan.probe, self.rows
        kept = {
            site: feature[on_device(rows, feature.device)] for site, feature in first.features.items() if probe is not None and 0 <= site.block <= probe.block
        }
        # A copy: the model may write into what it is given, and what is kept goes into the history.
        # What starts in front of the probed block would start from nothing: then the rows begin anew.
        skipped = probe is not None and any(site.since is not None and 0 <= site.since < probe.block and site.block > probe.block for site in recorded)
        resumed = {site: kept[site].clone() for site in (() if probe is None or skipped else probe.resumed) if site in kept}
        return {site: feature for site, feature in kept.items() if site in recorded}, resumed

    def outcome(self, step: Step, seconds: float) -> Outcome:
        """Say on the host how the step ended.

        Args:
            step: The step.
            seconds: Host time that it took.
        """
        trial, unknown = self.trial, (math.nan,) * len(self.computed)
        error, accept, threshold = (unknown, None, math.nan) if trial is None else (trial.error, trial.accept, trial.threshold)
        return Outcome(step, self.plan, self.computed, error, accept, threshold, self.block_rows, seconds, self.reason, self.kind)


class Trial:
    """The rows' fate in one speculative pass.

    Args:
        plan: What is being carried out.
        condemned: ``(R,)`` rows that are computed whatever the verdict.
        electorate: Who decides together.
        drafts: The forecasts.
        verify: Asks the policy.

    Attributes:
        rejected: ``(R,)`` rows to compute.
        refused: Whether the judge refused all rows while the pass was under way.
        error, accept, threshold: As in `foreseer.Outcome`.
    """

    def __init__(
        self,
        plan: Plan,
        condemned: list[bool],
        electorate: Electorate,
        drafts: LazyDrafts,
        verify: Callable[[Evidence], Verdict | None],
    ) -> None:
        self.plan, self.drafts = plan, drafts
        self.rejected = condemned
        self.error: tuple[float, ...] = (math.nan,) * len(condemned)
        self.accept: tuple[bool, ...] | None = None
        self.threshold = math.nan
        self._electorate, self._verify = electorate, verify
        self._forced = sum(condemned)
        self._finite = True
        self.refused = False

    def judge(self, evidence: Evidence) -> bool:
        """Ask for the verdict and merge it: the one device-to-host sync of a verified step. Returns whether
        any row may be forecast.
        """
        ballot = self._electorate.ballot()
        verdict = self._verify(evidence if ballot is None else attrs.evolve(evidence, vote=ballot))
        rows = len(self.rejected)
        if verdict is None and ballot is not None and ballot.open:  # the others may have an answer, and wait for this one
            nothing = evidence.computed.new_zeros(rows, dtype=torch.bool)
            verdict = Verdict(torch.full_like(nothing, math.inf, dtype=torch.float32), nothing)
        if verdict is None:
            refused = [True] * rows
        else:
            answers = verdict.error.float(), verdict.accept
            error, answer = on_host(*(answers if ballot is None else ballot.settle(*answers)))
            # NaN compares False with everything, so `error > threshold` alone would accept it.
            refused = [not (a and math.isfinite(e)) for e, a in zip(error, answer, strict=True)]
            self.error, self.threshold = tuple(error), float(verdict.threshold)
        refused = self._electorate.share_fate(refused)
        self.accept = tuple([not r for r in refused])
        self._reject(refused)
        self.refused = all(self.rejected)
        return not self.refused

    def reject_non_finite(self, output: Sequence[bool] | None) -> None:
        """Reject rows whose forecast is not finite, where looking is free. A NaN anywhere in a row's residual
        stream has reached the last block's forecast when it was recorded, and the output. Under a vote it is
        not free: the others would have to be told.

        Args:
            output: ``(R,)`` whether the rows of what came out are finite; None where nobody looked.
        """
        if not self._electorate.alone or all(self.rejected):
            return
        bad = self.drafts.broken | (set() if self.drafts.last is None else broken_rows(self.drafts.last))
        bad |= {row for row, fine in enumerate(output or ()) if not fine}
        if bad and (bad := bad - {row for row, out in enumerate(self.rejected) if out}):
            self._finite = False
            self._reject(self._electorate.share_fate([row in bad for row in range(len(self.rejected))]))

    def _reject(self, rows: Sequence[bool]) -> None:
        self.rejected = [r or now for r, now in zip(self.rejected, rows, strict=True)]

    def done(self, first: Pass) -> Done:
        """Return what has come of the speculative pass, before any row is computed."""
        self.reject_non_finite(first.finite)
        kind = Kind.REJECTED if all(self.rejected) else Kind.MIXED
        if not any(self.rejected):
            kind = Kind.FORECAST if self.accept is None else Kind.ACCEPTED
        return Done(first.output, {}, tuple(self.rejected), first.block_rows, kind, self._reason(), self.plan, self)

    def _reason(self) -> str:
        """Why the step went as it did, in a few words."""
        rows, out = len(self.rejected), sum(self.rejected)
        if not self._finite:
            return f"{out} of {rows} rows computed: the forecast is not finite"
        if self.accept is None:
            prefix = f"{self._forced} of {rows} rows computed, the others forecast" if self._forced else "forecast"
            return f"{prefix}: {self.plan.reason}" if self.plan.reason else prefix
        judged = [e for e in self.error if not math.isnan(e)]
        words = f"error {min(judged):.3g} to {max(judged):.3g}, threshold {self.threshold:.3g}" if judged else "no finite error"
        if len(set(judged)) == 1:
            words = f"error {judged[0]:.3g}, threshold {self.threshold:.3g}"
        verb = "accepted" if out == 0 else "rejected" if out == rows else f"rejected {out} of {rows} rows"
        return f"{verb}: {words}"
