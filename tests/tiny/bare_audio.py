"""Directly called transformers: audio and molecules."""

from typing import Any

import torch

from .bare_parts import Bare, bare, clock, fixed, moving, noise

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def longcat_audio(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 6, 4),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "encoder_attention_mask": torch.ones(batch, 5, dtype=torch.bool),
        "timestep": clock(step, batch),
        "attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "latent_cond": fixed("reference", batch, 6, 4),
    }


def minimax_music3(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 6),
        "timestep": clock(step, batch),
        "encoder_hidden_states": fixed("frames", batch, 6, 8),
    }


def stable_audio3(step: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": moving("latents", step, batch, 4, 6),
        "timestep": noise(step, batch),
        "encoder_hidden_states": fixed("text", batch, 5, 8),
        "global_hidden_states": fixed("duration", batch, 8),
        "encoder_attention_mask": torch.ones(batch, 5, dtype=torch.bool),
        "local_add_cond": fixed("inpainting", batch, 5, 6),
    }


def t5_film(step: int, batch: int) -> dict[str, Any]:
    return {
        "encodings_and_masks": [(fixed("notes", batch, 5, 16), torch.ones(batch, 5)), (fixed("context", batch, 4, 16), torch.ones(batch, 4))],
        "decoder_input_tokens": moving("spectrogram", step, batch, 6, 4),
        "decoder_noise_time": noise(step, batch),
    }


def proteina(step: int, batch: int, *, recycle_depth: int = 0) -> dict[str, Any]:
    """Six residues of one chain, all of them to be drawn."""
    tokens = 6
    here = torch.ones(batch, tokens, dtype=torch.bool)
    chain = torch.arange(tokens)
    return {
        "bb_ca": moving("backbone", step, batch, tokens, 3),
        "local_latents": moving("latents", step, batch, tokens, 4),
        "bb_ca_time": clock(step, batch),
        "local_latents_time": clock(step, batch),
        "padding_mask": here,
        "token_type": torch.zeros(batch, tokens, dtype=torch.long),
        "atom37_mask": here[..., None].expand(-1, -1, 37),
        "conditioning": {
            "is_in_context_conditioning": ~here,
            "supports_local_latent": here,
            "token_bond_path_length": (chain[:, None] - chain).abs().expand(batch, -1, -1),
            "molecule_iid": torch.zeros(batch, tokens),
            "molecule_entity_id": torch.zeros(batch, tokens),
            "condition_index-group_1_token": torch.zeros(batch, tokens),
        },
        "recycle_depth": recycle_depth,
    }


def proteina_recycling(step: int, batch: int) -> dict[str, Any]:
    return proteina(step, batch, recycle_depth=2)


PROTEINA = {
    "nlayers": 3,
    "token_dim": 16,
    "nheads": 2,
    "dim_cond": 8,
    "pair_repr_dim": 8,
    "latent_dim": 4,
    "token_type_emb_dim": 4,
    "cath_emb_dim": 4,
    "t_emb_dim": 8,
    "seq_sep_dim": 8,
    "xt_pair_dist_dim": 8,
    "update_pair_repr_every_n": 1,
    "tri_mult_c": 8,
    "num_sequence_classes": 5,
    "recycle_conditioning_dim": 3,
    "feats_seq": ("xt_bb_ca", "xt_local_latents", "token_type"),
}
AUDIO_AND_MOLECULES: tuple[Bare, ...] = (
    bare("LongCatAudioDiTTransformer", longcat_audio, dit_dim=16, dit_depth=3, dit_heads=2, dit_text_dim=8, latent_dim=4),
    bare(
        "MiniMaxMusic3Transformer1DModel",
        minimax_music3,
        **HEADS,
        in_channels=4,
        condition_dim=8,
        num_layers=3,
        ff_inner_dim=32,
        rotary_dim=4,
        fourier_embedding_dim=16,
    ),
    bare(
        "StableAudio3DiTModel",
        stable_audio3,
        io_channels=4,
        embed_dim=16,
        depth=3,
        num_heads=2,
        cond_token_dim=8,
        global_cond_dim=8,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        num_memory_tokens=2,
    ),
    bare("RFD4ProteinaTransformer", proteina, **PROTEINA),
    bare("RFD4ProteinaTransformer:recycling", proteina_recycling, **PROTEINA, notes="As its pipeline calls it: every step passes the blocks several times."),
    bare("T5FilmDecoder", t5_film, input_dims=4, targets_length=6, d_model=16, num_layers=3, num_heads=2, d_kv=8, d_ff=32),
)
