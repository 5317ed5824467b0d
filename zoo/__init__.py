"""Small trained models that ship with the package. Everything loads without network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from foreseer.zoo.storing import load

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel, FluxPipeline, WanPipeline

    from foreseer.zoo.judge import DigitClassifier

__all__ = ["ZOO", "load_classifier", "load_dit", "load_fashion", "load_flux", "load_wan", "presets"]

ZOO = Path(__file__).parent
"""Where the weights lie."""
Model = TypeVar("Model", bound=torch.nn.Module)


def load_dit(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> DiTTransformer2DModel:
    """Load the class-conditional DiT on handwritten digits, in eval mode.

    It predicts the noise of ``(B, 1, 8, 8)`` images in [-1, 1] for classes 0..9; class 10 stands for "no
    class". See ``zoo/dit_digits/card.md``.

    Raises:
        ImportError: Without diffusers (``pip install 'foreseer[diffusers]'``), as of the others.
    """
    from foreseer.zoo.dit import build, stored_as

    return _moved(load(build, ZOO / "dit_digits", stored_as=stored_as), device, dtype)


def load_classifier(*, device: str | torch.device = "cpu") -> DigitClassifier:
    """Load the classifier of ``(B, 1, 8, 8)`` digits in [-1, 1], float32, in eval mode."""
    from foreseer.zoo.judge import DigitClassifier

    return load(lambda config: DigitClassifier(**config), ZOO / "digits_classifier").to(device)


def load_fashion(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> DiTTransformer2DModel:
    """Load the class-conditional DiT on Fashion-MNIST, in eval mode.

    It predicts the velocity of ``(B, 1, 28, 28)`` images in [-1, 1] for the classes 0..9 of
    `foreseer.zoo.fashion.CLASSES`; class 10 stands for "no class". Sample with
    ``ddim_sample(..., prediction="v_prediction")``. See ``zoo/dit_fashion/card.md``.
    """
    from foreseer.zoo.dit import build, stored_as

    return _moved(load(build, ZOO / "dit_fashion", stored_as=stored_as), device, dtype)


def load_flux(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> FluxPipeline:
    """Load the FLUX-shaped model of handwritten digits, in a real `FluxPipeline`, in eval mode.

    `pipe("7")` draws a 16x16 grey image. A prompt names one digit, as a numeral or a word ("a seven"); the
    empty prompt stands for any digit. Guidance is an input of the transformer (distilled, 1 to 5). The
    transformer is a `FluxTransformer2DModel` of 4 double and 8 single blocks. The rest are
    `foreseer.zoo.standins`; latents are the pixels, ``(B, 1, 16, 16)``, packed to ``(B, 64, 4)``. See
    ``zoo/flux_digits/card.md``.
    """
    from foreseer.zoo.flux import FluxDigits, pipeline

    return pipeline(_moved(load(FluxDigits, ZOO / "flux_digits"), device, dtype).requires_grad_(False))


def load_wan(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> WanPipeline:
    """Load the Wan-shaped model of moving digits, in a real `WanPipeline`, in eval mode.

    ``pipe("7")`` makes a grey video of 9 frames of 16x16 pixels; ``max_sequence_length=2`` makes the same one
    faster: a longer one repeats the two vectors of a prompt. Prompts are as in `load_flux`. Guidance is true
    guidance: two calls a step. The transformer is a `WanTransformer3DModel` of 8 blocks. The rest are
    `foreseer.zoo.standins`; latents are the pixels, 2x2 of them in two frames to a latent of 8 channels:
    ``(B, 8, 5, 8, 8)``, or 80 tokens. See ``zoo/wan_digits/card.md``.
    """
    from foreseer.zoo.wan import WanDigits, pipeline

    return pipeline(_moved(load(WanDigits, ZOO / "wan_digits"), device, dtype).requires_grad_(False))


def presets() -> dict[str, Path]:
    """Return the bundled presets: by name, the file. See ``zoo/presets/README.md``."""
    return {path.stem: path for path in sorted((ZOO / "presets").glob("*.json"))}


def _moved(model: Model, device: str | torch.device, dtype: torch.dtype) -> Model:
    # diffusers' own `to` warns about layers to keep in float32; here every layer takes the dtype that was
    # asked for
    torch.nn.Module.to(model, device, dtype)
    return model
