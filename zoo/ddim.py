"""DDIM with guidance by concatenation, as in the papers' DiT experiments: a user's own loop, short enough to
be checked.

diffusers' `DDIMScheduler` steps from t to t - 1000 // T whatever its timesteps are. This sampler steps to the
next timestep.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from foreseer.errors import OptionError
from foreseer.zoo.dit import NULL_CLASS, alphas_cumprod

__all__ = ["Prediction", "ddim_sample", "ddim_timesteps"]

Prediction = Literal["epsilon", "v_prediction"]
"""What a model predicts, in diffusers' words, of ``x = sqrt(a) image + sqrt(1 - a) noise``: the noise, or the
velocity ``v = sqrt(a) noise - sqrt(1 - a) image`` (arXiv 2202.00512)."""


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
    prediction: Prediction = "epsilon",
) -> Tensor:
    """Sample with DDIM (arXiv 2010.02502), eta 0, no clipping.

    Args:
        model: Has the prediction in its first output channel: ``model(x, timesteps, class_labels=...)``.
        noise: ``(B, 1, H, W)`` initial noise.
        labels: ``(B,)`` classes.
        timesteps: Noisiest first.
        guidance: p = p_uncond + guidance * (p_cond - p_uncond) of the prediction; at one noise level that is
            the same of noise, velocity or image. Each call has 2B rows: the conditional ones, then the
            unconditional.
        prediction: What the model predicts. For v, image = sqrt(a) x - sqrt(1 - a) v and noise = sqrt(1 - a)
            x + sqrt(a) v.

    Returns:
        ``(B, 1, H, W)`` samples.

    Raises:
        OptionError: If ``prediction`` is neither.
    """
    if prediction not in get_args(Prediction):
        raise OptionError(f"prediction={prediction!r} is unknown; write one of {', '.join(map(repr, get_args(Prediction)))}")
    schedule = alphas_cumprod()
    x = noise
    classes = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
    for index, t in enumerate(timesteps):
        rows = torch.full((len(classes),), t, device=x.device)
        cond, uncond = model(torch.cat([x, x]), rows, class_labels=classes).sample[:, :1].chunk(2)
        p = uncond + guidance * (cond - uncond)
        a = schedule[t].item()
        a_next = schedule[timesteps[index + 1]].item() if index + 1 < len(timesteps) else 1.0
        if prediction == "epsilon":
            e, clean = p, (x - (1 - a) ** 0.5 * p) / a**0.5
        else:
            e, clean = (1 - a) ** 0.5 * x + a**0.5 * p, a**0.5 * x - (1 - a) ** 0.5 * p
        x = a_next**0.5 * clean + (1 - a_next) ** 0.5 * e
    return x
