"""A small classifier of 8x8 digits: the judge of what the bundled DiT draws. Its penultimate layer is the space of the Frechet distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.errors import OptionError

__all__ = ["CONFIG", "DigitClassifier", "load_weights", "save_weights"]

CONFIG: dict[str, Any] = {"width": 32, "feature_size": 64}


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers.

    Args:
        width: Channels of the first convolution; the other two have twice as many.
        feature_size: Size D of the penultimate layer.
    """

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
        """Return the ``(B, D)`` penultimate layer for ``(B, 1, 8, 8)`` float images in [-1, 1].

        Raises:
            OptionError: If the images have another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
            raise OptionError(f"images has shape {tuple(images.shape)}; the classifier takes (B, 1, 8, 8) in [-1, 1]; resize or reshape them first")
        out: Tensor = self.body(images)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the ``(B, 10)`` logits for ``(B, 1, 8, 8)`` float images in [-1, 1]."""
        out: Tensor = self.head(self.features(images))
        return out


def save_weights(model: DigitClassifier, folder: Path, *, config: dict[str, Any] | None = None) -> Path:
    """Write ``config.json`` and ``weights.safetensors`` (float32). Returns the weights' path.

    Args:
        model: The classifier.
        folder: Where to write; made if it does not exist.
        config: The arguments the classifier was made with; None means `CONFIG`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config, indent=1) + "\n")
    save_file({k: v.detach().to("cpu", torch.float32).contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def load_weights(folder: Path) -> DigitClassifier:
    """Build the classifier that `save_weights` wrote: float32, on the CPU, in eval mode."""
    from safetensors.torch import load_file

    model = DigitClassifier(**json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
