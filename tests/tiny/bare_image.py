"""Directly called transformers: image models."""

import torch

from .bare_parts import Any, Bare, bare, clock, fixed, grid, moving, noise

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def bria_fibo2(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 4, 4),
        "timestep": noise(step, batch),
        "encoder_hidden_states": fixed("text", batch, 3, 5, 8),
        "encoder_attention_mask": torch.ones(batch, 5, dtype=torch.bool),
    }


def flux3(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "timestep": noise(step, batch),
        "img_ids": grid(1, 2, 2, 1),
        "txt_ids": grid(1, 1, 1, 5),
    }


def flux3_edit(step: int, batch: int) -> dict[str, Any]:
    return {**flux3(step, batch), "image_cond_hidden_states": fixed("reference", batch, 6, 4), "image_cond_ids": grid(1, 2, 3, 1) + torch.tensor([10, 0, 0, 0])}


def glm_image(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 4, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "prior_token_id": torch.arange(batch * 4).reshape(batch, 4) % 7,
        "prior_token_drop": torch.zeros(batch, 4, dtype=torch.bool),
        "timestep": noise(step, batch, 1000),
        "target_size": torch.full((batch, 2), 32.0),
        "crop_coords": torch.zeros(batch, 2),
    }


TEXT, IMAGE_TOKENS = 5, 4


def ideogram4(step: int, batch: int) -> dict[str, Any]:
    """Text and image tokens in one sequence; the image's positions begin where the text's end."""
    text = torch.arange(TEXT)[:, None].expand(TEXT, 3)
    positions = torch.cat([text, grid(1, 2, 2) + TEXT]).expand(batch, -1, 3)
    length = TEXT + IMAGE_TOKENS
    return {
        "hidden_states": moving("latents", step, batch, length, 4),
        "timestep": clock(step, batch),
        "encoder_hidden_states": fixed("text", batch, length, 8),
        "position_ids": positions,
        "segment_ids": torch.ones(batch, length, dtype=torch.long),
        "indicator": torch.tensor([3] * TEXT + [2] * IMAGE_TOKENS).expand(batch, -1),
    }


def joy_image_edit(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 2, 4, 1, 4, 4),
        "timestep": noise(step, batch, 1000),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
    }


def joy_image_edit_plus(step: int, batch: int) -> dict[str, Any]:
    """Four patches of the target and six of a reference."""
    return {
        "hidden_states": torch.cat([moving("latents", step, batch, 4, 4, 1, 2, 2), fixed("reference", batch, 6, 4, 1, 2, 2)], dim=1),
        "timestep": noise(step, batch, 1000),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "encoder_hidden_states_mask": torch.ones(batch, 5),
        "shape_list": [[(1, 2, 2), (1, 2, 3)]] * batch,
    }


def longcat_image(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "timestep": noise(step, batch),
        "img_ids": grid(1, 2, 2),
        "txt_ids": grid(1, 1, 5),
    }


def qwen_image21(step: int, batch: int) -> dict[str, Any]:
    """Six text tokens, then an image of 4 x 4 latents, for which the text encoder has four slots."""
    return {
        "hidden_states": moving("latents", step, batch, 16, 4),
        "encoder_hidden_states": fixed("text", batch, 6, 8),
        "timestep": noise(step, batch),
        "img_shapes": [[(1, 4, 4)]] * batch,
        "img_mask": torch.tensor([False] * 6 + [True] * 4).expand(batch, -1),
        "encoder_hidden_states_mask": torch.ones(batch, 6, dtype=torch.bool),
    }


def transformer_2d(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 4, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "timestep": noise(step, batch, 1000),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def prior(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 8),
        "timestep": noise(step, batch, 1000),
        "proj_embedding": fixed("pooled text", batch, 8),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "attention_mask": torch.ones(batch, 5, dtype=torch.bool),
    }


JOY = {"in_channels": 4, "hidden_size": 16, "num_attention_heads": 2, "text_dim": 8, "num_layers": 3, "rope_dim_list": [4, 2, 2]}
FLUX3 = {**HEADS, "in_channels": 4, "cond_in_channels": 4, "num_layers": 3, "num_single_layers": 3, "joint_attention_dim": 8, "axes_dims_rope": (2, 2, 2, 2)}
IMAGE: tuple[Bare, ...] = (
    bare(
        "BriaFibo2Transformer2DModel",
        bria_fibo2,
        in_channels=4,
        dim=24,
        n_layers=3,
        n_refiner_layers=3,
        n_heads=2,
        cap_feat_dim=8,
        injection_layer_ids=(0, 2),
        min_num_gist_tokens=2,
        max_num_gist_tokens=4,
        gist_step=1,
        gist_min_text_len=2,
        gist_max_text_len=8,
        axes_dims=(4, 4, 4),
        axes_lens=(64, 16, 16),
    ),
    bare("Flux3Transformer2DModel", flux3, **FLUX3),
    bare("Flux3Transformer2DModel:reference", flux3_edit, **FLUX3),
    bare(
        "GlmImageTransformer2DModel",
        glm_image,
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        text_embed_dim=8,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=7,
    ),
    bare(
        "Ideogram4Transformer2DModel",
        ideogram4,
        **HEADS,
        in_channels=4,
        num_layers=3,
        intermediate_size=32,
        adaln_dim=8,
        llm_features_dim=8,
        mrope_section=(2, 1, 1),
    ),
    bare("JoyImageEditTransformer3DModel", joy_image_edit, **JOY),
    bare("JoyImageEditPlusTransformer3DModel", joy_image_edit_plus, **JOY),
    bare(
        "LongCatImageTransformer2DModel",
        longcat_image,
        **HEADS,
        in_channels=4,
        num_layers=3,
        num_single_layers=3,
        joint_attention_dim=8,
        axes_dims_rope=[4, 2, 2],
    ),
    bare("QwenImage21Transformer2DModel", qwen_image21, **HEADS, in_channels=4, out_channels=4, num_layers=3, context_in_dim=8, axes_dims_rope=(4, 2, 2)),
    bare(
        "Transformer2DModel",
        transformer_2d,
        **HEADS,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=8,
        use_additional_conditions=False,
        notes="As PixArt's first checkpoints used it; in UNets it is a part.",
    ),
    bare("PriorTransformer", prior, **HEADS, num_layers=3, embedding_dim=8, num_embeddings=5),
)
