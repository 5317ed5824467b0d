"""Image transformers with one kind of block: Lumina, Lumina 2, Z-Image, Sana, CogView, PRX."""

from typing import Any

import torch

from .common import NO_BATCH, NO_TEXT, Ask, Tiny, flow, model, nothing, scheduler, shifted_flow, tiny

TEXT, WIDTH = 6, 16
ENCODER = ("text_encoder", "tokenizer")
MASK = "prompt_attention_mask"


def latent_parts(network: Any, sampler: Any) -> dict[str, Any]:
    """A pipeline without VAE and text encoder."""
    return {"transformer": network, "vae": None, "scheduler": sampler, **nothing(*ENCODER)}


def lumina_parts() -> dict[str, Any]:
    """Lumina-Next; its feed-forward width is a multiple of 16 here, of 256 in the original."""
    network = model(
        "LuminaNextDiT2DModel",
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    return latent_parts(network, flow())


def lumina(ask: Ask) -> dict[str, Any]:
    """64 x 64 pixels: 8 x 8 latents, 16 tokens. The conditional half of the batch comes first."""
    return {**ask.text(TEXT, WIDTH, scale=4.0, mask=MASK), **ask.side(64, 96)}


def lumina2_parts() -> dict[str, Any]:
    """Lumina 2: two refiner lists before the three layers."""
    network = model(
        "Lumina2Transformer2DModel",
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_refiner_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(32, 16, 16),
        cap_feat_dim=WIDTH,
    )
    return latent_parts(network, shifted_flow())


def lumina2_truncated(ask: Ask) -> dict[str, Any]:
    """The unconditional call falls away in the second half."""
    return {**lumina(ask), "cfg_trunc_ratio": 0.5}


def z_image_parts() -> dict[str, Any]:
    """Z-Image: lists of tensors in and out, one per row."""
    network = model(
        "ZImageTransformer2DModel",
        in_channels=4,
        dim=16,
        n_layers=3,
        n_refiner_layers=3,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[128, 16, 16],
    )
    return latent_parts(network, shifted_flow())


def z_image(ask: Ask) -> dict[str, Any]:
    """Embeddings as lists, of different lengths for the two halves."""
    text = {"prompt_embeds": list(ask.embeds(TEXT, WIDTH)), "negative_prompt_embeds": list(ask.negative(2, WIDTH))}
    return {**text, "guidance_scale": ask.scale(5.0, 0.0), **ask.side(64, 96)}


def z_image_truncated(ask: Ask) -> dict[str, Any]:
    """From 2B rows to B rows in the last steps."""
    return {**z_image(ask), "cfg_truncation": 0.5}


def sana_transformer(**config: Any) -> Any:
    """Linear attention, patches of one."""
    return model(
        "SanaTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=4,
        **config,
    )


def sana_parts() -> dict[str, Any]:
    """Sana: 32 times smaller in space."""
    return latent_parts(sana_transformer(), flow(shift=3.0))


def sana(ask: Ask) -> dict[str, Any]:
    """4 x 4 latents: 16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=4.5, mask=MASK), "negative_prompt": None, "use_resolution_binning": False, **ask.side(128, 192)}


def sana_video_parts() -> dict[str, Any]:
    """Sana-Video without a VAE: 8 times smaller in space, 4 times in time."""
    network = model(
        "SanaVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_size=4,
        rope_max_seq_len=32,
    )
    return latent_parts(network, scheduler("DPMSolverMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0))


def sana_video(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4."""
    return {**sana(ask), "frames": 5, **ask.side(32, 64)}


def cogview3_parts() -> dict[str, Any]:
    """CogView 3 Plus, with resolutions and crops embedded."""
    network = model(
        "CogView3PlusTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return latent_parts(network, scheduler("CogVideoXDDIMScheduler"))


def cogview(ask: Ask) -> dict[str, Any]:
    """8 x 8 latents: 16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=5.0), **ask.side(64, 96)}


def cogview4_parts() -> dict[str, Any]:
    """CogView 4: two calls per step, flow matching."""
    network = model(
        "CogView4Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    return latent_parts(network, flow(base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"))


def prx_parts() -> dict[str, Any]:
    """PRX, whose blocks take the text stream unchanged."""
    network = model("PRXTransformer2DModel", in_channels=4, context_in_dim=WIDTH, hidden_size=16, num_heads=2, depth=3, axes_dim=[4, 4])
    return latent_parts(network, flow(shift=3.0))


def prx(ask: Ask) -> dict[str, Any]:
    """8 x 8 latents: 16 tokens."""
    text = ask.text(TEXT, WIDTH, scale=4.0, mask=MASK, dtype=torch.bool)
    return {**text, "use_resolution_binning": False, **ask.side(64, 96)}


FAMILY: list[Tiny] = [
    tiny("CogView3PlusPipeline", cogview3_parts, cogview, guidance="batched", notes=NO_TEXT),
    tiny("CogView4Pipeline", cogview4_parts, cogview, guidance="sequential", notes=NO_TEXT),
    tiny("LuminaPipeline", lumina_parts, lumina, guidance="batched", notes=NO_TEXT),
    tiny("Lumina2Pipeline", lumina2_parts, lumina, guidance="sequential", notes=NO_TEXT),
    tiny(
        "Lumina2Pipeline:cfg_trunc_ratio",
        lumina2_parts,
        lumina2_truncated,
        guidance="sequential",
        notes=f"{NO_TEXT} The second half of the steps makes one call.",
    ),
    tiny("ZImagePipeline", z_image_parts, z_image, guidance="batched", notes=f"{NO_TEXT} Rows are the entries of a list."),
    tiny("ZImagePipeline:cfg_truncation", z_image_parts, z_image_truncated, guidance="batched", notes=f"{NO_TEXT} The last steps have B rows."),
    tiny("SanaPipeline", sana_parts, sana, guidance="batched", notes=NO_TEXT),
    tiny("SanaVideoPipeline", sana_video_parts, sana_video, guidance="batched", notes=NO_TEXT),
    tiny("PRXPipeline", prx_parts, prx, guidance="batched", notes=f"{NO_TEXT} {NO_BATCH} the pipeline makes two timesteps whatever the batch."),
]
