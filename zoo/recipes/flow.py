"""Flow matching: the straight path from data to noise, its velocity, and what is drawn for a training batch.

Lipman et al. 2022 (arXiv 2210.02747) and Liu et al. 2022 (arXiv 2209.03003): ``x(s) = (1 - s) data + s
noise`` has the velocity ``noise - data`` in the noise level s, which runs from 0 (data) to 1 (noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreseer.zoo.standins import NO_DIGIT

__all__ = ["noised", "without_some"]


def without_some(digits: Tensor, generator: torch.Generator, *, share: float = 0.1) -> Tensor:
    """Replace this share of ``(B,)`` classes by "none", which classifier-free guidance starts from."""
    return torch.where(torch.rand(len(digits), generator=generator) < share, NO_DIGIT, digits)


def noised(data: Tensor, generator: torch.Generator, *, shift: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw noise levels and noise for a batch. Returns ``noisy, sigmas, velocity``.

    Args:
        data: ``(B, ...)`` floats of about mean 0 and variance 1.
        generator: What everything is drawn from.
        shift: Uniform levels u become ``shift u / (1 + (shift - 1) u)``, as in diffusers' flow schedulers:
            above 1, more of the levels are high.

    Returns:
        ``noisy`` and ``velocity`` like ``data``, and ``sigmas`` ``(B,)`` in [0, 1).
    """
    uniform = torch.rand(len(data), generator=generator)
    sigmas = shift * uniform / (1 + (shift - 1) * uniform)
    noise = torch.randn(data.shape, generator=generator)
    levels = sigmas.view(-1, *[1] * (data.ndim - 1))
    return (1 - levels) * data + levels * noise, sigmas, noise - data
