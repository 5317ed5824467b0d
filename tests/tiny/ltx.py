"""LTX: video, video from conditions, and LTX 2's video with audio."""

from typing import Any

import diffusers

from .common import NO_TEXT, SHARED_NOISE, Ask, Tiny, flow, model, nothing, picture, redraw, tiny

TEXT, WIDTH = 6, 16
ENCODER = ("text_encoder", "tokenizer")
MASK = "prompt_attention_mask"


def ltx_parts(**others: Any) -> dict[str, Any]:
    """LTX: 32 times smaller in space, 8 times in time."""
    network = model(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=3,
        caption_channels=WIDTH,
    )
    return {"transformer": network, "vae": None, "scheduler": flow(), **nothing(*ENCODER), **others}


def ltx(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 3 x 3."""
    text = ask.text(TEXT, WIDTH, scale=3.0, mask=MASK)
    return {**text, "num_frames": 9, **ask.side(96, 128)}


def ltx_condition_parts() -> dict[str, Any]:
    """LTX with a tiny real VAE, 8 times smaller in space and in time."""
    vae = model(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        patch_size=1,
    )
    return ltx_parts(vae=vae)


def ltx_condition(ask: Ask) -> dict[str, Any]:
    """The first frame is given: its tokens have their own timestep, and timesteps are a number per token."""
    text = ask.text(TEXT, WIDTH, scale=3.0, mask=MASK)
    return {**text, "image": picture(ask.pick(32, 64)), "num_frames": 9, **ask.side(32, 64)}


def ltx2_parts() -> dict[str, Any]:
    """LTX 2: a video and an audio stream in every block; real connectors between the embeddings and the transformer."""
    network = model(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=3,
        caption_channels=WIDTH,
    )
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    sizes = {f"{stream}_connector_{name}": value for stream in ("video", "audio") for name, value in heads.items()}
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(caption_channels=WIDTH, text_proj_in_factor=1, **sizes)
    vae = model(
        "AutoencoderKLLTX2Video",
        latent_channels=4,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 3,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    audio_vae = model("AutoencoderKLLTX2Audio", base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=8)
    others = {"connectors": redraw(connectors, 1).eval().requires_grad_(False), "vae": vae, "audio_vae": audio_vae, "vocoder": None}
    return {"transformer": network, "scheduler": flow(use_dynamic_shifting=True), **others, **nothing(*ENCODER)}


def ltx2(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 2 x 2 and nine audio tokens; text guidance only."""
    scales = {"audio_guidance_scale": ask.scale(7.0), "stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
    return {**ask.text(TEXT, WIDTH, scale=3.0, mask=MASK), **scales, "num_frames": 9, **ask.side(64, 96)}


def ltx2_all(ask: Ask) -> dict[str, Any]:
    """All three guidances: two more calls per step on B rows, one without block 1's self-attention, one with the streams apart."""
    on = float(ask.guidance)
    scales = {"stg_scale": on, "audio_stg_scale": on, "modality_scale": 1 + on, "audio_modality_scale": 1 + on}
    return {**ltx2(ask), **scales, "spatio_temporal_guidance_blocks": [1]}


CONDITION = f"{NO_TEXT} {SHARED_NOISE} the first generator draws for the image."
LTX2 = f"{NO_TEXT} The output is the video; the audio has a scheduler copy of its own."
FAMILY: list[Tiny] = [
    tiny("LTXPipeline", ltx_parts, ltx, guidance="batched", notes=NO_TEXT),
    tiny("LTXConditionPipeline", ltx_condition_parts, ltx_condition, guidance="batched", notes=CONDITION),
    tiny("LTX2Pipeline", ltx2_parts, ltx2, guidance="batched", notes=LTX2),
    tiny("LTX2Pipeline:all_guidances", ltx2_parts, ltx2_all, guidance="batched", notes=LTX2),
]
