"""A scheduler of diffusers that steps as it does, and through noise levels that are chosen elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreseer.bench.spacings import twice
from foreseer.errors import OptionError

if TYPE_CHECKING:
    from foreseer.bench.solvers import Solver

__all__ = ["spaced"]


def spaced(base: Any, own: Any, solver: Solver, *, flow: bool) -> Any:
    """Return a class of scheduler that steps as another, through the noise levels that a solver says.

    Args:
        base: The class of diffusers that steps.
        own: A copy of the scheduler in whose place it stands. It is set to the steps that are asked for, and
            says where they begin and end.
        solver: Says the levels between, see `foreseer.bench.solvers.Solver.levels`.
        flow: Whether the noise is that of flow matching: timesteps are then 1000 times the level, and not whole.
    """

    class Spaced(base):  # type: ignore[misc]  # which of diffusers' classes it is, is known at run time only
        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Sequence[float] | None = None,
            mu: float | None = None,
            timesteps: Sequence[float] | None = None,
        ) -> None:
            asked = {"num_inference_steps": num_inference_steps, "sigmas": sigmas, "mu": mu, "timesteps": timesteps}
            given = {name: value for name, value in asked.items() if value is not None}
            if unknown := given.keys() - inspect.signature(own.set_timesteps).parameters.keys():
                raise OptionError(f"{unknown.pop()}= is not for {type(own).__name__}, in whose place solver={str(solver)!r} stands; give the number of steps")
            if not flow and num_inference_steps is not None and num_inference_steps > len(own.alphas_cumprod):
                raise OptionError(f"{num_inference_steps} steps are more than the {len(own.alphas_cumprod)} timesteps of this model; ask for fewer")
            own.set_timesteps(device=device, **given)
            found = np.asarray(own.timesteps.tolist(), dtype=np.float64)
            if flow:  # as they are where the scheduler rounds its timesteps
                found = np.asarray(own.sigmas.tolist(), dtype=np.float64)[: len(found)] * 1000.0
            found = np.unique(found)[::-1]  # some evaluate the model twice at a level
            # at zero signal the log-SNR is infinite; diffusers' own solvers begin there as well
            table = None if flow else np.sqrt(1.0 / np.maximum(own.alphas_cumprod.tolist(), 2.0**-24) - 1.0)
            steps, levels = solver.levels(found, table=table)
            # whatever it is, as its levels are replaced
            some = {"mu": 1.0} if "UniPC" in base.__name__ else {}
            super().set_timesteps(num_inference_steps=len(steps), device=device, **some)
            if solver.kind == "heun":
                steps, levels = twice(steps), twice(levels)
            self.timesteps = torch.tensor(steps, dtype=torch.float32 if flow else torch.int64, device=device)
            self.sigmas = torch.tensor(np.append(levels, 0.0), dtype=torch.float32)

        if flow:

            def scale_noise(self, sample: Any, timestep: Any, noise: Any) -> Any:
                """Add noise as a flow does, for image to image."""
                sigma = (timestep.to(sample) / 1000.0).reshape(-1, *(1,) * (sample.ndim - 1))
                return sigma * noise + (1.0 - sigma) * sample

        def _sigma_to_alpha_sigma_t(self, sigma: Any) -> Any:
            return (1 - sigma, sigma) if flow else super()._sigma_to_alpha_sigma_t(sigma)

    Spaced.__name__ = Spaced.__qualname__ = base.__name__
    return Spaced
