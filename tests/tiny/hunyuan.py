"""The Hunyuan line: HunyuanVideo (text, image, Framepack), HunyuanVideo 1.5, HunyuanImage."""

from typing import Any

import diffusers

from .common import NO_TEXT, Ask, Tiny, flow, model, nothing, picture, pictures, shifted_flow, tiny, without_noise
from .standins import ImageEncoder, Pixels

TEXT, WIDTH, POOLED = 6, 16, 16
ENCODERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def video_vae() -> Any:
    """A tiny real HunyuanVideo VAE: 8 times smaller in space, 4 times in time."""
    vae = model(
        "AutoencoderKLHunyuanVideo",
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return without_noise(vae)


def video_transformer(name: str = "HunyuanVideoTransformer3DModel", **config: Any) -> Any:
    """Three double and three single blocks, 16 wide."""
    return model(
        name,
        **{
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 3,
            "num_single_layers": 3,
            "num_refiner_layers": 1,
            "text_embed_dim": WIDTH,
            "pooled_projection_dim": POOLED,
            "rope_axes_dim": (2, 4, 4),
            **config,
        },
    )


def video_parts(**others: Any) -> dict[str, Any]:
    """HunyuanVideo without a VAE: 8 times smaller in space, 4 times in time."""
    return {"transformer": video_transformer(), "scheduler": flow(shift=7.0), "vae": None, **nothing(*ENCODERS), **others}


def video(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4: 8 tokens."""
    return {
        "prompt_embeds": ask.embeds(TEXT, WIDTH),
        "pooled_prompt_embeds": ask.embeds(POOLED),
        "prompt_attention_mask": ask.mask(TEXT),
        "num_frames": 5,
        "guidance_scale": ask.scale(6.0),
        **ask.side(32, 48),
    }


def video_true_cfg(ask: Ask) -> dict[str, Any]:
    """Two calls per step, with a negative prompt."""
    negative = {
        "negative_prompt_embeds": ask.negative(TEXT, WIDTH),
        "negative_pooled_prompt_embeds": ask.negative(POOLED),
        "negative_prompt_attention_mask": ask.mask(TEXT),
    }
    return {**video(ask), **negative, "true_cfg_scale": ask.scale(4.0)}


def image_video_parts(condition: str) -> dict[str, Any]:
    """Image to video: the image's latents are extra channels ("latent_concat") or the first frame ("token_replace")."""
    network = video_transformer(in_channels=9 if condition == "latent_concat" else 4, image_condition_type=condition)
    return video_parts(transformer=network, vae=video_vae(), image_processor=Pixels())


def image_video(ask: Ask) -> dict[str, Any]:
    """The embeddings, in which the real text encoder would have seen the image too."""
    return {**video(ask), "image": picture(ask.pick(32, 48)) if ask.batch == 1 else pictures(ask, 32, 48)}


def framepack_parts() -> dict[str, Any]:
    """Framepack: earlier sections come in as history latents; the image encoder is a stand-in."""
    network = video_transformer("HunyuanVideoFramepackTransformer3DModel", has_image_proj=True, image_proj_dim=WIDTH, has_clean_x_embedder=True)
    encoders = {"image_encoder": ImageEncoder(2, WIDTH), "feature_extractor": Pixels()}
    return video_parts(transformer=network, vae=video_vae(), scheduler=shifted_flow(), **encoders)


def framepack(ask: Ask) -> dict[str, Any]:
    """Two sections of three latent frames, each a denoising loop of its own."""
    return {**video(ask), "image": pictures(ask, 32, 48), "num_frames": 13, "latent_window_size": 3}


def video15_parts(task: str) -> dict[str, Any]:
    """HunyuanVideo 1.5: three double blocks; zeros stand for no image."""
    network = model(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=3,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=WIDTH,
        rope_axes_dim=(2, 4, 4),
        target_size=16,
        task_type=task,
    )
    vae = model(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=6.0)
    return {"transformer": network, "vae": vae, "scheduler": flow(shift=7.0), "guider": guider, **nothing(*ENCODERS)}


def two_encoders(ask: Ask) -> dict[str, Any]:
    """Embeddings of a language model and of a glyph encoder, and a guider that is switched on or off."""
    ask.pipe.guider.enable() if ask.guidance else ask.pipe.guider.disable()
    return {
        "prompt_embeds": ask.embeds(TEXT, WIDTH),
        "prompt_embeds_mask": ask.mask(TEXT),
        "prompt_embeds_2": ask.embeds(4, WIDTH),
        "prompt_embeds_mask_2": ask.mask(4),
        "negative_prompt_embeds": ask.negative(TEXT, WIDTH),
        "negative_prompt_embeds_mask": ask.mask(TEXT),
        "negative_prompt_embeds_2": ask.negative(4, WIDTH),
        "negative_prompt_embeds_mask_2": ask.mask(4),
    }


def video15(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    return {**two_encoders(ask), "num_frames": 5, **ask.side(16, 24)}


def image_parts() -> dict[str, Any]:
    """HunyuanImage, with a guider and no VAE: 32 times smaller in space."""
    network = model(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_single_layers=3,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )
    guider = diffusers.AdaptiveProjectedMixGuidance(guidance_scale=3.5, adaptive_projected_guidance_start_step=2)
    return {"transformer": network, "vae": None, "scheduler": flow(shift=5.0), "guider": guider, **nothing(*ENCODERS)}


def image(ask: Ask) -> dict[str, Any]:
    """4 x 4 latents, 16 tokens."""
    return {**two_encoders(ask), **ask.side(128, 192)}


FAMILY: list[Tiny] = [
    tiny("HunyuanVideoPipeline", video_parts, video, guidance="distilled", notes=NO_TEXT),
    tiny("HunyuanVideoPipeline:true_cfg", video_parts, video_true_cfg, guidance="sequential", notes=NO_TEXT),
    tiny("HunyuanVideoImageToVideoPipeline", lambda: image_video_parts("latent_concat"), image_video, guidance="distilled", notes=NO_TEXT),
    tiny("HunyuanVideoImageToVideoPipeline:token_replace", lambda: image_video_parts("token_replace"), image_video, guidance="distilled", notes=NO_TEXT),
    tiny("HunyuanVideo15Pipeline", lambda: video15_parts("t2v"), video15, guidance="sequential", notes=f"{NO_TEXT} A guider makes the two calls."),
    tiny(
        "HunyuanVideoFramepackPipeline",
        framepack_parts,
        framepack,
        guidance="distilled",
        pick=lambda outputs: outputs[0][-1],
        notes=f"{NO_TEXT} The image encoder is a stand-in. Two sections: the loop of `steps` runs twice in one call.",
    ),
    tiny("HunyuanImagePipeline", image_parts, image, guidance="sequential", notes=f"{NO_TEXT} A guider makes the two calls."),
]
