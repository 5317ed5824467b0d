"""One speculative pass: drafts made when they are asked for, and the verdict on them, merged row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.bank import FeatureBank
from foreseer.errors import ContractError
from foreseer.types import Drafts, Evidence, Plan, Site, Verdict, Weights
from foreseer.vote import Ballot, Vote

__all__ = ["LazyDrafts", "Trial", "share_fate"]


def share_fate(flags: Sequence[bool], groups: Sequence[int] | None) -> list[bool]:
    """Rows of one sample share one fate: a flagged row flags its whole group."""
    if groups is None or True not in flags:
        return list(flags)
    flagged = {group for group, flag in zip(groups, flags, strict=True) if flag}
    return [group in flagged for group in groups]


def _check_verdict(verdict: object, rows: int) -> None:
    if not isinstance(verdict, Verdict):
        raise ContractError(f"verify gave a {type(verdict).__name__}; give a foreseer.Verdict, or None to reject every row")
    for name, tensor in (("error", verdict.error), ("accept", verdict.accept)):
        if not isinstance(tensor, Tensor):
            raise ContractError(f"verify gave {name} as a {type(tensor).__name__}; give a tensor of one entry per row, ({rows},)")
        if tensor.shape != (rows,):
            raise ContractError(f"verify gave {name} of shape {tuple(tensor.shape)}; give one entry per row, ({rows},)")
    if verdict.accept.dtype != torch.bool:
        raise ContractError(f"verify gave accept as {verdict.accept.dtype}; give a bool tensor, such as error < threshold")


class LazyDrafts(Mapping[Site, Tensor]):
    """The drafts of one step. A weighted sum is formed when its site is reached, so that no second set of features is ever held."""

    def __init__(self, bank: FeatureBank, sites: tuple[Site, ...], drafts: Drafts) -> None:
        self._bank = bank
        self._drafts: dict[Site, Weights | Tensor] = {}
        self.last: Tensor | None = None
        checked = None
        for site in sites:
            draft = drafts.get(site)
            if draft is None:
                raise ContractError(f"predict_features gave no forecast for {site}; give one for every planned site, or None to compute the step")
            if draft is not checked and not isinstance(draft, Tensor):  # one set of weights often serves all sites
                self._check(site, draft)
                checked = draft
            self._drafts[site] = draft

    def _check(self, site: Site, draft: object) -> None:
        if not isinstance(draft, Weights):
            raise ContractError(f"predict_features gave a {type(draft).__name__} for {site}; give foreseer.Weights or a tensor")
        shape, dtype = draft.values.shape, draft.values.dtype
        if shape != self._bank.anchors.shape or dtype != np.float64:
            raise ContractError(f"predict_features gave weights {dtype} {shape}; give float64 (rows, anchors), here {self._bank.anchors.shape}")

    def __getitem__(self, site: Site) -> Tensor:
        draft = self._drafts[site]
        self.last = self._bank.forecast(site, draft) if isinstance(draft, Weights) else self._bank.checked(site, draft)
        return self.last

    def __contains__(self, site: object) -> bool:
        return site in self._drafts

    def __iter__(self) -> Iterator[Site]:
        return iter(self._drafts)

    def __len__(self) -> int:
        return len(self._drafts)


class Trial:
    """The rows' fate in one speculative pass.

    Args:
        plan: What is being carried out.
        condemned: ``(R,)`` rows that are computed whatever the verdict.
        groups: ``(R,)`` sample of each row, or None where every row is a sample.
        drafts: The forecasts.
        verify: Asks the policy.
        separable: Whether rows can be computed without the others; if not, one rejected row rejects all.
        vote: How the processes that share the rows' tokens decide alike; None for one process.

    Attributes:
        rejected: ``(R,)`` rows to compute.
        error, accept, threshold: As in `foreseer.Outcome`.
    """

    def __init__(
        self,
        plan: Plan,
        condemned: list[bool],
        groups: Sequence[int] | None,
        drafts: LazyDrafts,
        verify: Callable[[Evidence], Verdict | None],
        *,
        separable: bool = True,
        vote: Vote | None = None,
    ) -> None:
        self._separable, self._vote = separable, vote
        self.plan, self.drafts = plan, drafts
        self.rejected = condemned
        self.error: tuple[float, ...] = (math.nan,) * len(condemned)
        self.accept: tuple[bool, ...] | None = None
        self.threshold = math.nan
        self._groups, self._verify = groups, verify
        self._forced = sum(condemned)
        self._finite = True

    def judge(self, evidence: Evidence) -> bool:
        """Ask for the verdict and merge it: the one device-to-host sync of a verified step. Returns whether any row may be forecast."""
        ballot = None if self._vote is None else Ballot(self._vote)
        verdict = self._verify(evidence if ballot is None else attrs.evolve(evidence, vote=ballot))
        rows = len(self.rejected)
        if verdict is None and ballot is not None and not ballot.cast:  # the others may have an answer, and wait for this one
            nothing = evidence.computed.new_zeros(rows, dtype=torch.bool)
            verdict = Verdict(torch.full_like(nothing, math.inf, dtype=torch.float32), nothing)
        if verdict is None:
            accept = [False] * rows
        else:
            _check_verdict(verdict, rows)
            answers = verdict.error.float(), verdict.accept.float()
            error, answer = torch.stack(answers if ballot is None else ballot.settle(*answers)).tolist()
            # NaN compares False with everything, so `error > threshold` alone would accept it.
            accept = [bool(a) and math.isfinite(e) for e, a in zip(error, answer, strict=True)]
            self.error, self.threshold = tuple(error), float(verdict.threshold)
        refused = share_fate([not a for a in accept], self._groups)
        self.accept = tuple(not r for r in refused)
        self._reject(refused)
        return not all(self.rejected)

    def reject_non_finite(self) -> None:
        """Reject rows whose forecast is not finite, where looking is free (on the CPU). The last block's forecast tells: a NaN anywhere in a row's
        residual stream has reached it when it was recorded. Under a vote it is not free: the others would have to be told.
        """
        last = self.drafts.last
        if last is None or last.device.type != "cpu" or self._vote is not None:
            return
        if math.isfinite(last.sum(dtype=torch.float64).item()):
            return
        bad = (~torch.isfinite(last)).flatten(1).any(1).tolist()
        if any(bad):
            self._finite = False
            self._reject(share_fate(bad, self._groups))

    def _reject(self, rows: Sequence[bool]) -> None:
        self.rejected = [r or now for r, now in zip(self.rejected, rows, strict=True)]
        if any(self.rejected) and not self._separable:
            self.rejected = [True] * len(self.rejected)

    def reason(self) -> str:
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
