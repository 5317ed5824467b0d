"""Image transformers with double and single blocks beside Flux: Chroma, AuraFlow, Bria, Ovis, HiDream, Krea 2, VisualCloze."""

from typing import Any

import torch

from . import flux
from .common import NO_TEXT, Ask, Tiny, flow, image_vae, model, nothing, picture, shifted_flow, tiny
from .standins import TextEncoder, Tokenizer

TEXT, WIDTH, POOLED = 6, 16, 16
ENCODER = ("text_encoder", "tokenizer")
FLUX_LIKE: dict[str, Any] = {"num_layers": 3, "num_single_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": WIDTH}


def parts(network: Any, sampler: Any, **others: Any) -> dict[str, Any]:
    """A pipeline without VAE; by default without text encoder."""
    return {"transformer": network, "vae": None, "scheduler": sampler, **nothing(*ENCODER), **others}


def chroma_parts() -> dict[str, Any]:
    """Chroma: one network computes every block's modulation from the timestep."""
    sizes: dict[str, Any] = {
        "in_channels": 16,
        "axes_dims_rope": (2, 2, 4),
        "approximator_num_channels": 8,
        "approximator_hidden_dim": 16,
        "approximator_layers": 1,
    }
    return parts(model("ChromaTransformer2DModel", **FLUX_LIKE, **sizes), shifted_flow())


def chroma(ask: Ask) -> dict[str, Any]:
    """64 x 64 pixels: 8 x 8 latents, 16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=5.0, mask="prompt_attention_mask", dtype=torch.bool), **ask.side(64, 96)}


def aura_parts() -> dict[str, Any]:
    """AuraFlow: joint blocks, then single ones on the concatenated streams; registers before the text."""
    network = model(
        "AuraFlowTransformer2DModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=3,
        num_single_dit_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return parts(network, flow(shift=1.73))


def bria_parts() -> dict[str, Any]:
    """Bria, with a VAE since the pipeline reads its config."""
    return parts(model("BriaTransformer2DModel", **FLUX_LIKE, in_channels=16, axes_dims_rope=[2, 2, 4]), shifted_flow(), vae=image_vae())


def bria(ask: Ask) -> dict[str, Any]:
    """16 tokens; the negative embeddings are the pipeline's own zeros where none are given."""
    return {**ask.text(TEXT, WIDTH, scale=5.0), **ask.side(16, 24)}


def fibo_parts() -> dict[str, Any]:
    """Bria Fibo: every block sees another layer of the text encoder, which is a stand-in of seven layers for six blocks."""
    network = model(
        "BriaFiboTransformer2DModel", **FLUX_LIKE | {"joint_attention_dim": 2 * WIDTH}, in_channels=4, axes_dims_rope=[2, 2, 4], text_encoder_dim=WIDTH
    )
    return parts(network, shifted_flow(), text_encoder=TextEncoder(WIDTH, 7), tokenizer=Tokenizer(TEXT))


def fibo(ask: Ask) -> dict[str, Any]:
    """16 tokens; the empty negative prompt is one token, padded and masked."""
    return {"prompt": ask.prompts, "guidance_scale": ask.scale(5.0), **ask.side(64, 96)}


def ovis_parts() -> dict[str, Any]:
    """Ovis-Image, Flux-like with two calls per step."""
    return parts(model("OvisImageTransformer2DModel", **FLUX_LIKE, in_channels=16, out_channels=16, axes_dims_rope=(2, 2, 4)), shifted_flow())


