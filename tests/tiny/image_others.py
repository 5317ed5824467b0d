"""Image transformers unlike the others: Hunyuan-DiT with its skips, OmniGen that is a language model, experts, Ernie."""

import importlib
from typing import Any
from unittest import mock

import attrs

from .common import ALWAYS_GUIDED, NO_TEXT, Ask, Tiny, flow, image_vae, model, nothing, scheduler, shifted_flow, tiny
from .standins import Batch, Tokenizer

TEXT, WIDTH = 6, 16
MASK = "prompt_attention_mask"


def hunyuan_dit_parts() -> dict[str, Any]:
    """Hunyuan-DiT: four blocks, since the last one needs the output of the first (three would leave it without)."""
    network = model(
        "HunyuanDiT2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=8,
        text_len=TEXT,
        text_len_t5=TEXT,
    )
    absent = nothing("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    return {"transformer": network, "vae": None, "scheduler": scheduler("DDPMScheduler", clip_sample=False), "requires_safety_checker": False, **absent}


def hunyuan_dit(ask: Ask) -> dict[str, Any]:
    """Two text encoders' embeddings; no binning of the resolution, whose smallest bin is 768 pixels."""
    first = ask.text(TEXT, WIDTH, scale=5.0, mask=MASK)
    second = {f"{name}_2": value for name, value in first.items() if name != "guidance_scale"}
    return {**first, **second, "use_resolution_binning": False, **ask.side(64, 96)}


class OmniGenProcessor:
    """A stand-in for OmniGen's processor, whose image transforms need torchvision; the collator, which makes the masks, is the real one."""

    def __init__(self, tokenizer: Tokenizer, max_image_size: int) -> None:
        self.tokenizer, self.max_image_size = tokenizer, max_image_size
        self.collator = importlib.import_module("diffusers.pipelines.omnigen.processor_omnigen").OmniGenCollator()

    def __call__(self, prompts: list[str], _images: None, *, height: int, width: int, **_: Any) -> dict[str, Any]:
        """The ids of every prompt and of the shorter empty one."""

        def ids(text: str, length: int) -> Batch:
            return Batch(input_ids=self.tokenizer(text).input_ids[0, :length].tolist(), pixel_values=None, image_sizes=None)

        collated: dict[str, Any] = self.collator([(ids(prompt, TEXT), ids("", 2), None, [height, width]) for prompt in prompts])
        return collated


def omnigen_parts() -> dict[str, Any]:
    """OmniGen is a language model on text, timestep and image tokens in one sequence."""
    network = model(
        "OmniGenTransformer2DModel",
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_layers=3,
        pad_token_id=0,
        vocab_size=1000,
        max_position_embeddings=64,
        original_max_position_embeddings=64,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
        pos_embed_max_size=16,
        time_step_dim=8,
    )
    return {"transformer": network, "vae": image_vae(blocks=4), "scheduler": flow(invert_sigmas=True), "tokenizer": Tokenizer(TEXT)}


def omnigen_build() -> Any:
    """The pipeline, built with the stand-in processor in the place of its own."""
    module = importlib.import_module("diffusers.pipelines.omnigen.pipeline_omnigen")
    with mock.patch.object(module, "OmniGenMultiModalProcessor", OmniGenProcessor, create=True):
        return OMNIGEN.build()


def omnigen(ask: Ask) -> dict[str, Any]:
    """8 x 8 latents: 16 tokens."""
    return {"prompt": ask.prompts, "guidance_scale": 2.5, **ask.side(64, 96)}


def ernie_parts() -> dict[str, Any]:
    """Ernie-Image: one modulation for all blocks, sequence first inside."""
    network = model(
        "ErnieImageTransformer2DModel",
        hidden_size=16,
        num_attention_heads=2,
        num_layers=3,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 2, 2),
    )
    return {"transformer": network, "vae": None, "scheduler": flow(shift=3.0), **nothing("text_encoder", "tokenizer")}


def ernie(ask: Ask) -> dict[str, Any]:
    """16 tokens; texts as lists, of different lengths for the two halves of the batch."""
    text = {"prompt_embeds": list(ask.embeds(TEXT, WIDTH)), "negative_prompt_embeds": list(ask.negative(2, WIDTH))}
    return {**text, "guidance_scale": ask.scale(4.0), **ask.side(64, 96)}


def nucleus_parts() -> dict[str, Any]:
    """NucleusMoE: dense blocks around one whose experts choose their tokens, so that tokens compete (128 is the least dense width)."""
    network = model(
        "NucleusMoEImageTransformer2DModel",
        in_channels=16,
        out_channels=4,
        num_layers=5,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        mlp_ratio=12.0,
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=[1.0] * 5,
    )
    return {"transformer": network, "vae": None, "scheduler": shifted_flow(), **nothing("text_encoder", "processor")}


def nucleus(ask: Ask) -> dict[str, Any]:
    """64 x 64 pixels: 16 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=4.0, mask="prompt_embeds_mask"), **ask.side(64, 96)}


NOISE = f"{NO_TEXT} The scheduler draws noise in every step."
STAND_INS = f"Tokenizer and processor are stand-ins. {ALWAYS_GUIDED} the pipeline makes 2B rows whatever the scale is."
OMNIGEN = tiny("OmniGenPipeline", omnigen_parts, omnigen, guidance="batched", notes=STAND_INS)
FAMILY: list[Tiny] = [
    tiny("HunyuanDiTPipeline", hunyuan_dit_parts, hunyuan_dit, guidance="batched", notes=NOISE),
    attrs.evolve(OMNIGEN, build=omnigen_build),
    tiny("NucleusMoEImagePipeline", nucleus_parts, nucleus, guidance="sequential", notes=f"{NO_TEXT} Five blocks: the first three and the last are dense."),
    tiny("ErnieImagePipeline", ernie_parts, ernie, guidance="batched", notes=NO_TEXT),
]
