"""The contract: what a plugin may implement. Read this first.

A *policy* is one plugin or a few that together implement some of the hooks below. What it does not implement, or
answers with ``None``, is computed for real: doing nothing is always correct. Roles are which hooks a plugin
implements:

- a *schedule* says which steps to compute: ``before_step``;
- a *predictor* forecasts features: ``setup`` and ``predict_features``;
- a *gate* judges forecasts: ``before_step`` and ``verify``, perhaps ``setup`` and ``commit``.

Each of the three decision hooks (``before_step``, ``predict_features``, ``verify``) has one provider per session. An
*observer* is another species: it watches a run and decides nothing.

What a plugin promises beyond the hooks it declares by plain attributes, and the conformance kit holds it to them (`foreseer.testing.Capabilities`):
``exact_degree`` and ``linear`` of a predictor; ``verified``, ``max_draft_steps`` and ``decide`` of a gate or schedule.

Mark each implementation with `hookimpl`. Take only the arguments you need, by name, without defaults:

>>> class EveryOther:
...     @hookimpl
...     def before_step(self, step):
...         return None if step.index % 2 == 0 else Plan(forecast=(Site(11),))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy
from torch import Tensor

from foreseer.outcome import Outcome
from foreseer.types import Drafts, Evidence, History, Needs, Plan, Run, Site, Step, Verdict

if TYPE_CHECKING:
    from foreseer.report import Report

__all__ = ["ObserverSpecs", "PolicySpecs", "hookimpl"]

hookspec = pluggy.HookspecMarker("foreseer")
hookimpl = pluggy.HookimplMarker("foreseer")
"""Marks a method as the implementation of a hook."""


class PolicySpecs:
    """Hooks of a policy, in the order in which a session calls them."""

    @hookspec
    def setup(self, run: Run) -> Needs | None:
        """Prepare for a run; called once, before step 0, on every plugin of the policy.

        Args:
            run: The shape of the run to come.

        Returns:
            What to record and how much of it to keep; None for nothing.

        May raise: any error. It reaches the caller before anything was computed.
        """

    @hookspec(firstresult=True)
    def before_step(self, step: Step) -> Plan | None:
        """Decide what this step forecasts and what it computes.

        No tensor is at hand here, on purpose: a schedule must not make the host wait for the device.

        Args:
            step: The step about to be evaluated.

        Returns:
            The plan; None computes everything. Rows that have nothing recorded are computed whatever the plan says.
        """

    @hookspec(firstresult=True)
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """Forecast the features of the planned sites.

        Args:
            step: The step to forecast.
            sites: The planned sites.
            history: Each row's anchors, and the recorded features for a predictor that is not linear in them.

        Returns:
            For every site in ``sites`` a `Weights`, or the forecast itself, of the recorded shape and dtype; None if
            it is not able yet, in which case the step is computed.
        """

    @hookspec(firstresult=True)
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """Judge the draft at the probed block; called only when the plan has a probe.

        The error and the answer of a row may depend on that row and on the rows of its group only, unless the policy
        decides for the whole batch and says so. Rejected rows are computed in this same step.

        Args:
            step: The step being evaluated.
            evidence: The probed block's output, computed and forecast. ``evidence.error(metric, groups=...)`` is the error of
                the whole sample, also where several processes share its tokens. Never write to it.

        Returns:
            Error, answer and threshold, on the device of the evidence (do not synchronise: the session does it once);
            None rejects every row.
        """

    @hookspec
    def commit(self, step: Step, outcome: Outcome) -> None:
        """The step is final: update counters; called on every plugin of the policy.

        The session has already stored the features of the computed rows. A policy never stores features itself.

        Args:
            step: The step.
            outcome: What happened, row by row, on the host.
        """


class ObserverSpecs:
    """Hooks of an observer. It cannot decide; if it raises, it is dropped for the rest of the run and the report says so."""

    @hookspec
    def features_wanted(self, run: Run) -> tuple[Site, ...] | None:
        """Say which computed features this observer wants to see; asked before a run's first step, and again if the host's sites turn out to be others.

        Args:
            run: The shape of the run to come.

        Returns:
            Sites; those that the host does not have are left out, and the report says so. None for none.
        """

    @hookspec
    def on_run_start(self, run: Run) -> None:
        """A run has begun; told with its first finished step.

        Args:
            run: The shape of the run to come.
        """

    @hookspec
    def on_features(self, run: Run, step: Step, rows: tuple[int, ...], features: Mapping[Site, Tensor]) -> None:
        """Rows of a step were computed; told before ``on_step``, and only to observers that want features.

        Args:
            run: Whose step it is.
            step: The step.
            rows: ``(n,)`` the computed rows, at least one.
            features: For each recorded site, at least those that were wanted, ``(n, ...)``. Never write to them, and copy what you keep: a host may use
                their memory again.
        """

    @hookspec
    def shadow(self, run: Run, step: Step) -> bool | None:
        """Say whether a step that was forecast for some rows shall be computed as well, to see how far off the forecast was.

        What it costs is counted apart (``Report.check_block_rows``), and nothing of it enters the run.

        Args:
            run: Whose step it is.
            step: The step that was just carried out, and had forecasts.

        Returns:
            True to compute it. ``on_shadow`` is told the result.
        """

    @hookspec
    def on_shadow(
        self,
        run: Run,
        step: Step,
        outcome: Outcome,
        drafts: Mapping[Site, Tensor],
        features: Mapping[Site, Tensor],
        output: Any,
        computed: Any,
    ) -> None:
        """A step with forecasts was computed as well, for all rows; told before ``on_step``, and only to observers that asked for it.

        Args:
            run: Whose step it is.
            step: The step.
            outcome: What happened, row by row, on the host.
            drafts: For each site that was to be forecast, the forecast ``(R, ...)`` of every row, used or refused.
            features: For each recorded site what was computed, ``(R, ...)``.
            output: The denoiser's output that the run went on with, in the host's own form.
            computed: The output as computed, in the same form.
        """

    @hookspec
    def on_step(self, run: Run, step: Step, outcome: Outcome) -> None:
        """A step is final.

        Args:
            run: Whose step it is; the object that ``on_run_start`` was told of. Streams of one sampling are runs of their own, and take turns.
            step: The step.
            outcome: What happened, row by row, on the host.
        """

    @hookspec
    def on_run_end(self, report: Report) -> None:
        """A run has ended, also by an exception.

        Args:
            report: The finished report.
        """
