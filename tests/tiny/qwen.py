"""QwenImage and its image-conditioned forms; true CFG is two calls per step."""

from typing import Any

from .common import NO_TEXT, Ask, Tiny, model, nothing, picture, pictures, shifted_flow, tiny

TEXT, WIDTH = 6, 16


def vae() -> Any:
    """A tiny real QwenImage VAE: 8 times smaller in space."""
    return model(
        "AutoencoderKLQwenImage",
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def network(name: str, *, seed: int = 0, **config: Any) -> Any:
    """A transformer or a ControlNet, 16 wide."""
    shape = {"in_channels": 16, "out_channels": 4, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4)}
    return model(name, seed=seed, **shape, **config)


def parts(**others: Any) -> dict[str, Any]:
    """QwenImage with a transformer of three blocks."""
    transformer = network("QwenImageTransformer2DModel", num_layers=3)
    return {"scheduler": shifted_flow(), "vae": vae(), "transformer": transformer, **nothing("text_encoder", "tokenizer"), **others}


def text(ask: Ask) -> dict[str, Any]:
    """64 x 64 pixels: 8 x 8 latents, 16 tokens."""
    arguments = ask.text(TEXT, WIDTH, scale=4.0, mask="prompt_embeds_mask")
    return {"true_cfg_scale": arguments.pop("guidance_scale"), **arguments, **ask.side(64, 96)}


def edit(ask: Ask) -> dict[str, Any]:
    """Image to image."""
    return {**text(ask), "image": pictures(ask, 64, 96), "strength": 0.75}


def controlnet_parts() -> dict[str, Any]:
    """A ControlNet of two blocks beside the three of the transformer."""
    return parts(controlnet=network("QwenImageControlNetModel", seed=1, num_layers=2))


def control(ask: Ask) -> dict[str, Any]:
    """A control image."""
    return {**text(ask), "control_image": picture(ask.pick(64, 96))}


FAMILY: list[Tiny] = [
    tiny("QwenImagePipeline", parts, text, guidance="sequential", notes=NO_TEXT),
    tiny("QwenImageImg2ImgPipeline", parts, edit, guidance="sequential", notes=f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."),
    tiny("QwenImageControlNetPipeline", controlnet_parts, control, guidance="sequential", notes=NO_TEXT),
]
