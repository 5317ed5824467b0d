"""Forms of the same video families that start from an image or a video."""

from typing import Any

from . import hunyuan, image_single, ltx, video, wan
from .common import NO_TEXT, Ask, Tiny, drawn, film, picture, pictures, scheduler, tiny, wan_vae
from .standins import ImageEncoder, Pixels

CLIP = f"{NO_TEXT} The image encoder is a stand-in."


def cog_image_parts() -> dict[str, Any]:
    """CogVideoX image to video: the image's latents are extra channels."""
    return video.cogvideox_parts(vae=video.cogvideox_vae(), transformer=video.cogvideox_transformer(in_channels=8))


def cog_image(ask: Ask) -> dict[str, Any]:
    """The first frame is given."""
    return {**video.cogvideox(ask), "image": pictures(ask, 32, 48)}


def cog_control(ask: Ask) -> dict[str, Any]:
    """A control video."""
    arguments = {**video.cogvideox(ask), "control_video": [film(5, ask.pick(32, 48))] * ask.batch}
    del arguments["num_frames"]
    return arguments


def ltx_image(ask: Ask) -> dict[str, Any]:
    """The first frame is given; its tokens have their own timestep."""
    return {**ltx.ltx(ask), "image": pictures(ask, 32, 64), **ask.side(32, 64)}


def skyreels_image_parts() -> dict[str, Any]:
    """SkyReels V2 image to video, with CLIP features."""
    network = wan.transformer("SkyReelsV2Transformer3DModel", in_channels=12, image_dim=wan.WIDTH, added_kv_proj_dim=24)
    return {**wan.wan21_image_parts(), "transformer": network}


def hunyuan15_image_parts() -> dict[str, Any]:
    """HunyuanVideo 1.5 image to video, with SigLIP features."""
    return {**hunyuan.video15_parts("i2v"), "image_encoder": ImageEncoder(4, hunyuan.WIDTH), "feature_extractor": Pixels()}


def hunyuan15_image(ask: Ask) -> dict[str, Any]:
    """The pipeline takes its resolution from the image and from `target_size`."""
    ask.pipe.target_size = ask.pick(16, 24)
    return {**hunyuan.two_encoders(ask), "num_frames": 5, "image": picture(ask.pick(16, 24))}


def skyreels1_image_parts() -> dict[str, Any]:
    """SkyReels V1 image to video on HunyuanVideo: the image's latents are extra channels."""
    return hunyuan.video_parts(transformer=hunyuan.video_transformer(in_channels=8), vae=hunyuan.video_vae())


def skyreels1_image(ask: Ask) -> dict[str, Any]:
    """True guidance, in two calls."""
    return {**hunyuan.video_true_cfg(ask), "guidance_scale": 1.0, "image": pictures(ask, 32, 48), "true_cfg_scale": ask.scale(6.0)}


def lucy_parts() -> dict[str, Any]:
    """Lucy edits a video: its latents are extra channels of a Wan transformer."""
    return wan.parts(vae=wan_vae(), transformer=wan.transformer(in_channels=8))


def lucy(ask: Ask) -> dict[str, Any]:
    """Five frames in, five frames out."""
    return {**wan.text(ask), "video": [film(5, ask.pick(32, 48))] * ask.batch}


def sprint_parts() -> dict[str, Any]:
    """Sana Sprint: guidance is embedded, and the scheduler is SCM."""
    return image_single.latent_parts(image_single.sana_transformer(guidance_embeds=True), scheduler("SCMScheduler"))


def sprint(ask: Ask) -> dict[str, Any]:
    """Four steps without an intermediate timestep, which only two steps have."""
    arguments = {name: value for name, value in image_single.sana(ask).items() if not name.startswith("negative")}
    return {**arguments, "intermediate_timesteps": None}


def consis_parts() -> dict[str, Any]:
    """ConsisID: CogVideoX with a face extractor and a cross attention to it after every second block."""
    sizes = {"num_attention_heads": 3, "num_layers": 4, "cross_attn_dim_head": 8, "cross_attn_num_heads": 2, "LFE_id_dim": 8, "LFE_vit_dim": 8}
    face = {"LFE_depth": 5, "LFE_dim_head": 8, "LFE_num_heads": 2, "LFE_num_id_token": 1, "LFE_num_querie": 2, "LFE_output_dim": 32, "LFE_ff_mult": 1}
    network = video.cogvideox_transformer("ConsisIDTransformer3DModel", in_channels=8, is_train_face=True, **sizes, **face)
    return video.cogvideox_parts(vae=video.cogvideox_vae(), transformer=network)


def consis(ask: Ask) -> dict[str, Any]:
    """A face, as the embedding and the five feature maps that its detectors would give."""
    face = {"id_vit_hidden": [drawn(f"vit {i}", 1, 2, 8) for i in range(5)], "id_cond": drawn("face", 1, 8)}
    return {**video.cogvideox(ask), **face, "image": pictures(ask, 32, 48)}


FACE = f"{NO_TEXT} The face's features are drawn. Imported from its own module: diffusers exports it only beside opencv."
FAMILY: list[Tiny] = [
    tiny("CogVideoXImageToVideoPipeline", cog_image_parts, cog_image, guidance="batched", notes=NO_TEXT),
    tiny("CogVideoXFunControlPipeline", cog_image_parts, cog_control, guidance="batched", notes=NO_TEXT),
    tiny("LTXImageToVideoPipeline", ltx.ltx_condition_parts, ltx_image, guidance="batched", notes=NO_TEXT),
    tiny("SkyReelsV2ImageToVideoPipeline", skyreels_image_parts, wan.image, guidance="sequential", notes=CLIP),
    tiny("HunyuanVideo15ImageToVideoPipeline", hunyuan15_image_parts, hunyuan15_image, guidance="sequential", notes=CLIP),
    tiny("HunyuanSkyreelsImageToVideoPipeline", skyreels1_image_parts, skyreels1_image, guidance="sequential", notes=NO_TEXT),
    tiny("LucyEditPipeline", lucy_parts, lucy, guidance="sequential", notes=NO_TEXT),
    tiny("SanaSprintPipeline", sprint_parts, sprint, guidance="distilled", notes=NO_TEXT),
    tiny("ConsisIDPipeline", consis_parts, consis, guidance="batched", module="diffusers.pipelines.consisid.pipeline_consisid", notes=FACE),
]
