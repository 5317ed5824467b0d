"""The reference loop: the engine with nothing around it. It fits on one screen, so that it can be checked against a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from foreseer.backbone import Backbone
from foreseer.registry import PolicySpec, build_observers
from foreseer.registry import policy as named
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import Run

__all__ = ["sample"]


def sample(
    backbone: Backbone,
    x: Any,
    timesteps: Sequence[float],
    *,
    policy: str | Callable[..., Any] | PolicySpec,
    inputs: Callable[[Any, float], Any],
    update: Callable[[Any, Any, int], Any],
    groups: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    observers: Sequence[object] = (),
    on_error: Literal["raise", "compute"] = "raise",
) -> tuple[Any, Report]:
    """Sample with a policy.

    Args:
        backbone: The denoiser.
        x: The initial noise.
        timesteps: ``(T,)`` one per denoiser evaluation, in the order of the evaluations.
        policy: See `foreseer.policy`.
        inputs: ``(x, timestep) -> inputs`` of one evaluation, in the backbone's own form.
        update: ``(x, output, index) -> x``: the sampler's step.
        groups: ``(R,)`` sample of each row; None where every row is a sample.
        sigmas: ``(T,)`` noise levels, for policies that want them.
        observers: Plugins that watch, or names of installed ones (``"csvtrace:path=trace.csv"``).
        on_error: See `foreseer.Session`.

    Returns:
        The final ``x`` and the report.
    """
    rows = backbone.rows(inputs(x, timesteps[0]))
    run = Run(
        depth=backbone.depth,
        rows=rows,
        groups=tuple(range(rows)) if groups is None else tuple(groups),
        num_steps=len(timesteps),
        timesteps=tuple(float(t) for t in timesteps),
        sigmas=None if sigmas is None else tuple(float(s) for s in sigmas),
        sites=backbone.sites,
    )
    session = Session(backbone, named(policy), run, observers=build_observers(observers), on_error=on_error)
    try:
        for index, timestep in enumerate(timesteps):
            x = update(x, session.evaluate(inputs(x, timestep)), index)
    finally:
        report = session.finish()
    return x, report
