"""The contract: what a plugin may implement. Read this first.

A *policy* is one plugin or a few that together implement some of the hooks below. Return None from a decision
hook, and the step is computed: doing nothing is always correct. A plan without a probe needs no ``verify``: its
forecasts are used unseen. Roles are which hooks a plugin implements:

- a *schedule* says which steps to compute: ``before_step``, and ``setup`` for the sites that it forecasts;
- a *predictor* forecasts features: ``setup`` and ``predict_features``;
- a *gate* judges forecasts: as a schedule, and ``verify``, perhaps ``commit``.

Each of the three decision hooks (``before_step``, ``predict_features``, ``verify``) has one provider per
session. An *observer* watches a run and decides nothing; its hooks are in `foreseer.observerspecs`.

A *row* is one entry of a call's batch. Rows of one *group* are one sample (guidance by concatenation) and
share one fate. A *site* is a place in the model whose feature is recorded or forecast. A row's *anchors* are
the steps at which it was computed. A *draft* is a forecast before its verdict.

A plugin declares further promises as plain attributes: ``exact_degree`` and ``linear`` of a predictor;
``verified``, ``max_draft_steps`` and ``decide`` of a gate or schedule. The conformance kit tests them
(`foreseer.testing.Capabilities`). One whose `Needs` are for later runs alone says ``gives_way = True``: where
they are over the budget, the run is computed.

Mark each implementation with `hookimpl`. Take only the arguments you need, by name, without defaults:

>>> class EveryOther:
...     @hookimpl
...     def setup(self, run):
...         return Needs(sites=(Site(11),))
...     @hookimpl
...     def before_step(self, step):
...         return None if step.index % 2 == 0 else Plan(forecast=(Site(11),))
"""

from __future__ import annotations

import pluggy

from foreseer.outcome import Outcome
from foreseer.types import Drafts, Evidence, History, Needs, Plan, Run, Site, Step, Verdict

__all__ = ["PolicySpecs", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("foreseer")
hookimpl = pluggy.HookimplMarker("foreseer")
"""Marks a method as the implementation of a hook."""


class PolicySpecs:
    """Hooks of a policy, in the order in which a session calls them."""

    @hookspec
    def setup(self, run: Run) -> Needs | None:
        """Prepare for a run; called once on every plugin of the policy, before its first step.

        After a pause, or where the model turns out to be another, the session builds the plugins anew and
        sets them up for the rest of the run.

        Args:
            run: The shape of the run to come.

        Returns:
            What to record and how much of it to keep; None for nothing.

        May raise: any error. At the start of a run it reaches the caller before anything was computed; where
        the policy begins anew, the rest of the run is computed, and the report says why.
        """

    @hookspec(firstresult=True)
    def before_step(self, step: Step) -> Plan | None:
        """Decide what this step forecasts and what it computes.

        No tensor is at hand here, on purpose: a schedule must not make the host wait for the device.

        Args:
            step: The step about to be evaluated.

        Returns:
            The plan; None computes everything. Rows are computed whatever the plan says where nothing is
            recorded, or nothing within ``max_draft_steps``.
        """

    @hookspec(firstresult=True)
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """Forecast the features of the planned sites; not called where every row is computed anyway.

        Args:
            step: The step to forecast.
            sites: The planned sites.
            history: Each row's anchors, and the recorded features for a predictor that is not linear in them.

        Returns:
            For every site in ``sites`` a `Weights` (the session forms the sum where the site is reached), or
            the forecast
            itself, of the recorded shape and dtype. None if it is not able yet: the step is computed.
        """

    @hookspec(firstresult=True)
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """Judge the draft at the probed block; called only when the plan has a probe.

        Judge each row from the rows of its group alone. To judge the batch together, declare
        ``decide = "batch"``. Rejected rows are computed in this same step.

        Args:
            step: The step being evaluated.
            evidence: What was found at the probed place, and its forecast if the plan has one.
                ``evidence.error(metric, groups=...)`` is the error of the whole sample, also where several
                processes share its tokens. Never write to it.

        Returns:
            Error, answer and threshold, on the device of the evidence (do not synchronise: the session does
            it once). A row whose error is not finite is rejected. None rejects every row.
        """

    @hookspec
    def commit(self, step: Step, outcome: Outcome) -> None:
        """The step is final: update counters; called on every plugin of the policy.

        The session has already stored the features of the computed rows. A policy never stores features
        itself.

        Args:
            step: The step.
            outcome: What happened, row by row, on the host.
        """
