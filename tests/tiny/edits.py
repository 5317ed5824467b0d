"""Forms of the same image families that start from an image, a mask or a control image."""

from typing import Any

from . import flux, image_flow, image_single, qwen, sd3
from .common import NO_TEXT, Ask, Tiny, half_mask, image_vae, picture, pictures, tiny

STRENGTH = f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."


def masks(ask: Ask, default: int, large: int) -> dict[str, Any]:
    """One mask per sample."""
    return {"mask_image": [half_mask(ask.pick(default, large))] * ask.batch}


def flux_control_edit(ask: Ask) -> dict[str, Any]:
    """A control image beside the image."""
    return {**flux.edit(ask), "control_image": picture(ask.pick(16, 24), "control")}


def flux_control_inpaint(ask: Ask) -> dict[str, Any]:
    """A control image beside the image, under a mask."""
    return {**flux_control_edit(ask), **masks(ask, 16, 24)}


def kontext_inpaint(ask: Ask) -> dict[str, Any]:
    """The image is a second half of the token sequence, and all of the output outside of the mask."""
    return {**flux.kontext(ask), "image": pictures(ask, 16, 24), **masks(ask, 16, 24), "strength": 0.75}


def sd3_inpaint(ask: Ask) -> dict[str, Any]:
    """Image to image under a mask."""
    return {**sd3.sd3_edit(ask), **masks(ask, 16, 24)}


def qwen_inpaint(ask: Ask) -> dict[str, Any]:
    """Image to image under a mask."""
    return {**qwen.edit(ask), **masks(ask, 64, 96)}


def chroma_edit(ask: Ask) -> dict[str, Any]:
    """Image to image."""
    return {**image_flow.chroma(ask), "image": pictures(ask, 16, 24), "strength": 0.75, **ask.side(16, 24)}


def z_image_edit(ask: Ask) -> dict[str, Any]:
    """Image to image."""
    return {**image_single.z_image(ask), "image": pictures(ask, 16, 24), "strength": 0.75, **ask.side(16, 24)}


def with_vae(parts: dict[str, Any]) -> dict[str, Any]:
    """The components with a tiny real VAE that halves the resolution."""
    return {**parts, "vae": image_vae()}


FAMILY: list[Tiny] = [
    tiny("FluxControlImg2ImgPipeline", lambda: flux.control_parts(32), flux_control_edit, guidance="distilled", notes=STRENGTH),
    tiny("FluxControlInpaintPipeline", lambda: flux.control_parts(32), flux_control_inpaint, guidance="distilled", notes=STRENGTH),
    tiny("FluxControlNetImg2ImgPipeline", flux.controlnet_parts, flux_control_edit, guidance="distilled", notes=STRENGTH),
    tiny("FluxControlNetInpaintPipeline", flux.controlnet_parts, flux_control_inpaint, guidance="distilled", notes=STRENGTH),
    tiny("FluxKontextInpaintPipeline", flux.parts, kontext_inpaint, guidance="distilled", notes=STRENGTH),
    tiny("StableDiffusion3InpaintPipeline", lambda: sd3.sd3_parts(16), sd3_inpaint, guidance="batched", notes=STRENGTH),
    tiny("QwenImageInpaintPipeline", qwen.parts, qwen_inpaint, guidance="sequential", notes=STRENGTH),
    tiny("ChromaImg2ImgPipeline", lambda: with_vae(image_flow.chroma_parts()), chroma_edit, guidance="sequential", notes=STRENGTH),
    tiny("ZImageImg2ImgPipeline", lambda: with_vae(image_single.z_image_parts()), z_image_edit, guidance="batched", notes=STRENGTH),
]
