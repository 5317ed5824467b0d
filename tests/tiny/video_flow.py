"""More video transformers: SkyReels, ChronoEdit, Kandinsky 5, MotifVideo, Helios, EasyAnimate, Cosmos."""

from typing import Any

import diffusers
import torch

from . import wan
from .common import NO_TEXT, Ask, Tiny, flow, model, nothing, scheduler, tiny, wan_vae

TEXT, WIDTH = 6, 16
ENCODER = ("text_encoder", "tokenizer")
CLIP = f"{NO_TEXT} The CLIP image encoder is a stand-in."


def skyreels_parts() -> dict[str, Any]:
    """SkyReels V2: Wan's blocks in a class of its own."""
    return wan.parts(transformer=wan.transformer("SkyReelsV2Transformer3DModel"))


def forcing_parts() -> dict[str, Any]:
    """Diffusion forcing: the timestep is a matrix of (sample, frame)."""
    return wan.parts(transformer=wan.transformer("SkyReelsV2Transformer3DModel"))


def forcing(ask: Ask) -> dict[str, Any]:
    """Three latent frames, each with a schedule of its own: a frame starts one step after the one before it."""
    return {**wan.text(ask), "prompt": None, "num_frames": 9, "base_num_frames": 9, "ar_step": 1, "causal_block_size": 1}


def chrono_parts() -> dict[str, Any]:
    """ChronoEdit: Wan image to video, with CLIP features from a stand-in encoder."""
    network = wan.transformer("ChronoEditTransformer3DModel", in_channels=12, image_dim=WIDTH, added_kv_proj_dim=24)
    return {**wan.wan21_image_parts(), "transformer": network, "scheduler": wan.unipc()}


def kandinsky_parts() -> dict[str, Any]:
    """Kandinsky 5: blocks over the text, then over the video; channels last."""
    network = model(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=8,
        out_visual_dim=4,
        model_dim=16,
        ff_dim=16,
        num_text_blocks=3,
        num_visual_blocks=3,
        axes_dims=(4, 2, 2),
    )
    encoders = nothing(*ENCODER, "text_encoder_2", "tokenizer_2")
    return {"transformer": network, "vae": None, "scheduler": flow(shift=5.0), **encoders}


def kandinsky(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    lengths = torch.arange(ask.batch + 1, dtype=torch.int32) * TEXT
    return {
        "prompt_embeds_qwen": ask.embeds(TEXT, WIDTH),
        "prompt_embeds_clip": ask.embeds(WIDTH),
        "prompt_cu_seqlens": lengths,
        "negative_prompt_embeds_qwen": ask.negative(TEXT, WIDTH),
        "negative_prompt_embeds_clip": ask.negative(WIDTH),
        "negative_prompt_cu_seqlens": lengths,
        "num_frames": 5,
        "guidance_scale": ask.scale(5.0),
        **ask.side(32, 48),
    }


def motif_parts() -> dict[str, Any]:
    """MotifVideo: the last single block is a decoder block."""
    network = model(
        "MotifVideoTransformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_single_layers=3,
        num_decoder_layers=1,
        text_embed_dim=WIDTH,
        rope_axes_dim=(4, 2, 2),
    )
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=6.0)
    return {"transformer": network, "vae": wan_vae(), "scheduler": flow(shift=7.0), "guider": guider, **nothing(*ENCODER)}


def motif(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4; a guider makes the two calls."""
    ask.pipe.guider.enable() if ask.guidance else ask.pipe.guider.disable()
    text = ask.text(TEXT, WIDTH, scale=6.0, mask="prompt_attention_mask")
    del text["guidance_scale"]
    return {**text, "num_frames": 5, **ask.side(32, 48)}


def helios_parts() -> dict[str, Any]:
    """Helios: chunk after chunk, with a short, a middle and a long history as context."""
    network = model(
        "HeliosTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_dim=(4, 4, 4),
    )
    return wan.parts(vae=wan_vae(), transformer=network, scheduler=scheduler("HeliosScheduler", stages=1, stage_range=[0, 1]))


def helios(ask: Ask) -> dict[str, Any]:
    """Two chunks of three latent frames."""
    return {**wan.text(ask), "num_frames": 18, "num_latent_frames_per_chunk": 3, "history_sizes": [16, 2, 1]}


def any_flow_parts() -> dict[str, Any]:
    """AnyFlow: a flow map, from one timestep to another that it is told too; frames before channels."""
    network = model(
        "AnyFlowTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    )
    return wan.parts(transformer=network, scheduler=scheduler("FlowMapEulerDiscreteScheduler", shift=5.0))


def any_flow(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    text = wan.text(ask)
    if not ask.guidance:
        del text["negative_prompt_embeds"]
    return text


FAMILY: list[Tiny] = [
    tiny("SkyReelsV2Pipeline", skyreels_parts, wan.text, guidance="sequential", notes=NO_TEXT),
    tiny(
        "SkyReelsV2DiffusionForcingPipeline",
        forcing_parts,
        forcing,
        guidance="sequential",
        notes=f"{NO_TEXT} One scheduler copy per frame; 4 steps are 6 iterations.",
    ),
    tiny("Kandinsky5T2VPipeline", kandinsky_parts, kandinsky, guidance="sequential", notes=NO_TEXT),
    tiny("ChronoEditPipeline", chrono_parts, wan.image, guidance="sequential", notes=CLIP),
    tiny("MotifVideoPipeline", motif_parts, motif, guidance="sequential", notes=f"{NO_TEXT} A guider makes the two calls."),
    tiny("HeliosPipeline", helios_parts, helios, guidance="sequential", notes=f"{NO_TEXT} Two chunks: the loop of `steps` runs twice in one call."),
    tiny("AnyFlowPipeline", any_flow_parts, any_flow, guidance="batched", notes=NO_TEXT),
]
