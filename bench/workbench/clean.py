"""The data prediction of a solver: what it takes the model's output for, after guidance and in every step, a
clean sample. All that a solver does is linear in these, so that their inner products say what any other choice
of steps would have come to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.solvers import KINDS
from foreseer.errors import OptionError
from foreseer.schedule_plan import Grid
from foreseer.types import Site

__all__ = ["CLEAN", "clean_predictions", "grid_of", "inner_products"]

CLEAN = Site(-1, "clean")
"""The data prediction, of all streams of a step together; no place in a model, so that only recordings have
it.
"""

Array = NDArray[np.float64]


@contextmanager
def clean_predictions(scheduler: Any) -> Iterator[list[Tensor]]:
    """Collect the data predictions of a sampling, one for each step, like the latents.

    Args:
        scheduler: A multistep solver of diffusers that predicts data: `DPMSolverMultistepScheduler`,
            `UniPCMultistepScheduler`.

    Raises:
        OptionError: It is another scheduler.
    """
    if not _predicts_data(scheduler):
        name = "a loop of the caller's own" if scheduler is None else type(scheduler).__name__
        raise OptionError(f"site='clean' is what a multistep solver makes of the model's output, and {name} makes none; write --solver dpmpp_2m with it")
    found: list[Tensor] = []
    convert = scheduler.convert_model_output

    def watched(*args: Any, **options: Any) -> Tensor:
        prediction: Tensor = convert(*args, **options)
        found.append(prediction.detach())
        return prediction

    scheduler.convert_model_output = watched
    try:
        yield found
    finally:
        del scheduler.convert_model_output


def inner_products(predictions: Sequence[Tensor]) -> Array:
    """Return ``(S, T, T)`` float64 inner products of T predictions ``(S, ...)``."""
    flat = torch.stack([each.double().flatten(1) for each in predictions], dim=1)
    return np.asarray((flat @ flat.transpose(1, 2)).cpu().numpy())


def grid_of(scheduler: Any, *, solver: str) -> Grid | None:
    """Return the steps that a multistep solver of diffusers was last set to, None of another scheduler;
    ``solver`` is its name for a command; empty for a scheduler of the pipeline's own, whose name it is found by.
    """
    if not _predicts_data(scheduler):
        return None
    sigmas = scheduler.sigmas[: len(scheduler.timesteps)].double()
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigmas)
    return Grid(solver=solver or _kind_of(scheduler), timesteps=scheduler.timesteps.tolist(), sigmas=sigmas.tolist(), levels=(sigma / alpha).tolist())


def _predicts_data(scheduler: Any) -> bool:
    """Whether a scheduler steps by data predictions alone: some that are alike predict noise, or add it."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    ours = str(config.get("algorithm_type", "")) == "dpmsolver++" if "DPM" in name else bool(config.get("predict_x0"))
    return ours and any(name in classes for classes, _ in KINDS.values())


def _kind_of(scheduler: Any) -> str:
    """Return which of `foreseer.bench.solvers.KINDS` a scheduler is."""
    name, order = type(scheduler).__name__, scheduler.config.solver_order
    return next((kind for kind, (classes, options) in KINDS.items() if name in classes and options.get("solver_order") == order), name)
