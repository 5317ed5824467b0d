"""Stable Diffusion 3 and PixArt, with batched guidance."""

from typing import Any

from .common import NO_TEXT, Ask, Tiny, flow, image_vae, model, nothing, picture, pictures, scheduler, tiny

TEXT, WIDTH, POOLED = 6, 16, 16
SD3_ENCODERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


def sd3_parts(channels: int = 4, **others: Any) -> dict[str, Any]:
    """Stable Diffusion 3 with the 3.5-medium features: dual attention in the first block and normed queries and keys."""
    network = model(
        "SD3Transformer2DModel",
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return {"scheduler": flow(), "vae": image_vae(channels), "transformer": network, **nothing(*SD3_ENCODERS), **others}


def sd3_controlnet_parts() -> dict[str, Any]:
    """Stable Diffusion 3 with a ControlNet of one block."""
    net = model(
        "SD3ControlNetModel",
        seed=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
    )
    return sd3_parts(controlnet=net)


def sd3(ask: Ask) -> dict[str, Any]:
    """16 x 16 pixels: 8 x 8 latents, 16 tokens."""
    pooled = {"pooled_prompt_embeds": ask.embeds(POOLED), "negative_pooled_prompt_embeds": ask.negative(POOLED)}
    return {**ask.text(TEXT, WIDTH, scale=5.0), **pooled, **ask.side(16, 24)}


def sd3_skip_layers(ask: Ask) -> dict[str, Any]:
    """Skip-layer guidance: in the middle steps one more call, on the conditional rows only and without block 1."""
    return {**sd3(ask), "skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}


def sd3_edit(ask: Ask) -> dict[str, Any]:
    """Image to image."""
    return {**sd3(ask), "image": pictures(ask, 16, 24), "strength": 0.75}


def sd3_control(ask: Ask) -> dict[str, Any]:
    """A control image."""
    return {**sd3(ask), "control_image": picture(ask.pick(16, 24))}


def pixart_parts(*, sample_size: int) -> dict[str, Any]:
    """PixArt; alpha at full size (128, which the pipeline goes by) also embeds the resolution and the aspect ratio."""
    network = model(
        "PixArtTransformer2DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=24,
        sample_size=sample_size,
        norm_num_groups=1,
        interpolation_scale=1,
        use_additional_conditions=sample_size == 128,
        caption_channels=WIDTH,
    )
    return {"transformer": network, "vae": image_vae(), "scheduler": scheduler("DPMSolverMultistepScheduler"), **nothing("text_encoder", "tokenizer")}


def pixart(ask: Ask) -> dict[str, Any]:
    """Embeddings with masks; no binning of the resolution, whose smallest bin is 256 pixels."""
    text = ask.text(TEXT, WIDTH, scale=4.5, mask="prompt_attention_mask")
    return {**text, "negative_prompt": None, "use_resolution_binning": False, **ask.side(16, 24)}


SD3_SKIP = f"{NO_TEXT} Steps 1 and 2 of 4 make an extra call on B rows with `skip_layers`."
FAMILY: list[Tiny] = [
    tiny("StableDiffusion3Pipeline", sd3_parts, sd3, guidance="batched", notes=NO_TEXT),
    tiny("StableDiffusion3Pipeline:skip_layers", sd3_parts, sd3_skip_layers, guidance="batched", notes=SD3_SKIP),
    tiny("StableDiffusion3Img2ImgPipeline", sd3_parts, sd3_edit, guidance="batched", notes=f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."),
    tiny("StableDiffusion3ControlNetPipeline", sd3_controlnet_parts, sd3_control, guidance="batched", notes=NO_TEXT),
    tiny("PixArtAlphaPipeline", lambda: pixart_parts(sample_size=128), pixart, guidance="batched", notes=NO_TEXT),
    tiny("PixArtSigmaPipeline", lambda: pixart_parts(sample_size=8), pixart, guidance="batched", notes=NO_TEXT),
]
