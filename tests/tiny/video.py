"""Text-to-video transformers with one forward per step: CogVideoX, Mochi, Latte, Allegro."""

from typing import Any

import torch

from .common import NO_TEXT, Ask, Tiny, film, flow, model, nothing, scheduler, tiny

TEXT, WIDTH = 6, 16
ENCODER = ("text_encoder", "tokenizer")


def cogvideox_transformer(name: str = "CogVideoXTransformer3DModel", **config: Any) -> Any:
    """Three blocks with the rotary embedding of the 5B model: 16 per head is the least that it divides in three."""
    return model(
        name,
        **{
            "num_attention_heads": 1,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": WIDTH,
            "num_layers": 3,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 5,
            "max_text_seq_length": TEXT,
            "use_rotary_positional_embeddings": True,
            **config,
        },
    )


def cogvideox_parts(**others: Any) -> dict[str, Any]:
    """CogVideoX, by default without a VAE."""
    return {"transformer": cogvideox_transformer(), "vae": None, "scheduler": scheduler("CogVideoXDDIMScheduler"), **nothing(*ENCODER), **others}


def cogvideox(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4: 8 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=6.0), "num_frames": 5, **ask.side(32, 48)}


def cogvideox_vae() -> Any:
    """A tiny real VAE, 8 times smaller in space and 4 times in time."""
    return model(
        "AutoencoderKLCogVideoX",
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )


def cogvideox_edit(ask: Ask) -> dict[str, Any]:
    """Video to video."""
    return {**ask.text(TEXT, WIDTH, scale=6.0), "video": [film(5, ask.pick(32, 48))] * ask.batch, "strength": 0.75, **ask.side(32, 48)}


def mochi_parts() -> dict[str, Any]:
    """Mochi: 8 times smaller in space, 6 times in time; its text stream is narrower than its video stream."""
    network = model(
        "MochiTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=8,
        in_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        max_sequence_length=TEXT,
    )
    return {"transformer": network, "vae": None, "scheduler": flow(invert_sigmas=True), **nothing(*ENCODER)}


def mochi(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    text = ask.text(TEXT, WIDTH, scale=4.5, mask="prompt_attention_mask", dtype=torch.bool)
    return {**text, "num_frames": 7, **ask.side(32, 48)}


def latte_parts() -> dict[str, Any]:
    """Latte: spatial and temporal blocks take turns, with batch and frames swapped in between."""
    network = model(
        "LatteTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=24,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=WIDTH,
        video_length=2,
    )
    return {"transformer": network, "vae": None, "scheduler": scheduler("DDIMScheduler", clip_sample=False), **nothing(*ENCODER)}


def latte(ask: Ask) -> dict[str, Any]:
    """Two frames of 8 x 8 latents."""
    return {**ask.text(TEXT, WIDTH, scale=7.5), "negative_prompt": None, "video_length": 2, **ask.side(64, 96)}


def allegro_parts() -> dict[str, Any]:
    """Allegro: 12 per head is the least that its rotary embedding divides in three."""
    network = model(
        "AllegroTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        cross_attention_dim=24,
        sample_height=4,
        sample_width=4,
        sample_frames=2,
        caption_channels=WIDTH,
    )
    return {"transformer": network, "vae": None, "scheduler": scheduler("EulerAncestralDiscreteScheduler"), **nothing(*ENCODER)}


def allegro(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    text = ask.text(TEXT, WIDTH, scale=7.5, mask="prompt_attention_mask")
    return {**text, "negative_prompt": None, "num_frames": 8, **ask.side(32, 48)}


FAMILY: list[Tiny] = [
    tiny("CogVideoXPipeline", cogvideox_parts, cogvideox, guidance="batched", notes=NO_TEXT),
    tiny("CogVideoXVideoToVideoPipeline", lambda: cogvideox_parts(vae=cogvideox_vae()), cogvideox_edit, guidance="batched", notes=NO_TEXT),
    tiny("MochiPipeline", mochi_parts, mochi, guidance="batched", notes=NO_TEXT),
    tiny("LattePipeline", latte_parts, latte, guidance="batched", notes=NO_TEXT),
    tiny("AllegroPipeline", allegro_parts, allegro, guidance="batched", notes=f"{NO_TEXT} The scheduler draws noise in every step."),
]
