"""At which noise levels a sampler is going to evaluate the model: it is rehearsed on a latent of four numbers.

Samplers of second order evaluate more often than their list of sigmas says, and policies want to know how often.
So the sampler's own code runs once with a stand-in for the model, which notes the sigma and returns zeros.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["sigmas_ahead"]


class _Listener:
    """Stands in for a guider: notes the noise levels, and is the guider in all else."""

    def __init__(self, guider: Any, own: list[Any]) -> None:
        self._guider, self._own = guider, own
        self.heard: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Mapping[str, Any] | None = None, seed: int | None = None) -> Tensor:
        self.heard.append(float(sigma.flatten()[0]))
        nothing, options = torch.zeros_like(x), model_options or {}
        # those of the sampler itself: some read there what the model says without the prompt
        for function in options.get("sampler_post_cfg_function", ()):
            if function not in self._own:
                function(
                    {
                        "denoised": nothing, "cond": None, "uncond": None, "cond_scale": 1.0, "model": self._guider.inner_model, "uncond_denoised": nothing,
                        "cond_denoised": nothing, "sigma": sigma, "model_options": options, "input": x,
                    }
                )  # fmt: skip
        return nothing


def sigmas_ahead(sampler: Any, guider: Any, sigmas: Tensor, extra_args: Mapping[str, Any]) -> list[float]:
    """Return the noise level of each evaluation ahead.

    One that adapts to what the model says (``dpm_adaptive``) makes others; evaluations that were not foreseen
    are computed. A sampler that cannot be rehearsed is believed to evaluate once at each of its sigmas.

    Args:
        sampler: ComfyUI's; its method ``sample`` is called as ComfyUI calls it. No random number of the process
            is used up.
        guider: What it would call.
        sigmas: ``(T + 1,)`` as it will be given.
        extra_args: Likewise.
    """
    device, options = sigmas.device, extra_args.get("model_options", {})
    listener = _Listener(guider, list(options.get("sampler_post_cfg_function", ())))
    latent = torch.zeros(1, 1, 2, 2)
    given = {**extra_args, "model_options": {**options}}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            sampler.sample(listener, sigmas.cpu(), given, None, latent, latent, None, True)
    except Exception as error:  # whatever a sampler of others does with so small a latent
        logging.info("foreseer: %s cannot be rehearsed (%s); one evaluation for each of its sigmas is expected", type(sampler).__name__, error)
        return [float(sigma) for sigma in sigmas[:-1]]
    return listener.heard
