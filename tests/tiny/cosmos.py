"""Cosmos 1 and 2, and EasyAnimate."""

from typing import Any

import torch
from torch import nn

from .common import NO_TEXT, Ask, Tiny, flow, model, nothing, scheduler, tiny

TEXT, WIDTH = 6, 16
ENCODER = ("text_encoder", "tokenizer")
MASK = "prompt_attention_mask"


class Guard(nn.Module):
    """A stand-in for Cosmos' safety checker, which is another package; it is asked nothing when embeddings are handed in."""

    dtype, device = torch.float32, torch.device("cpu")


def cosmos_transformer(**config: Any) -> Any:
    """Three blocks, 32 wide. Without the padding mask, whose resizing needs torchvision."""
    return model(
        "CosmosTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        mlp_ratio=2,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 16, 16),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
        **config,
    )


def cosmos_parts(sampler: Any, **config: Any) -> dict[str, Any]:
    """Cosmos without a VAE."""
    return {"transformer": cosmos_transformer(**config), "vae": None, "scheduler": sampler, "safety_checker": Guard(), **nothing(*ENCODER)}


def cosmos1_parts() -> dict[str, Any]:
    """Cosmos 1: EDM sampling, positions learnt in every block."""
    edm = {"sigma_min": 0.002, "sigma_max": 80, "sigma_data": 0.5, "sigma_schedule": "karras", "rho": 7.0, "final_sigmas_type": "sigma_min"}
    return cosmos_parts(scheduler("EDMEulerScheduler", prediction_type="epsilon", **edm), extra_pos_embed_type="learnable")


def cosmos2_parts() -> dict[str, Any]:
    """Cosmos 2: flow matching on Karras sigmas."""
    return cosmos_parts(flow(use_karras_sigmas=True), extra_pos_embed_type=None)


def cosmos_video(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    return {**ask.text(TEXT, WIDTH, scale=7.0), "num_frames": 9, **ask.side(32, 48)}


def cosmos_image(ask: Ask) -> dict[str, Any]:
    """8 x 8 latents: 16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=7.0), **ask.side(64, 96)}


def easy_parts() -> dict[str, Any]:
    """EasyAnimate, with a tiny real VAE that is read for its config only."""
    network = model(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        sample_width=8,
        sample_height=8,
        num_layers=3,
        mmdit_layers=2,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        time_position_encoding_type="3d_rope",
    )
    vae = model(
        "AutoencoderKLMagvit",
        latent_channels=4,
        block_out_channels=[8, 8, 8, 8],
        down_block_types=["SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"],
        up_block_types=["SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"],
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    return {"transformer": network, "vae": vae, "scheduler": flow(), **nothing(*ENCODER)}


def easy(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    return {**ask.text(TEXT, WIDTH, scale=5.0, mask=MASK), "num_frames": 5, **ask.side(32, 48)}


GUARD = f"{NO_TEXT} The safety checker is a stand-in."
FAMILY: list[Tiny] = [
    tiny("CosmosTextToWorldPipeline", cosmos1_parts, cosmos_video, guidance="sequential", notes=GUARD),
    tiny("Cosmos2TextToImagePipeline", cosmos2_parts, cosmos_image, guidance="sequential", notes=GUARD),
    tiny("EasyAnimatePipeline", easy_parts, easy, guidance="batched", notes=NO_TEXT),
]
