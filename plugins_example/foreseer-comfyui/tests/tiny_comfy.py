"""Tiny models of ComfyUI with random weights, and its own way from a latent to a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Tiny:
    """A model class in miniature.

    Attributes:
        config: What its class is built from.
        latent: Shape of a latent, without the batch.
        width, pooled: Of its conditions; ``pooled`` 0 where it has none.
        extra: What a condition has besides.
    """

    config: dict[str, Any]
    latent: tuple[int, ...]
    width: int
    pooled: int = 0
    extra: Callable[[int], dict[str, Any]] = lambda tokens: {}


def _flux(**others: Any) -> dict[str, Any]:
    found = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32, "context_in_dim": 24, "hidden_size": 64,
        "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True,
        "guidance_embed": True,
    }  # fmt: skip
    return found | others


TINY = {
    "Flux": Tiny(_flux(), (16, 8, 8), 24, 32),
    "WAN21_T2V": Tiny(
        {
            "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 128, "num_layers": 4, "num_heads": 2, "in_dim": 16, "out_dim": 16,
            "text_dim": 24,            "text_len": 16, "freq_dim": 32,
        },
        (16, 3, 8, 8), 24,
    ),
    "QwenImage": Tiny(
        {
            "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 4, "attention_head_dim": 32, "num_attention_heads": 2,
            "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12),
        },
        (16, 1, 8, 8), 24,
    ),
    "SD3": Tiny(
        {
            "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "adm_in_channels": 48, "num_patches": 4096, "pos_embed_max_size": 64,
            "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 40, "out_features": 128}}, "qk_norm": "rms",
            "pos_embed_scaling_factor": None, "input_size": None,
        },
        (16, 8, 8), 40, 48,
    ),
    "HunyuanVideo": Tiny(
        _flux(patch_size=[1, 2, 2], theta=256, byt5=False, meanflow=False, use_cond_type_embedding=False, vision_in_dim=None), (16, 3, 8, 8), 24, 32
    ),
    "ZImage": Tiny(
        {
            "image_model": "lumina2", "dim": 256, "n_heads": 8, "n_kv_heads": 8, "n_layers": 4, "n_refiner_layers": 1, "cap_feat_dim": 24,
            "axes_dims": [8, 12, 12], "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "multiple_of": 32,
            "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32, "qk_norm": True, "in_channels": 16,
        },
        (16, 8, 8), 24,
    ),
    "Flux2": Tiny(
        _flux(
            image_model="flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None, axes_dim=[8, 8, 8, 8], theta=2000, global_modulation=True,
            mlp_silu_act=True, ops_bias=False, qkv_bias=False, mlp_ratio=3.0,
        ),
        (128, 4, 4), 24, 32,
    ),
    "Chroma": Tiny(
        {
            "image_model": "chroma", "in_channels": 64, "out_channels": 64, "patch_size": 2, "context_in_dim": 24, "hidden_size": 64, "mlp_ratio": 4.0,
            "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "in_dim": 64, "out_dim": 64,
            "hidden_dim": 64, "n_layers": 2,
        },
        (16, 8, 8), 24, 32,
    ),
    "HiDream": Tiny(
        {
            "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32,
            "num_attention_heads": 2, "caption_channels": [24, 24], "text_emb_dim": 32, "num_routed_experts": 2, "num_activated_experts": 1,
            "axes_dims_rope": (8, 12, 12), "max_resolution": (8, 8), "llama_layers": [0, 1, 2, 3, 4],
        },
        (16, 8, 8), 24, 32, extra=lambda tokens: {"conditioning_llama3": torch.ones(1, 5, tokens, 24)},
    ),
    "LTXV": Tiny(
        {
            "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": 24,
            "num_layers": 4,
        },
        (128, 3, 4, 4), 24, extra=lambda tokens: {"attention_mask": torch.ones(1, tokens, dtype=torch.int64)},
    ),
}  # fmt: skip


def patcher_of(name: str, *, dtype: torch.dtype = torch.float32, cast: torch.dtype | None = None, seed: int = 0) -> Any:
    """Build a model with random weights, and return ComfyUI's handle of it."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    config = getattr(comfy.supported_models, name)(dict(TINY[name].config))
    config.set_inference_dtype(dtype, cast)
    model = config.get_model({}, "", device="cpu")
    generator, cpu = torch.Generator().manual_seed(seed), torch.device("cpu")
    with torch.no_grad():
        for key, weight in sorted(model.named_parameters()):
            drawn = (
                torch.randn(weight.shape, generator=generator) / max(weight.shape[-1], 1) ** 0.5
                if weight.ndim > 1
                else torch.randn(weight.shape, generator=generator) * 0.1
            )
            weight.copy_(drawn + (1.0 if "norm" in key and weight.ndim == 1 and key.endswith(("weight", "scale")) else 0.0))
        for key, buffer in model.diffusion_model.named_buffers():
            if key.endswith("pos_embed"):  # a checkpoint's; until then whatever lay there in memory
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def prompt(name: str, *, seed: int, tokens: int = 6, **others: Any) -> list[Any]:
    """Conditions as a text encoder would make them."""
    tiny, generator = TINY[name], torch.Generator().manual_seed(seed)
    pooled = {"pooled_output": torch.randn(1, tiny.pooled, generator=generator)} if tiny.pooled else {}
    return [[torch.randn(1, tokens, tiny.width, generator=generator), {**pooled, **tiny.extra(tokens), **others}]]


@attrs.frozen(kw_only=True)
class Asked:
    """What a sampling is asked for, as KSampler has it."""

    name: str = "Flux"
    steps: int = 8
    cfg: float = 2.0
    sampler: str = "euler"
    scheduler: str = "normal"
    batch: int = 1
    denoise: float = 1.0
    seed: int = 7
    frames: int = 0
    positive: Any = None
    negative: Any = None
    guider: Any = None
    callback: Any = None
    more: dict[str, Any] = attrs.field(factory=dict)


def sampled(patcher: Any, asked: Asked) -> Tensor:
    """Sample with ComfyUI's own code, in inference mode, as its executor does."""
    import comfy.sample

    positive = prompt(asked.name, seed=1) if asked.positive is None else asked.positive
    negative = prompt(asked.name, seed=2) if asked.negative is None else asked.negative
    with torch.inference_mode():
        shape = TINY[asked.name].latent
        latent = torch.zeros(asked.batch, *((shape[0], asked.frames, *shape[2:]) if asked.frames else shape))
        noise = comfy.sample.prepare_noise(latent, asked.seed)
        if asked.guider is not None:
            sampler = comfy.samplers.sampler_object(asked.sampler)
            sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), asked.scheduler, asked.steps)
            given = asked.guider(patcher, asked)
            guided: Tensor = given.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=asked.seed)
            return guided.clone()
        found: Tensor = comfy.sample.sample(
            patcher, noise, asked.steps, asked.cfg, asked.sampler, asked.scheduler, positive, negative, latent,
            denoise=asked.denoise, disable_pbar=True, seed=asked.seed, callback=asked.callback, **asked.more,
        )  # fmt: skip
        return found.clone()
