"""Directly called transformers: video models."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask

from .bare_parts import Bare, bare, clock, fixed, grid, moving, noise
from .common import NO_BATCH

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def keys_and_values(text: str, batch: int) -> Tensor:
    """``(2, batch, heads, tokens, width)``: what a block's attention kept of four tokens."""
    return torch.stack([fixed(f"{text}, keys", batch, 2, 4, 8), fixed(f"{text}, values", batch, 2, 4, 8)])


def anyflow_far(step: int, batch: int) -> dict[str, Any]:
    """The second chunk of a video, whose first is in the cache of keys and values: a frame of 2 x 2 tokens."""
    times = noise(step, batch, 1000)[:, None]
    caches = [{"compressed_cache": torch.zeros(2, batch, 2, 1, 8), "full_cache": keys_and_values(f"block {block}", batch)} for block in range(3)]
    return {
        "hidden_states": moving("latents", step, batch, 1, 4, 4, 4),
        "timestep": times,
        "r_timestep": times - 100,
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "chunk_partition": [1, 1],
        "kv_cache": caches,
        "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
    }


def cosmos3(step: int, batch: int) -> dict[str, Any]:
    """Five text tokens and a video of 2 x 2 x 2 tokens in one sequence, which has no batch dimension."""
    text, video = 5, 8
    latents = moving("latents", step, 1, 4, 2, 4, 4)
    return {
        "input_ids": torch.arange(text),
        "text_indexes": torch.arange(text),
        "position_ids": torch.cat([torch.arange(text)[:, None].expand(text, 3), grid(2, 2, 2) + text]).T,
        "und_len": text,
        "sequence_length": text + video,
        "vision_tokens": [latents],
        "vision_token_shapes": [(2, 2, 2)],
        "vision_sequence_indexes": torch.arange(text, text + video),
        "vision_mse_loss_indexes": torch.arange(text, text + video),
        "vision_timesteps": noise(step, video, 1000),
        "vision_noisy_frame_indexes": [torch.arange(2)],
    }


def kandinsky6(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 2, 4, 4, 9),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "pooled_projections": fixed("pooled text", batch, 8),
        "timestep": noise(step, batch, 1000),
        "audio_hidden_states": moving("audio", step, batch, 6, 4),
        "encoder_attention_mask": torch.ones(batch, 5, dtype=torch.bool),
    }


def kandinsky6_sr(step: int, batch: int) -> dict[str, Any]:
    return {"hidden_states": moving("latents", step, batch, 1, 8, 8, 9), "timestep": noise(step, batch, 1000)}


def minimax_h3(step: int, batch: int) -> dict[str, Any]:
    """Five text tokens, six of audio and eight of video in one sequence; text is at time 1, the rest at the sampled one."""
    text, audio, video = 5, 6, 8
    length = text + audio + video
    where = torch.arange(length)
    return {
        "hidden_states": moving("latents", step, batch, video, 16),
        "audio_hidden_states": moving("audio", step, batch, audio, 4),
        "encoder_hidden_states": fixed("text", batch, text, 8),
        "timestep": torch.cat([clock(step, 1), torch.ones(1)]),
        "timestep_indices": (where < text).long(),
        "token_tags": torch.tensor([1] * text + [2] * audio + [0] * video),
        "position_ids": torch.cat([where[: text + audio, None].expand(-1, 3), grid(2, 2, 2) + text + audio]),
        "video_indices": where[text + audio :],
        "audio_indices": where[text : text + audio],
        "text_indices": where[:text],
    }


def sana_wm(step: int, batch: int) -> dict[str, Any]:
    """Two frames seen by a camera that moves sideways."""
    camera = torch.eye(4).repeat(batch, 2, 1, 1)
    camera[:, 1, 0, 3] = 0.1
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(batch, 2, 4)
    return {
        "hidden_states": moving("latents", step, batch, 4, 2, 4, 4),
        "timestep": noise(step, batch, 1000)[:, None, None].expand(-1, 1, 2),
        "encoder_hidden_states": fixed("text", batch, 1, 5, 8),
        "mask": torch.ones(batch, 5),
        "camera_conditions": torch.cat([camera.flatten(2), lens], dim=2),
        "chunk_plucker": fixed("rays", batch, 6, 2, 4, 4),
    }


