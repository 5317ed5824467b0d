"""Reference plugins: partners for a policy that brings only one part. Each is as simple as the part can be,
so that what fails is the other one.
"""

from __future__ import annotations

import torch

from foreseer.hookspecs import hookimpl
from foreseer.metrics import relative_l2
from foreseer.outcome import Outcome
from foreseer.types import STREAM, Drafts, Evidence, History, Needs, Plan, Probe, Run, Site, Step, Verdict, Weights


class ReferencePredictor:
    """Predictor: the last computed feature, as it is."""

    exact_degree = 0
    linear = True

    def __init__(self) -> None:
        self.asked = 0

    @hookimpl
    def setup(self) -> Needs:
        return Needs(anchors=1)

    @hookimpl
    def predict_features(self, sites: tuple[Site, ...], history: History) -> Drafts:
        self.asked += 1
        return dict.fromkeys(sites, Weights.per_row(lambda anchors, target: (1.0,), history.anchors, 0.0))


class ReferenceSchedule:
    """Schedule: compute a fixed list of steps, unevenly spaced, and forecast every module part in the others;
    the last block where there are none. Or what all blocks add.
    """

    computed = frozenset({0, 1, 3, 4, 8, 9, 14, 20})

    def __init__(self, *, residual: bool = False) -> None:
        self._residual = residual

    @hookimpl
    def setup(self, run: Run) -> Needs:
        parts = () if self._residual else tuple(site for site in run.sites if site.part != "block")
        self._sites = parts or (Site(run.depth - 1, since=-1 if self._residual else None),)
        return Needs(sites=self._sites)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        return None if step.index in self.computed else Plan(forecast=self._sites)


class ReferenceProbe:
    """The first half of a gate: probe the first block on its real input, and forecast what those behind it
    add, or the last block where the host has no residuals. A row is computed in the first two steps, and
    after four drafts in a row.
    """

    @hookimpl
    def setup(self, run: Run) -> Needs:
        last = Site(run.depth - 1, since=0 if STREAM in run.places and run.depth > 1 else None)
        self._sites = tuple(dict.fromkeys((Site(0), last)))
        self._drafts = [0] * run.rows
        return Needs(sites=self._sites)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        if step.index < 2:
            return None
        return Plan(forecast=self._sites, probe=Probe(0, on="input"), compute=tuple(n >= 4 for n in self._drafts))

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        self._drafts = [0 if computed else n + 1 for n, computed in zip(self._drafts, outcome.computed, strict=True)]


class ReferenceGate:
    """The second half of a gate: accept a sample whose error ||d|| / ||h|| is at most 0.05."""

    decide = "row"
    threshold = 0.05

    @hookimpl
    def setup(self, run: Run) -> None:
        self._groups = run.groups

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        error = evidence.error(relative_l2, groups=self._groups)
        return Verdict(error, torch.le(error, self.threshold), self.threshold)


class ReferenceObserver:
    """Observer: wants to see every feature, and every forecast step computed as well, and does nothing with
    them.
    """

    @hookimpl
    def features_wanted(self, run: Run) -> tuple[Site, ...]:
        return run.sites

    @hookimpl
    def shadow(self) -> bool:
        return True

    @hookimpl
    def on_features(self) -> None:
        pass

    @hookimpl
    def on_shadow(self) -> None:
        pass
