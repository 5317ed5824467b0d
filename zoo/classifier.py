"""A small classifier of 8x8 digits: the judge of what the bundled DiT draws."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from foreseer.errors import OptionError

__all__ = ["CONFIG", "DigitClassifier"]

CONFIG: dict[str, Any] = {"width": 32, "feature_size": 64}


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers, of which the first has ``feature_size``, D, outputs."""

    def __init__(self, *, width: int = CONFIG["width"], feature_size: int = CONFIG["feature_size"]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, feature_size),
            nn.SiLU(),
        )
        self.head = nn.Linear(feature_size, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return the ``(B, D)`` penultimate layer for ``(B, 1, 8, 8)`` images in [-1, 1], or an
        `OptionError`.
        """
        if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
            raise OptionError(f"images has shape {tuple(images.shape)}; the classifier takes (B, 1, 8, 8) in [-1, 1]; resize or reshape them first")
        out: Tensor = self.body(images)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the ``(B, 10)`` logits for ``(B, 1, 8, 8)`` float images in [-1, 1]."""
        out: Tensor = self.head(self.features(images))
        return out
