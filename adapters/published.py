"""Published models as configurations: enough to build them without weights, on the meta device, and to know
what they are called with.

Configurations are those of the released checkpoints' ``config.json``. Text lengths are the pipelines'
defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from foreseer.errors import OptionError

__all__ = ["PUBLISHED", "Published", "published"]

Inputs = Callable[["Published", int, int, int, int], dict[str, Any]]


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


@attrs.frozen
class Published:
    """A released model.

    Attributes:
        name: As on the command line.
        checkpoint: Where its configuration is from.
        cls: Class name in diffusers.
        config: Constructor arguments.
        inputs: ``(self, batch, height, width, frames) -> keyword arguments`` of one call, on the meta device.
        rows_per_sample: Rows of a call for each sample; 2 where the pipeline concatenates for guidance.
        calls_per_step: Calls in a step; 2 where the pipeline guides in two calls, each of which has a history
            of its own.
        size: Default ``(height, width, frames)`` in pixels.
    """

    name: str
    checkpoint: str
    cls: str
    config: Mapping[str, Any] = attrs.field(repr=False)
    inputs: Inputs = attrs.field(repr=False)
    rows_per_sample: int = 1
    calls_per_step: int = 1
    size: tuple[int, int, int] = (1024, 1024, 1)

    def build(self) -> nn.Module:
        """Build the model in bfloat16 on the meta device: no memory, no download. Raises ImportError without
        diffusers.
        """
        import diffusers

        with torch.device("meta"):
            model: nn.Module = getattr(diffusers, self.cls)(**self.config)
        return nn.Module.to(model, torch.bfloat16).eval().requires_grad_(False)


def _flux(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    tokens = (height // 16) * (width // 16)
    given = {
        "hidden_states": _meta(batch, tokens, 64),
        "encoder_hidden_states": _meta(batch, 512, 4096),
        "pooled_projections": _meta(batch, 768),
        "timestep": _meta(batch),
        "img_ids": _meta(tokens, 3),
        "txt_ids": _meta(512, 3),
    }
    return given | ({"guidance": _meta(batch)} if model.config["guidance_embeds"] else {})


def _sd3(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    return {
        "hidden_states": _meta(batch, 16, height // 8, width // 8),
        "encoder_hidden_states": _meta(batch, 333, 4096),
        "pooled_projections": _meta(batch, 2048),
        "timestep": _meta(batch),
    }


def _dit(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    labels = _meta(batch, dtype=torch.int64)
    return {"hidden_states": _meta(batch, 4, height // 8, width // 8), "timestep": _meta(batch, dtype=torch.int64), "class_labels": labels}


def _pixart(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    return {
        "hidden_states": _meta(batch, 4, height // 8, width // 8),
        "encoder_hidden_states": _meta(batch, 300, 4096),
        "timestep": _meta(batch),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _wan(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    return {
        "hidden_states": _meta(batch, 16, (frames - 1) // 4 + 1, height // 8, width // 8),
        "timestep": _meta(batch, dtype=torch.int64),
        "encoder_hidden_states": _meta(batch, 512, 4096),
    }


def _hunyuan(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    return {
        "hidden_states": _meta(batch, 16, (frames - 1) // 4 + 1, height // 8, width // 8),
        "timestep": _meta(batch),
        "encoder_hidden_states": _meta(batch, 256, 4096),
        "encoder_attention_mask": _meta(batch, 256),
        "pooled_projections": _meta(batch, 768),
        "guidance": _meta(batch),
    }


def _qwen(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    rows, columns = height // 16, width // 16
    return {
        "hidden_states": _meta(batch, rows * columns, 64),
        "encoder_hidden_states": _meta(batch, 512, 3584),
        "timestep": _meta(batch),
        "img_shapes": [[(1, rows, columns)]] * batch,
    }


def _cogvideox(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    steps, rows, columns = (frames - 1) // 4 + 1, height // 8, width // 8
    tokens = steps * (rows // 2) * (columns // 2)
    return {
        "hidden_states": _meta(batch, steps, 16, rows, columns),
        "encoder_hidden_states": _meta(batch, 226, 4096),
        "timestep": _meta(batch),
        "image_rotary_emb": (_meta(tokens, 64), _meta(tokens, 64)),
    }


def _ltx(model: Published, batch: int, height: int, width: int, frames: int) -> dict[str, Any]:
    steps, rows, columns = (frames - 1) // 8 + 1, height // 32, width // 32
    return {
        "hidden_states": _meta(batch, steps * rows * columns, 128),
        "encoder_hidden_states": _meta(batch, 128, 4096),
        "timestep": _meta(batch),
        "encoder_attention_mask": _meta(batch, 128),
        "num_frames": steps,
        "height": rows,
        "width": columns,
    }


_WAN = {
    "patch_size": (1, 2, 2),
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "attention_head_dim": 128,
}

_MODELS = (
    Published("flux-dev", "black-forest-labs/FLUX.1-dev", "FluxTransformer2DModel", {"guidance_embeds": True}, _flux),
    Published("flux-schnell", "black-forest-labs/FLUX.1-schnell", "FluxTransformer2DModel", {"guidance_embeds": False}, _flux),
    Published(
        "hunyuan-video", "hunyuanvideo-community/HunyuanVideo", "HunyuanVideoTransformer3DModel", {"guidance_embeds": True}, _hunyuan, size=(720, 1280, 129)
    ),
    Published(
        "wan-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "WanTransformer3DModel",
        {**_WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, _wan, calls_per_step=2, size=(480, 832, 81),
    ),
    Published(
        "wan-14b", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "WanTransformer3DModel",
        {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, _wan, calls_per_step=2, size=(480, 832, 81),
    ),
    Published("qwen-image", "Qwen/Qwen-Image", "QwenImageTransformer2DModel", {}, _qwen, calls_per_step=2, size=(1328, 1328, 1)),
    Published(
        "sd3.5-large", "stabilityai/stable-diffusion-3.5-large", "SD3Transformer2DModel",
        {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 38, "attention_head_dim": 64, "num_attention_heads": 38,
         "joint_attention_dim": 4096, "caption_projection_dim": 2432, "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "qk_norm": "rms_norm"},
        _sd3, rows_per_sample=2,
    ),
    Published(
        "dit-xl-2-256", "facebook/DiT-XL-2-256", "DiTTransformer2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28, "sample_size": 32, "patch_size": 2,
         "num_embeds_ada_norm": 1000}, _dit, rows_per_sample=2, size=(256, 256, 1),
    ),
    Published(
        "pixart-sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArtTransformer2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28, "sample_size": 128, "patch_size": 2,
         "cross_attention_dim": 1152, "caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False},
        _pixart, rows_per_sample=2,
    ),
    Published(
        "cogvideox-5b", "THUDM/CogVideoX-5b", "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "attention_head_dim": 64, "num_layers": 42, "use_rotary_positional_embeddings": True, "sample_frames": 49},
        _cogvideox, rows_per_sample=2, size=(480, 720, 49),
    ),
    Published("ltx-video", "Lightricks/LTX-Video", "LTXVideoTransformer3DModel", {}, _ltx, rows_per_sample=2, size=(512, 704, 161)),
)  # fmt: skip

PUBLISHED: dict[str, Published] = {model.name: model for model in _MODELS}


def published(name: str) -> Published:
    """Look a published model up. Raises `OptionError` for an unknown one."""
    if name not in PUBLISHED:
        raise OptionError(f"model={name!r} is unknown; write one of {', '.join(PUBLISHED)}")
    return PUBLISHED[name]
