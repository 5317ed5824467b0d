"""The reference loop: the engine with nothing around it. It fits on one screen, so that it can be checked
against a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from torch import Tensor

from foreseer.backbone import Backbone, places_of
from foreseer.declared import Numbers, Schedule, groups_of
from foreseer.errors import OptionError
from foreseer.registry import PolicySpec, build_observers
from foreseer.registry import policy as named
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import Run

__all__ = ["sample"]


def sample(
    backbone: Backbone,
    x: Any,
    timesteps: Sequence[float] | Tensor,
    *,
    policy: str | Callable[..., Any] | PolicySpec,
    inputs: Callable[[Any, float], Any],
    update: Callable[[Any, Any, int], Any],
    groups: Sequence[int] | int | None = None,
    sigmas: Numbers = None,
    log_snr: Numbers = None,
    observers: Sequence[object] = (),
    on_error: Literal["raise", "compute"] = "raise",
) -> tuple[Any, Report]:
    """Sample with a policy.

    Args:
        backbone: The denoiser.
        x: The initial noise.
        timesteps: ``(T,)`` one per denoiser evaluation, in their order; handed to ``inputs`` as they are
            given.
        policy: See `foreseer.policy`.
        inputs: ``(x, timestep) -> inputs`` of one evaluation, in the backbone's own form.
        update: ``(x, output, index) -> x``: the sampler's step.
        groups: ``(R,)`` sample of each row, or the number of samples, B, if row r belongs to sample r mod B;
            None where every row is one.
        sigmas: ``(T,)`` noise levels, as the loop counts them, for policies that want them.
        log_snr: ``(T,)`` log(alpha / sigma) where the model is given alpha x + sigma noise, likewise.
        observers: Plugins that watch, or names of installed ones (``"csvtrace:path=trace.csv"``).
        on_error: See `foreseer.Session`.

    Returns:
        The final ``x`` and the report.

    Raises:
        OptionError: There is no timestep, or one, or a noise level, is no finite number.
        ContractError: ``groups`` do not fit the rows.
        ForeseerError: As `foreseer.Session`.
    """
    given = timesteps.tolist() if isinstance(timesteps, Tensor) else timesteps
    given = tuple(given) if isinstance(given, Iterable) else given
    schedule = Schedule(timesteps=given, sigmas=sigmas, log_snr=log_snr)
    if not schedule.timesteps:
        raise OptionError(f"timesteps={timesteps!r} has no step; write one number for each denoiser evaluation")
    rows = backbone.rows(inputs(x, given[0]))
    run = Run(
        depth=backbone.depth,
        rows=rows,
        groups=groups_of(groups, rows),
        num_steps=schedule.num_steps,
        timesteps=schedule.timesteps,
        sigmas=schedule.sigmas,
        log_snr=schedule.log_snr,
        sites=backbone.sites,
        places=places_of(backbone),
    )
    session = Session(backbone, named(policy), run, observers=build_observers(observers), on_error=on_error)
    try:
        for index, timestep in enumerate(given):
            x = update(x, session.evaluate(inputs(x, timestep)), index)
    finally:
        report = session.finish()
    return x, report
