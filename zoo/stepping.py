"""The loop of `foreseer.zoo.ddim` with any scheduler of diffusers taking the steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foreseer.zoo.dit import NULL_CLASS

__all__ = ["sample_with"]


@torch.no_grad()
def sample_with(scheduler: Any, model: nn.Module, noise: Tensor, labels: Tensor, *, num_steps: int, guidance: float) -> Tensor:
    """Sample with a scheduler that is told the number of steps here.

    Args:
        scheduler: One of diffusers, of the model's noise levels and prediction.
        model: ``model(x, timesteps, class_labels=...)``; its first output channel counts.
        noise: ``(B, 1, H, W)`` initial noise.
        labels: ``(B,)`` classes.
        num_steps: As the scheduler counts them.
        guidance: As `foreseer.zoo.ddim.ddim_sample` has it, and the same rows.

    Returns:
        ``(B, 1, H, W)`` samples.
    """
    scheduler.set_timesteps(num_steps)
    x: Tensor = noise * scheduler.init_noise_sigma
    classes = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        cond, uncond = model(torch.cat([seen, seen]), t.to(x.device).expand(len(classes)), class_labels=classes).sample[:, :1].chunk(2)
        x = scheduler.step(uncond + guidance * (cond - uncond), t, x, return_dict=False)[0]
    return x
