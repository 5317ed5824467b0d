"""What a scheduler of diffusers says of the steps to come: their timesteps, and how much noise there is.

What a denoiser is given is alpha x + sigma n, of a clean x and noise n. Schedulers count one number of the
two, and in three ways: the share of noise (flow matching, where alpha = 1 - sigma); sigma / alpha (those that
were derived from DDPM's betas, and EDM's, whose alpha is 1); or none but DDPM's ``alphas_cumprod``, which is
alpha squared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreseer.declared import Schedule

__all__ = ["is_flow", "schedule_of", "times_of"]

Array = NDArray[np.float64]
ROUNDED = 1.0
"""How far a timestep may be from that of its noise level, in steps of training: solvers round it."""


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler's noise is that of flow matching: some are born so, others are set up so."""
    config = _config(scheduler)
    born = any(kind.__name__.startswith(("FlowMatch", "LTXEulerAncestralRF")) for kind in type(scheduler).__mro__)
    return born or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def times_of(scheduler: Any) -> tuple[float, ...] | None:
    """Return the timesteps that a scheduler is set up with; None where it has none that are finite numbers."""
    scheduled = getattr(scheduler, "timesteps", None)
    if scheduled is None or not hasattr(scheduled, "tolist"):
        return None
    times = tuple(float(t) for t in scheduled.flatten().tolist())
    return times if all(map(math.isfinite, times)) else None


def schedule_of(scheduler: Any, which: slice = slice(None), *, timesteps: Sequence[float] | None = None) -> Schedule:
    """Return what is known of some steps of a scheduler.

    Args:
        scheduler: Of diffusers.
        which: Which of the timesteps that it is set up with these steps have.
        timesteps: ``(T,)`` theirs, where a loop has some of its own; None for the scheduler's.

    Returns:
        ``sigmas`` as the scheduler counts them; None where it counts none, or others than those of its
        timesteps (solvers with an evaluation in the middle of a step). ``log_snr``, None where nothing says
        what it counts.
    """
    times = (times_of(scheduler) or ())[which] if timesteps is None else tuple(timesteps)
    sigmas = _numbers(getattr(scheduler, "sigmas", None)) if timesteps is None else None
    sigmas = None if sigmas is None else sigmas[which][: len(times)]
    if sigmas is not None and (len(sigmas) < len(times) or not np.isfinite(sigmas).all() or (sigmas < 0).any()):
        sigmas = None
    with np.errstate(divide="ignore", invalid="ignore"):
        sigmas, log_snr = _levels(scheduler, np.asarray(times), sigmas)
    if log_snr is not None and np.isnan(log_snr).any():
        log_snr = None
    return Schedule(timesteps=times, sigmas=sigmas, log_snr=log_snr)


def _levels(scheduler: Any, times: Array, sigmas: Array | None) -> tuple[Array | None, Array | None]:
    """Noise levels as they are counted, where they are those of the timesteps, and log(alpha / sigma)."""
    config = _config(scheduler)
    if is_flow(scheduler):
        if sigmas is None:
            return None, None
        noise, clean = (1 - sigmas, sigmas) if config.get("invert_sigmas") else (sigmas, 1 - sigmas)
        return sigmas, np.log(clean) - np.log(noise)
    alphas = _numbers(getattr(scheduler, "alphas_cumprod", None))
    alphas = None if alphas is None or not len(alphas) else alphas
    logarithms = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if alphas is None or logarithms:  # EDM's timesteps are those of sigma
        known = sigmas is not None and (alphas is not None or config.get("sigma_data") is not None)
        return sigmas, -np.log(sigmas) if known and sigmas is not None else None
    trained, steps = 0.5 * (np.log(alphas) - np.log1p(-alphas)), np.arange(len(alphas))
    if sigmas is not None:
        meant = np.interp(np.log(sigmas), -trained, steps)
        if (np.abs(meant - np.clip(times, 0, len(alphas) - 1)) <= ROUNDED).all():
            return sigmas, -np.log(sigmas)
    return None, np.interp(times, steps, trained)


def _config(scheduler: Any) -> Mapping[str, Any]:
    """A scheduler's configuration; empty for one of the user's own that has none of diffusers' kind."""
    config = getattr(scheduler, "config", None)
    return config if isinstance(config, Mapping) else {}


def _numbers(values: Any) -> Array | None:
    """A tensor or an array as one of float64; None for anything else."""
    return np.asarray(values.tolist(), dtype=np.float64).reshape(-1) if hasattr(values, "tolist") else None
