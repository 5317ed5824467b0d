"""Small trained models that ship with the package, and the recipes that made them. Everything loads without network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

    from foreseer.zoo.classifier import DigitClassifier

__all__ = ["ZOO", "load_classifier", "load_dit"]

ZOO = Path(__file__).parent
"""Where the weights lie."""


def load_dit(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> DiTTransformer2DModel:
    """Load the class-conditional DiT on handwritten digits, in eval mode.

    It predicts the noise of ``(B, 1, 8, 8)`` images in [-1, 1] for classes 0..9; class 10 stands for "no class". See
    ``zoo/dit_digits/card.md``.

    Raises:
        ImportError: Without diffusers (``pip install 'foreseer[diffusers]'``).
    """
    from foreseer.zoo.dit import load_weights

    model = load_weights(ZOO / "dit_digits")
    # diffusers' own `to` warns about layers to keep in float32, of which this class has none
    torch.nn.Module.to(model, device, dtype)
    return model.eval()


def load_classifier(*, device: str | torch.device = "cpu") -> DigitClassifier:
    """Load the classifier of handwritten digits, float32, in eval mode.

    It takes ``(B, 1, 8, 8)`` images in [-1, 1]. See ``zoo/digits_classifier/card.md``.

    Raises:
        ImportError: Without safetensors (``pip install 'foreseer[diffusers]'``).
    """
    from foreseer.zoo.classifier import load_weights

    return load_weights(ZOO / "digits_classifier").to(device).eval()
