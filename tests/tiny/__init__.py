"""Tiny versions of real diffusers pipelines: real `__call__` loops, scheduler classes and transformer classes, random weights, no network.

What counts is how each pipeline calls its transformer. Text encoders are left out where the pipeline takes embeddings, and stand-ins where
it does not; VAEs are tiny real ones where an image or video goes in, and missing where only latents come out. Each transformer has three
blocks per block list (where its class allows it) and weights that make the output depend on every block.

    from tiny import TINY
    pipe = TINY["FluxPipeline"].build()
    latents = TINY["FluxPipeline"].call(pipe, steps=8, batch=2)
"""

from . import audio, cosmos, dit, edits, flux, hunyuan, image_flow, image_others, image_single, ltx, qwen, sd3, video, video_edits, video_flow, wan
from .common import Tiny

FAMILIES = (flux, dit, hunyuan, wan, qwen, sd3, ltx, video, image_single, image_flow, video_flow, cosmos, image_others, audio, edits, video_edits)
TINY: dict[str, Tiny] = {item.name: item for family in FAMILIES for item in family.FAMILY}

__all__ = ["TINY", "Tiny"]
