"""DDIM with guidance by concatenation, as in the papers' DiT experiments: a user's own loop, short enough to
be checked.

diffusers' `DDIMScheduler` steps from t to t - 1000 // T whatever its timesteps are. This sampler steps to the
next timestep.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreseer.errors import OptionError
from foreseer.zoo.dit import NULL_CLASS, alphas_cumprod

__all__ = ["ddim_sample", "ddim_timesteps"]


def ddim_timesteps(num_steps: int) -> list[int]:
    """Return ``num_steps`` timesteps spread evenly over 999..0, noisiest first."""
    if num_steps < 1:
        raise OptionError(f"num_steps={num_steps} is out of range; write a whole number >= 1")
    if num_steps == 1:
        return [999]
    return [round(i * 999 / (num_steps - 1)) for i in reversed(range(num_steps))]


@torch.no_grad()
def ddim_sample(
    model: nn.Module,
    noise: Tensor,
    labels: Tensor,
    timesteps: list[int],
    *,
    guidance: float = 1.5,
) -> Tensor:
    """Sample with DDIM (arXiv 2010.02502), eta 0, no clipping.

    Args:
        model: Predicts the noise in its first output channel: ``model(x, timesteps, class_labels=...)``.
        noise: ``(B, 1, H, W)`` initial noise.
        labels: ``(B,)`` classes.
        timesteps: Noisiest first.
        guidance: e = e_uncond + guidance * (e_cond - e_uncond). Each call has 2B rows: the conditional ones,
            then the unconditional.

    Returns:
        ``(B, 1, H, W)`` samples.
    """
    schedule = alphas_cumprod()
    x = noise
    classes = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
    for index, t in enumerate(timesteps):
        rows = torch.full((len(classes),), t, device=x.device)
        cond, uncond = model(torch.cat([x, x]), rows, class_labels=classes).sample[:, :1].chunk(2)
        e = uncond + guidance * (cond - uncond)
        a = schedule[t].item()
        a_next = schedule[timesteps[index + 1]].item() if index + 1 < len(timesteps) else 1.0
        clean = (x - (1 - a) ** 0.5 * e) / a**0.5
        x = a_next**0.5 * clean + (1 - a_next) ** 0.5 * e
    return x