def ovis(ask: Ask) -> dict[str, Any]:
    """16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=5.0), "negative_prompt": None, **ask.side(64, 96)}


def hidream_parts() -> dict[str, Any]:
    """HiDream: mixtures of experts, and one layer of the language model for every block."""
    network = model(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=POOLED,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1, 2, 3, 4, 5],
        force_inference_output=True,
    )
    encoders = [f"{kind}{number}" for number in ("", "_2", "_3", "_4") for kind in ("text_encoder", "tokenizer")]
    return {"transformer": network, "vae": None, "scheduler": flow(shift=3.0), **nothing(*encoders)}


def hidream(ask: Ask) -> dict[str, Any]:
    """The language model's layers come first, then the batch. The pipeline scales every request to its default area: a large call sets that."""
    ask.pipe.default_sample_size = ask.pick(8, 12)
    llama, negative = ask.embeds(6, TEXT, WIDTH).transpose(0, 1), ask.negative(6, TEXT, WIDTH).transpose(0, 1)
    return {
        "prompt_embeds_t5": ask.embeds(TEXT, WIDTH),
        "prompt_embeds_llama3": llama,
        "pooled_prompt_embeds": ask.embeds(POOLED),
        "negative_prompt_embeds_t5": ask.negative(TEXT, WIDTH),
        "negative_prompt_embeds_llama3": negative,
        "negative_pooled_prompt_embeds": ask.negative(POOLED),
        "guidance_scale": ask.scale(5.0),
        **ask.side(64, 96),
    }


def krea_parts() -> dict[str, Any]:
    """Krea 2: a text fusion over layers of the text encoder, then blocks on one stream."""
    network = model(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    return parts(network, shifted_flow(), text_encoder_select_layers=(0, 1, 2))


def krea(ask: Ask) -> dict[str, Any]:
    """Three layers of embeddings for each token."""
    masks = {"prompt_embeds_mask": ask.mask(TEXT, torch.bool), "negative_prompt_embeds_mask": ask.mask(TEXT, torch.bool)}
    embeds = {"prompt_embeds": ask.embeds(TEXT, 3, WIDTH), "negative_prompt_embeds": ask.negative(TEXT, 3, WIDTH)}
    return {**embeds, **masks, "guidance_scale": ask.scale(4.5, 0.0), **ask.side(64, 96)}


def cloze_parts() -> dict[str, Any]:
    """VisualCloze: Flux-Fill on a grid of images, at 16 pixels a side instead of 384."""
    encoders = {"text_encoder": TextEncoder(POOLED), "tokenizer": Tokenizer(TEXT), "text_encoder_2": TextEncoder(WIDTH), "tokenizer_2": Tokenizer(TEXT)}
    return flux.parts(transformer=flux.transformer(16 + 16 + 4 * 4), resolution=16, **encoders)


def cloze(ask: Ask) -> dict[str, Any]:
    """One example row and one query row; the last image is to be made. A large call has two example rows."""
    example, query = [picture(16, "a"), picture(16, "b")], [picture(16, "c"), None]
    grid = [example] * (2 if ask.large else 1) + [query]
    return {"task_prompt": ask.prompts, "content_prompt": [""] * ask.batch, "image": [grid] * ask.batch, "guidance_scale": ask.scale(30.0)}


STAND_INS = "Tokenizers and text encoders are stand-ins."
FAMILY: list[Tiny] = [
    tiny("ChromaPipeline", chroma_parts, chroma, guidance="sequential", notes=NO_TEXT),
    tiny("AuraFlowPipeline", aura_parts, chroma, guidance="batched", notes=NO_TEXT),
    tiny("HiDreamImagePipeline", hidream_parts, hidream, guidance="batched", notes=NO_TEXT),
    tiny("BriaPipeline", bria_parts, bria, guidance="batched", notes=NO_TEXT),
    tiny("BriaFiboPipeline", fibo_parts, fibo, guidance="batched", notes=STAND_INS),
    tiny("OvisImagePipeline", ovis_parts, ovis, guidance="sequential", notes=NO_TEXT),
    tiny("Krea2Pipeline", krea_parts, krea, guidance="sequential", notes=NO_TEXT),
    tiny("VisualClozeGenerationPipeline", cloze_parts, cloze, guidance="distilled", notes=STAND_INS),
]
