"""DiT, the class-conditioned transformer."""

from typing import Any

from .common import Ask, Tiny, model, scheduler, tiny
from .standins import PassThroughVAE


def dit_parts() -> dict[str, Any]:
    """DiT with the learned variance of the real one; the VAE is a stand-in, since the pipeline always decodes and clamps."""
    network = model(
        "DiTTransformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=1,
    )
    return {"transformer": network, "vae": PassThroughVAE(), "scheduler": scheduler("DDIMScheduler", clip_sample=False)}


def dit(ask: Ask) -> dict[str, Any]:
    """DiT reads its resolution from the transformer's config, so a large call writes it there (the position table follows the input)."""
    ask.pipe.transformer.register_to_config(sample_size=ask.pick(8, 12))
    return {"class_labels": [(ask.seed + i) % 1000 for i in range(ask.batch)], "guidance_scale": ask.scale(4.0)}


NOTES = "The VAE is a stand-in that passes the latents through; `size` sets the transformer's config."
FAMILY: list[Tiny] = [tiny("DiTPipeline", dit_parts, dit, guidance="batched", latent="pt", notes=NOTES)]
