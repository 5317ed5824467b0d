"""The bundled FLUX-shaped model of handwritten digits, in diffusers' own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreseer.zoo.standins import DigitTable, DigitTokenizer, PixelImage

if TYPE_CHECKING:
    from diffusers import FluxPipeline

__all__ = ["CONFIG", "SIDE", "FluxDigits", "pipeline", "shrink", "upscale"]

SIDE = 16
"""Height and width of the images, pixels."""

CONFIG: dict[str, Any] = {
    "transformer": {
        "in_channels": 4,
        "num_layers": 4,
        "num_single_layers": 8,
        "attention_head_dim": 32,
        "num_attention_heads": 3,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 14, 14],
    },
    "text": {"length": 4, "width": 32, "pooled": 32},
    "vae": {"shift": -0.375, "scale": 1.4},
    # as in FLUX.1-dev; 64 tokens come to a shift of exp(0.47) = 1.6
    "scheduler": {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096},
}


def upscale(digits: Tensor) -> Tensor:
    """Return ``(B, 1, 16, 16)`` images of ``(B, 1, 8, 8)`` digits in [-1, 1]."""
    return F.interpolate(digits, size=SIDE, mode="bicubic", align_corners=False).clamp(-1, 1)


def shrink(images: Tensor) -> Tensor:
    """Return the ``(B, 1, 8, 8)`` digits, means of 2x2 pixels, of ``(B, 1, 16, 16)`` images."""
    return F.avg_pool2d(images, 2)


class FluxDigits(nn.Module):
    """What is trained: transformer and table of embeddings, called on images instead of packed tokens."""

    def __init__(self, config: dict[str, Any]) -> None:
        from diffusers import FluxTransformer2DModel

        super().__init__()
        self.config = config
        self.transformer = FluxTransformer2DModel(**config["transformer"])
        self.text = DigitTable(**config["text"])
        self.tokenizer = DigitTokenizer(config["text"]["length"])

    def forward(self, latents: Tensor, sigmas: Tensor, digits: Tensor, guidance: Tensor) -> Tensor:
        """Return the velocity, like the ``(B, 1, H, W)`` latents, at ``(B,)`` noise levels in [0, 1], for
        ``(B,)`` digits, 10 for none, and ``(B,)`` guidance scales.
        """
        batch, _, height, width = latents.shape
        rows, columns = height // 2, width // 2
        tokens = latents.view(batch, rows, 2, columns, 2).permute(0, 1, 3, 2, 4).reshape(batch, rows * columns, 4)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(latents)
        encoding = self.text(self.tokenizer.ids(digits))
        velocity: Tensor = self.transformer(
            hidden_states=tokens,
            timestep=sigmas,
            guidance=guidance,
            pooled_projections=encoding.pooler_output,
            encoder_hidden_states=encoding.last_hidden_state,
            txt_ids=latents.new_zeros(self.text.length, 3),
            img_ids=F.pad(places, (1, 0)),
            return_dict=False,
        )[0]
        return velocity.view(batch, rows, columns, 2, 2).permute(0, 1, 3, 2, 4).reshape(latents.shape)


def pipeline(model: FluxDigits) -> FluxPipeline:
    """Put the model into a `FluxPipeline`, which draws 16x16 images unless it is told otherwise."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**model.config["scheduler"]),
        vae=PixelImage(**model.config["vae"]).to(model.text.device, model.text.dtype),
        text_encoder=model.text,
        tokenizer=model.tokenizer,
        text_encoder_2=model.text,
        tokenizer_2=model.tokenizer,
        transformer=model.transformer,
    )
    pipe.default_sample_size = SIDE
    return pipe
