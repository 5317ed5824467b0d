"""What an observer may implement. It cannot decide; if it raises, it is dropped for the rest of the run and
the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foreseer.hookspecs import hookspec
from foreseer.outcome import Outcome
from foreseer.report import Report
from foreseer.types import Run, Site, Step

__all__ = ["ObserverSpecs"]


class ObserverSpecs:
    """Hooks of an observer, in the order in which a session calls them."""

    @hookspec
    def features_wanted(self, run: Run) -> tuple[Site, ...] | None:
        """Say which computed features this observer wants to see; asked before a run's first step, and again
        if the host's sites turn out to be others.

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
            features: For each recorded site, at least those that were wanted, ``(n, ...)``. Never write to
                them, and copy what you keep: a host may use their memory again.
        """

    @hookspec
    def shadow(self, run: Run, step: Step) -> bool | None:
        """Say whether a step that was forecast for some rows shall be computed as well, to see how far off
        the forecast was.

        What it costs is counted apart (``Report.check_block_rows``), and nothing of it enters the run.

        Args:
            run: Whose step it is.
            step: The step that was just carried out, and had forecasts.

        Returns:
            True to compute it; ``on_shadow`` is told the result. None for no.
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
        """A step with forecasts was computed as well, for all rows; told before ``on_step``, and only to
        observers that asked for it.

        Args:
            run: Whose step it is.
            step: The step.
            outcome: What happened, row by row, on the host.
            drafts: For each site that was to be forecast, the forecast ``(R, ...)`` of every row, used or
                refused.
            features: For each recorded site what was computed, ``(R, ...)``.
            output: The denoiser's output that the run went on with, in the host's own form.
            computed: The output as computed, in the same form.
        """

    @hookspec
    def on_step(self, run: Run, step: Step, outcome: Outcome) -> None:
        """A step is final.

        Args:
            run: Whose step it is; the object that ``on_run_start`` was told of. Streams of one sampling are
                runs of their own, and take turns.
            step: The step.
            outcome: What happened, row by row, on the host.
        """

    @hookspec
    def on_run_end(self, report: Report) -> None:
        """A run has ended, also by an exception.

        Args:
            report: The finished report.
        """
