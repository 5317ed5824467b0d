"""Tiny modular pipelines of diffusers: their own blocks without encoders and decoders, with the components and inputs of the ordinary ones."""

import warnings
from collections.abc import Callable
from typing import Any

import attrs
import diffusers
import torch
from torch import Tensor

from . import flux, hunyuan, image_flow, image_others, image_single, ltx, qwen, sd3, video_flow, wan
from .common import Ask, Inputs, Parts, accepted, drawn, tensor_of

CODERS = ("text_encoder", "image_encoder", "prompt_enhancer", "condition_encoder", "reference_encoder", "duration", "decode")
"""Blocks that are left out. One that encodes an image stays: without an image it does nothing, and with it the pipeline has a VAE to ask."""


@attrs.frozen
class Modular:
    """One preset of blocks in miniature."""

    blocks: str
    """The class of the blocks."""
    parts: Parts
    """The ordinary pipeline's components; those that the blocks name are taken, and guiders are the blocks' own."""
    inputs: Inputs
    """Likewise, its inputs."""
    streams: tuple[str, ...]
    """What the model's calls in a step are called; ("model",) where no guider names them."""
    more: Callable[[Ask], dict[str, Any]] = lambda _: {}
    """Inputs that the ordinary pipeline does not have."""
    output: str = "latents"
    """What the blocks leave behind."""

    def build(self, **guiders: Any) -> Any:
        """A new pipeline, with equal weights at each call, and with these guiders in the place of its own."""
        with torch.random.fork_rng(devices=[]), accepted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of repositories that nobody loads from
            torch.manual_seed(0)
            blocks = getattr(diffusers.modular_pipelines, self.blocks)()
            for coder in CODERS:
                blocks.sub_blocks.pop(coder, None)
            pipe = blocks.init_pipeline()
            wanted = {spec.name for spec in blocks.expected_components} - {"guider", "guider_2", "audio_guider"}
            pipe.update_components(**{name: part for name, part in self.parts().items() if name in wanted and part is not None}, **guiders)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(self, pipe: Any, *, steps: int = 4, seed: int = 0, **extra: Any) -> Tensor:
        """The latents, equal for equal arguments."""
        ask = Ask(pipe, 1, False, True, seed)
        known = {parameter.name for parameter in pipe.blocks.inputs}
        given = {**self.inputs(ask), **self.more(ask), "num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), **extra}
        with torch.random.fork_rng(devices=[]), accepted():
            torch.manual_seed(seed)
            return tensor_of(pipe(output=self.output, **{name: value for name, value in given.items() if name in known}))


GUIDED = ("pred_cond", "pred_uncond")
TWICE = tuple(f"{model}: {name}" for model in ("transformer", "transformer_2") for name in GUIDED)


def wan_latents(ask: Ask) -> dict[str, Any]:
    """Noise of four channels; without a VAE the blocks would draw it in sixteen."""
    return {"latents": drawn(f"noise {ask.seed}", 1, 4, 2, 4, 4)}


def ltx2(ask: Ask) -> dict[str, Any]:
    """What the connectors make of the embeddings."""
    made = {"connector_attention_mask": ask.mask(6), "connector_prompt_embeds": ask.embeds(6, 16), "connector_audio_prompt_embeds": ask.embeds(6, 16)}
    negative = {"negative_connector_prompt_embeds": ask.negative(6, 16), "negative_connector_audio_prompt_embeds": ask.negative(6, 16)}
    return {**made, **negative, "negative_connector_attention_mask": ask.mask(6), "frame_rate": 24.0, "batch_size": 1, "dtype": torch.float32}


def larger(_: Ask) -> dict[str, Any]:
    """16 tokens, where the blocks have no VAE and take one for eight times smaller."""
    return {"height": 64, "width": 64}


MODULAR: dict[str, Modular] = {
    preset.blocks: preset
    for preset in (
        Modular("WanBlocks", wan.parts, wan.text, GUIDED, more=wan_latents),
        Modular("Wan22Blocks", wan.wan22_parts, wan.text, TWICE, more=wan_latents),
        Modular("FluxAutoBlocks", flux.parts, flux.text, ("model",)),
        Modular("Flux2KleinBaseAutoBlocks", lambda: flux.flux2_parts(guidance=False), flux.klein, GUIDED, more=larger),
        Modular("StableDiffusion3AutoBlocks", sd3.sd3_parts, sd3.sd3, GUIDED),
        Modular("QwenImageAutoBlocks", qwen.parts, qwen.text, GUIDED),
        Modular("ZImageAutoBlocks", image_single.z_image_parts, image_single.z_image, ("pred_cond",)),
        Modular("ErnieImageAutoBlocks", image_others.ernie_parts, image_others.ernie, GUIDED),
        Modular("Krea2AutoBlocks", image_flow.krea_parts, image_flow.krea, GUIDED),
        Modular("HunyuanVideo15AutoBlocks", lambda: hunyuan.video15_parts("t2v"), hunyuan.video15, GUIDED),
        Modular("LTXAutoBlocks", ltx.ltx_parts, ltx.ltx, GUIDED),
        Modular("LTX2AutoBlocks", ltx.ltx2_parts, ltx.ltx2, (*GUIDED, "pred_cond_stg", "pred_cond_modality"), more=ltx2),
        Modular("HeliosAutoBlocks", video_flow.helios_parts, video_flow.helios, GUIDED),
    )
}
