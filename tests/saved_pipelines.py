"""Five pipelines as their users have them: saved in folders, with tokenizers, text encoders and VAEs, all tiny and random."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tiny import TINY, flux, ltx, qwen, sd3, wan
from tiny.common import image_vae, wan_vae

WIDTH = 16
LETTERS = [*string.ascii_lowercase, *string.digits]


def clip(width: int = WIDTH, projected: int | None = None) -> tuple[Any, Any]:
    """A tokenizer of letters and a text model; with a projection as SD3 has it."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    tokenizer = transformers.CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=77)
    kind = transformers.CLIPTextModel if projected is None else transformers.CLIPTextModelWithProjection
    shape = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(words)}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return tokenizer, kind(transformers.CLIPTextConfig(**shape, **ends, projection_dim=projected or width)).eval()


def t5(kind: str = "T5") -> tuple[Any, Any]:
    """A tokenizer of letters and an encoder."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = transformers.T5Tokenizer(pieces, extra_ids=0, model_max_length=32)
    shape = {"d_model": WIDTH, "d_kv": 8, "d_ff": WIDTH, "num_layers": 2, "num_heads": 2, "vocab_size": len(pieces)}
    config = getattr(transformers, f"{kind}Config")(**shape)
    return tokenizer, getattr(transformers, f"{kind}EncoderModel")(config).eval()


def qwen_text() -> tuple[Any, Any]:
    """Qwen2.5-VL without a use for its eyes."""
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 324))]
    words = {word: i for i, word in enumerate([*special, *alphabet])}
    tokenizer = Qwen2Tokenizer(words, [], model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    shape = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "type": "mrope"}
    text = {**shape, "vocab_size": len(words) + 8, "rope_scaling": rotary, "max_position_embeddings": 4096, "pad_token_id": 0}
    eyes = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=eyes)
    return tokenizer, transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def build_sd3() -> Any:
    several = {"": clip(8, 8), "_2": clip(8, 8), "_3": t5()}
    texts = {f"{part}{ending}": pair[i] for ending, pair in several.items() for i, part in enumerate(("tokenizer", "text_encoder"))}
    return diffusers.StableDiffusion3Pipeline(**{**sd3.sd3_parts(), **texts})


def build_flux() -> Any:
    first, second = clip(), t5()
    texts = {"tokenizer": first[0], "text_encoder": first[1], "tokenizer_2": second[0], "text_encoder_2": second[1]}
    return diffusers.FluxPipeline(**{**flux.parts(vae=image_vae(4, blocks=2)), **texts})


def build_wan() -> Any:
    tokenizer, encoder = t5("UMT5")
    return diffusers.WanPipeline(**{**wan.parts(vae=wan_vae()), "tokenizer": tokenizer, "text_encoder": encoder})


def build_qwen() -> Any:
    tokenizer, encoder = qwen_text()
    return diffusers.QwenImagePipeline(**{**qwen.parts(), "tokenizer": tokenizer, "text_encoder": encoder})


def build_ltx() -> Any:
    tokenizer, encoder = t5()
    return diffusers.LTXPipeline(**{**ltx.ltx_condition_parts(), "tokenizer": tokenizer, "text_encoder": encoder})


SAVED: dict[str, tuple[Callable[[], Any], str]] = {
    "sd3": (build_sd3, "height=16,width=16,guidance_scale=4.0,max_sequence_length=16"),
    "flux": (build_flux, "height=16,width=16,max_sequence_length=16"),
    "wan": (build_wan, "height=32,width=32,num_frames=5,guidance_scale=4.0,max_sequence_length=16"),
    "qwen": (build_qwen, "height=64,width=64,max_sequence_length=16,negative_prompt=blur,true_cfg_scale=3.0"),
    "ltx": (build_ltx, "height=32,width=32,num_frames=9,max_sequence_length=16"),
}
"""Of each how it is built, and the arguments of its calls."""


def save(name: str, folder: Path) -> Path:
    """Save one, and return its folder."""
    torch.manual_seed(0)
    SAVED[name][0]().save_pretrained(folder / name)
    return folder / name


__all__ = ["SAVED", "TINY", "save"]
