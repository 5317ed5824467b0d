"""The Flux line: Flux and its image-conditioned forms, Flux 2 and Klein. No text encoder: embeddings are handed in."""

from typing import Any

from .common import NO_TEXT, Ask, Tiny, half_mask, image_vae, model, nothing, picture, pictures, shifted_flow, tiny

TEXT, WIDTH, POOLED = 6, 16, 16
ENCODERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def transformer(in_channels: int = 16, out_channels: int = 16, *, guidance: bool = True, **config: Any) -> Any:
    """A Flux transformer of three double and three single blocks, 16 wide."""
    return model(
        "FluxTransformer2DModel",
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
        **config,
    )


def parts(**others: Any) -> dict[str, Any]:
    """Flux's components, with a real tiny VAE that halves the resolution."""
    return {"scheduler": shifted_flow(), "vae": image_vae(), "transformer": transformer(), **nothing(*ENCODERS), **others}


def control_parts(pipeline_channels: int) -> dict[str, Any]:
    """Components of a pipeline that concatenates a condition to the latents' channels."""
    return parts(transformer=transformer(pipeline_channels))


def controlnet_parts() -> dict[str, Any]:
    """Flux with a ControlNet of two double blocks and one single block (three and three in the transformer)."""
    net = model(
        "FluxControlNetModel",
        seed=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=[2, 2, 4],
    )
    return parts(controlnet=net)


def text(ask: Ask) -> dict[str, Any]:
    """Embeddings and resolution: 16 x 16 pixels are 8 x 8 latents and 16 tokens."""
    return {"prompt_embeds": ask.embeds(TEXT, WIDTH), "pooled_prompt_embeds": ask.embeds(POOLED), "guidance_scale": ask.scale(3.5), **ask.side(16, 24)}


def true_cfg(ask: Ask) -> dict[str, Any]:
    """Two calls per step, with a negative prompt."""
    negative = {"negative_prompt_embeds": ask.negative(TEXT, WIDTH), "negative_pooled_prompt_embeds": ask.negative(POOLED)}
    return {**text(ask), **negative, "true_cfg_scale": ask.scale(4.0)}


def edit(ask: Ask) -> dict[str, Any]:
    """Image to image."""
    return {**text(ask), "image": pictures(ask, 16, 24), "strength": 0.75}


def inpaint(ask: Ask) -> dict[str, Any]:
    """Image to image under a mask."""
    return {**edit(ask), "mask_image": [half_mask(ask.pick(16, 24))] * ask.batch}


def fill(ask: Ask) -> dict[str, Any]:
    """The mask and the masked image are channels of the transformer's input."""
    return {**inpaint(ask), "strength": 1.0}


def kontext(ask: Ask) -> dict[str, Any]:
    """The image is a second half of the token sequence."""
    return {**text(ask), "image": picture(ask.pick(16, 24)), "_auto_resize": False, "max_area": ask.pick(16, 24) ** 2}


def control(ask: Ask) -> dict[str, Any]:
    """A control image, in the channels or through a ControlNet."""
    return {**text(ask), "control_image": picture(ask.pick(16, 24))}


def flux2_parts(*, guidance: bool) -> dict[str, Any]:
    """Flux 2's components; its VAE's batch norm keeps the statistics it is built with."""
    vae = model(
        "AutoencoderKLFlux2",
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
    )
    network = model(
        "Flux2Transformer2DModel",
        in_channels=16,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance,
    )
    return {"scheduler": shifted_flow(), "vae": vae, "transformer": network, **nothing("text_encoder", "tokenizer")}


def flux2_text(ask: Ask) -> dict[str, Any]:
    """Flux 2 takes one sequence of embeddings."""
    return {"prompt_embeds": ask.embeds(TEXT, WIDTH), "guidance_scale": ask.scale(4.0), **ask.side(16, 24)}


def klein(ask: Ask) -> dict[str, Any]:
    """The undistilled Klein guides with a second call."""
    return {**flux2_text(ask), "negative_prompt_embeds": ask.negative(TEXT, WIDTH)}


def klein_kv(ask: Ask) -> dict[str, Any]:
    """A reference image (64 pixels is the least that is taken) whose keys and values are kept after the first step."""
    return {"prompt_embeds": ask.embeds(TEXT, WIDTH), "image": picture(64), **ask.side(16, 24)}


FAMILY: list[Tiny] = [
    tiny("FluxPipeline", parts, text, guidance="distilled", notes=NO_TEXT),
    tiny("FluxPipeline:true_cfg", parts, true_cfg, guidance="sequential", notes=NO_TEXT),
    tiny("FluxImg2ImgPipeline", parts, edit, guidance="distilled", notes=f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."),
    tiny("FluxInpaintPipeline", parts, inpaint, guidance="distilled", notes=f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."),
    tiny("FluxKontextPipeline", parts, kontext, guidance="distilled", notes=NO_TEXT),
    tiny("FluxFillPipeline", lambda: control_parts(16 + 16 + 4 * 4), fill, guidance="distilled", notes=NO_TEXT),
    tiny("FluxControlPipeline", lambda: control_parts(32), control, guidance="distilled", notes=NO_TEXT),
    tiny("FluxControlNetPipeline", controlnet_parts, control, guidance="distilled", notes=NO_TEXT),
    tiny("Flux2Pipeline", lambda: flux2_parts(guidance=True), flux2_text, guidance="distilled", notes=NO_TEXT),
    tiny("Flux2KleinPipeline", lambda: flux2_parts(guidance=False), klein, guidance="sequential", notes=NO_TEXT),
    tiny("Flux2KleinKVPipeline", lambda: flux2_parts(guidance=False), klein_kv, guidance="none", notes=f"{NO_TEXT} Fewer tokens after the first step."),
]
