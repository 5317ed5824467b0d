"""FreqCa (arXiv 2510.08669): what is coarse in a feature is reused, what is fine is forecast.

A feature is split into bands over its tokens, F = low(F) + high(F), and the forecast is the low band's forecast
of low order plus the high band's of high order, both of Hermite form. The bands are linear and add up, so with
the two sets of weights v and w it is sum_i w_i F_i + low(sum_i (v_i - w_i) F_i): one transform, not one for
each kept feature.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.policies import Interval, taylor_weights
from foreseer.policies.drafting import Target
from foreseer.transfer import on_device
from foreseer.types import Drafts, History, Needs, Site, Step, Weights

__all__ = ["Bands", "freqca", "hermite_weights", "low_pass_dct", "low_pass_fft"]


def hermite_weights(anchors: tuple[float, ...], target: float, *, max_order: int, scale: float, warmup_steps: int) -> tuple[float, ...]:
    """Weights of TaylorSeer's differences on scaled Hermite polynomials (HiCache), s^i H_i(s x) / i!.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
        target: Step index to forecast, x steps behind the newest.
        max_order: Highest order of difference.
        scale: s.
        warmup_steps: As in `foreseer.policies.taylor_weights`.

    Returns:
        ``max_order + 1`` weights, newest first, 0 where there is no anchor. They sum to 1.
    """
    weights, lower = np.zeros(max_order + 1), np.zeros(max_order + 1)
    for order in range(max_order + 1):
        # One step ahead, the Taylor forecasts of two orders differ by D_i / i!.
        upper = np.zeros(max_order + 1)
        given = taylor_weights(anchors, anchors[0] + 1, max_order=order, warmup_steps=warmup_steps)
        upper[: len(given)] = given
        basis = scale**order * np.polynomial.hermite.hermval(scale * (target - anchors[0]), [0] * order + [1])
        weights, lower = weights + basis * (upper - lower), upper
    return tuple(weights[: len(anchors)].tolist())


def low_pass_fft(feature: Tensor, cutoff: float) -> Tensor:
    """Return the low band along the tokens, taken as one signal: |f| <= ``cutoff`` times the highest |f|.

    Args:
        feature: ``(R, N, C)`` N tokens of C channels, float32 or wider.
        cutoff: 0 keeps the mean alone, 1 everything.
    """
    tokens = feature.shape[1]
    spectrum = torch.fft.rfft(feature, dim=1)
    kept = math.floor(cutoff * (tokens // 2) + 1e-9) + 1
    spectrum[:, kept:] = 0
    low: Tensor = torch.fft.irfft(spectrum, n=tokens, dim=1)
    return low


def _dct(size: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II, ``(size, size)``."""
    at = torch.arange(size, dtype=torch.float64, device=like.device)
    rows = torch.cos(math.pi / size * at[:, None] * (at + 0.5)) * math.sqrt(2 / size)
    return torch.cat([rows[:1] / math.sqrt(2), rows[1:]]).to(like.dtype)