def rotations(positions: Tensor, batch: int, width: int) -> tuple[Tensor, Tensor]:
    """``(batch, tokens, width)`` cosines and sines, as the LTX line takes them."""
    angles = positions[:, None] / 100 ** (torch.arange(width // 2) / width * 2)
    angles = angles.repeat_interleave(2, dim=1).expand(batch, -1, -1)
    return angles.cos(), angles.sin()


def sana_wm_refiner(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 8, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "timestep": noise(step, batch, 1000)[:, None].expand(-1, 8),
        "video_rotary_emb": rotations(torch.arange(8), batch, 16),
        "encoder_attention_mask": torch.ones(batch, 5),
    }


def wan_animate2(step: int, batch: int) -> dict[str, Any]:
    """A frame of 2 x 2 tokens with a reference frame, whose keys and values are in the cache."""
    cache = WanAnimate2KVCache(3)
    for layer in range(3):
        cache.get(layer).store(*keys_and_values(f"layer {layer}", batch).transpose(2, 3))
    return {
        "hidden_states": list(moving("latents", step, batch, 4, 1, 4, 4)),
        "timestep": noise(step, batch, 1000),
        "encoder_hidden_states": list(fixed("text", batch, 5, 8)),
        "condition_latents": list(fixed("reference", batch, 8, 1, 4, 4)),
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": 4,
        "reference_grid_sizes": torch.tensor([[1, 2, 2]] * batch),
        "origin_len": 1,
        "origin_area": [32, 32],
    }


def wan_animate2_model(model: nn.Module) -> None:
    """Make the block mask of the video ahead, since the model itself would compile it, which takes minutes."""
    model.block_masks[1, 4] = create_block_mask(lambda b, h, q, k: (q < 4) & ((k < 4) | ((k >= 128) & (k < 132))), None, None, 128, 256, device="cpu")


VIDEO: tuple[Bare, ...] = (
    bare(
        "AnyFlowFARTransformer3DModel",
        anyflow_far,
        **HEADS,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
        chunk_partition=(1, 1),
    ),
    bare(
        "Cosmos3OmniTransformer",
        cosmos3,
        head_dim=8,
        hidden_size=16,
        intermediate_size=32,
        latent_channel=4,
        num_attention_heads=2,
        num_hidden_layers=3,
        num_key_value_heads=1,
        patch_latent_dim=16,
        vocab_size=11,
        rope_axes_dim=(2, 1, 1),
        notes=f"{NO_BATCH} the sequence is packed.",
    ),
    bare(
        "Kandinsky6Transformer3DModel",
        kandinsky6,
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=8,
        in_text_dim2=8,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=3,
        num_visual_blocks=3,
        axes_dims=(4, 2, 2),
        in_audio_dim=4,
        out_audio_dim=4,
        ca_rope=True,
        cross_gates=True,
        fix_modulation=True,
    ),
    bare(
        "Kandinsky6SRTransformer3DModel",
        kandinsky6_sr,
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_visual_blocks=3,
        axes_dims=(4, 6, 6),
    ),
    bare(
        "MiniMaxH3Transformer3DModel",
        minimax_h3,
        **HEADS,
        hidden_size=16,
        num_layers=3,
        num_refiner_layers=3,
        ffn_dim=32,
        in_channels=4,
        audio_in_channels=4,
        text_dim=8,
        freq_dim=16,
        time_embed_hidden_dim=16,
        time_embed_dim=16,
        rope_freq_dim=1,
    ),
    bare(
        "SanaWMTransformer3DModel",
        sana_wm,
        in_channels=4,
        num_layers=3,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=6,
        chunk_plucker_post_attn_blocks=3,
        caption_channels=8,
        image_size=32,
    ),
    bare(
        "SanaWMLTX2RefinerTransformer3DModel",
        sana_wm_refiner,
        **HEADS,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=3,
        caption_channels=8,
    ),
    bare(
        "WanAnimate2Transformer3DModel",
        wan_animate2,
        prepare=wan_animate2_model,
        text_len=6,
        in_dim=12,
        dim=16,
        ffn_dim=32,
        freq_dim=16,
        text_dim=8,
        out_dim=4,
        num_heads=2,
        num_layers=3,
        use_img_emb=False,
    ),
)