def low_pass_dct(feature: Tensor, cutoff: float) -> Tensor:
    """Return the low band of an image of tokens: sqrt(u^2 + v^2) <= ``cutoff`` sqrt(2) (H - 1) in a DCT-II,
    with u and v in parts of H - 1 and W - 1 where the image is no square.

    Args:
        feature: ``(R, H, W, C)`` float32 or wider.
        cutoff: 0 keeps the mean alone, 1 everything.
    """
    rows, columns = _dct(feature.shape[1], feature), _dct(feature.shape[2], feature)
    u, v = (torch.linspace(0, 1, size, dtype=torch.float64, device=feature.device) for size in feature.shape[1:3])
    keep = ((u[:, None] ** 2 + v**2).sqrt() <= cutoff * math.sqrt(2) + 1e-9)[..., None]

    def transformed(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        return torch.einsum("uh,hwc,vw->uvc", vertical, image, horizontal)

    # Image by image: products of matrices round by how many there are, and a row is to be what it is alone.
    return torch.stack([transformed(transformed(image, rows, columns) * keep, rows.T, columns.T) for image in feature])


@attrs.define(eq=False)
class Bands:
    """Predictor: one order for the low band, another for the high.

    Attributes:
        split: ``"fft"`` or ``"dct"``.
        cutoff: Where the low band ends.
        orders: Of the low and of the high band.
        scale: Of the Hermite polynomials.
        warmup_steps: Of the schedule.
        height: Rows of the image of tokens; None where it is a square, for ``"dct"``.
        width: Columns, likewise.
        channels: Of a token, where features have no dimension of their own for it.
    """

    split: Literal["fft", "dct"]
    cutoff: float
    orders: tuple[int, int]
    scale: float
    warmup_steps: int
    height: int | None
    width: int | None
    channels: int | None

    @hookimpl
    def setup(self) -> Needs:
        """Keep what the higher order needs."""
        return Needs(anchors=max(self.orders) + 1)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts:
        """Sum, and put the low band of the difference on top."""

        def weights(order: int) -> NDArray[np.float64]:
            def per_row(anchors: tuple[float, ...], target: float) -> tuple[float, ...]:
                return hermite_weights(anchors, target, max_order=order, scale=self.scale, warmup_steps=self.warmup_steps)

            return Weights.per_row(per_row, history.anchors, step.index).values

        low, high = map(weights, self.orders)
        drafts: dict[Site, Weights | Tensor] = {}
        for site in sites:
            features = history.features(site)
            forecast = self._sum(high, features)
            if not np.array_equal(low, high):
                forecast = forecast + self._low_pass(self._sum(low - high, features))
            drafts[site] = forecast.to(features.dtype)
        return drafts

    @staticmethod
    def _sum(values: NDArray[np.float64], features: Tensor) -> Tensor:
        """``(R, ...)`` of ``(R, K)`` and ``(K, R, ...)``, in float32 or wider."""
        wide = torch.promote_types(features.dtype, torch.float32)
        table = on_device(values, features.device, wide)
        total = torch.zeros_like(features[0], dtype=wide)
        for k in range(min(len(features), values.shape[1])):
            total = total + table[:, k].reshape(-1, *(1 for _ in total.shape[1:])) * features[k]
        return total

    def _low_pass(self, feature: Tensor) -> Tensor:
        """The low band of the image's tokens, 0 elsewhere."""
        tokens = feature.reshape(len(feature), -1, feature.shape[-1] if feature.ndim > 2 else self.channels or 1)
        count = self.height * self.width if self.height and self.width else tokens.shape[1]
        image = tokens[:, -count:]
        if self.split == "fft":
            low = low_pass_fft(image, self.cutoff)
        else:
            height = self.height or (count // self.width if self.width else math.isqrt(count))
            width = self.width or count // height
            if image.shape[1] != height * width or not (self.height or self.width or height == width):
                raise OptionError(
                    f"freqca: {image.shape[1]} tokens are no image of {height} by {width}, as split='dct' takes them for; write height= and width="
                )
            low = low_pass_dct(image.reshape(len(image), height, width, -1), self.cutoff).reshape(image.shape)
        others = torch.zeros_like(tokens[:, : tokens.shape[1] - image.shape[1]])
        return torch.cat([others, low], dim=1).reshape(feature.shape)


@cites(
    """@article{liu2025freqca,
  title={FreqCa: Accelerating Diffusion Models via Frequency-Aware Caching},
  author={Liu, Jiacheng and Cai, Peiliang and Zhou, Qinming and Lin, Yuqi and Kong, Deyang and Huang, Benhao and Pan,
  Yupei and Xu, Haowen and Zou, Chang and Tang, Junshu and Zheng, Shikang and Zhang, Linfeng},
  journal={arXiv preprint arXiv:2510.08669}, year={2025}}"""
)
@checked
def freqca(
    *,
    interval: Annotated[int, at_least(1)] = 6,
    warmup_steps: Annotated[int, at_least(1)] = 3,
    split: Literal["fft", "dct"] = "fft",
    cutoff: Annotated[float, at_least_float(0.0)] = 0.1,
    low_order: Annotated[int, at_least(0)] = 0,
    high_order: Annotated[int, at_least(0)] = 2,
    scale: Annotated[float, Range(float, 0.0, open_low=True)] = 0.71,
    height: Annotated[int | None, at_least(1)] = None,
    width: Annotated[int | None, at_least(1)] = None,
    channels: Annotated[int | None, at_least(1)] = None,
    target: Target = "last_block",
) -> tuple[Interval, Bands]:
    """Reuse the low frequencies of the last block, forecast the high ones (FreqCa, arXiv 2510.08669).

    Defaults are those of the released code. Forecasts are tensors, formed from three kept features: of one
    site that is cheap. Several processes must not share a sample's tokens.

    Where blocks return several tensors (FLUX's text and image), a host hands over one row of numbers, in which
    it cannot be seen where a token ends: write ``channels=`` and, since the release filters the image's tokens
    alone, ``height=`` and ``width=`` of the image. They are taken for the last ones; the others have the high
    band's forecast.

    Args:
        interval: Steps from one computed step to the next, N (released: 6 or 9).
        warmup_steps: Computed steps at the start.
        split: ``"fft"``: along the tokens, as one signal (released for Qwen-Image). ``"dct"``: over the image
            that they make (released for FLUX, squares only).
        cutoff: Where the low band ends, as a share of the highest frequency; 1 or more leaves no high band.
        low_order: Order of the low band's forecast; 0 is reuse, as published.
        high_order: Of the high band's.
        scale: Of the Hermite polynomials; sqrt(1/2) makes order 1 a line.
        height: Rows of tokens in the image. None: for ``"dct"`` as many as columns.
        width: Columns of tokens. None: as many as the tokens make. With both, other tokens are left out.
        channels: Numbers of a token, where the host hands a row of them over as one; None: 1 there, and what
            the feature's last dimension is elsewhere.
        target: ``"last_block"``: as released. The others are ours; ``"residual"`` keeps the live input.
    """
    return Interval(interval, warmup_steps, target), Bands(split, cutoff, (low_order, high_order), scale, warmup_steps, height, width, channels)
