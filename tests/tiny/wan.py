"""The Wan line: text, image and video to video, VACE, Animate, and its relatives."""

from typing import Any

from .common import NO_BATCH, NO_TEXT, Ask, Tiny, film, model, nothing, picture, scheduler, tiny, wan_vae
from .standins import ImageEncoder, Pixels

TEXT, WIDTH = 6, 16


def transformer(name: str = "WanTransformer3DModel", *, seed: int = 0, **config: Any) -> Any:
    """Three blocks, 24 wide (12 per head is the least its rotary embedding takes)."""
    return model(
        name,
        seed=seed,
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": WIDTH,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
            **config,
        },
    )


def unipc() -> Any:
    """Wan's own scheduler: a multistep solver on flow sigmas."""
    return scheduler("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def parts(**others: Any) -> dict[str, Any]:
    """Wan without a VAE: 8 times smaller in space, 4 times in time."""
    return {"transformer": transformer(), "scheduler": unipc(), "vae": None, **nothing("text_encoder", "tokenizer"), **others}


def wan22_parts() -> dict[str, Any]:
    """Wan 2.2: a second transformer for the timesteps below the boundary."""
    return parts(transformer_2=transformer(seed=1), boundary_ratio=0.875)


def text(ask: Ask) -> dict[str, Any]:
    """Two latent frames of 4 x 4: 8 tokens."""
    return {**ask.text(TEXT, WIDTH, scale=5.0), "num_frames": 5, **ask.side(32, 48)}


def image_parts(**others: Any) -> dict[str, Any]:
    """Image to video: the image's latents and a mask are extra channels."""
    return parts(vae=wan_vae(), image_processor=None, image_encoder=None, **others)


def wan21_image_parts() -> dict[str, Any]:
    """Wan 2.1 also attends to the image's CLIP features, from a stand-in encoder."""
    network = transformer(in_channels=12, image_dim=WIDTH, added_kv_proj_dim=24)
    return {**image_parts(transformer=network), "image_processor": Pixels(), "image_encoder": ImageEncoder(3, WIDTH)}


def wan22_image_parts() -> dict[str, Any]:
    """Wan 2.2: no CLIP features, two transformers."""
    return image_parts(transformer=transformer(in_channels=12), transformer_2=transformer(seed=1, in_channels=12), boundary_ratio=0.9)


def image(ask: Ask) -> dict[str, Any]:
    """The first frame is given."""
    return {**text(ask), "image": picture(ask.pick(32, 48))}


def vace_parts() -> dict[str, Any]:
    """VACE: two control blocks beside the three, whose hints are added after blocks 0 and 2."""
    return parts(vae=wan_vae(), transformer=transformer("WanVACETransformer3DModel", vace_layers=[0, 2], vace_in_channels=4 * 2 + 64))


def vace(ask: Ask) -> dict[str, Any]:
    """A control video and a mask (by default everything is to be painted)."""
    return {**text(ask), "video": film(5, ask.pick(32, 48))}


def edit(ask: Ask) -> dict[str, Any]:
    """Video to video."""
    arguments = {**text(ask), "video": film(5, ask.pick(32, 48)), "strength": 0.75}
    del arguments["num_frames"]
    return arguments


def animate_parts() -> dict[str, Any]:
    """Animate: pose latents, and face pixels through a motion encoder into an adapter after block 0."""
    network = transformer(
        "WanAnimateTransformer3DModel",
        in_channels=12,
        latent_channels=4,
        image_dim=WIDTH,
        added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=3,
    )
    return parts(vae=wan_vae(), scheduler=unipc(), transformer=network, image_processor=Pixels(), image_encoder=ImageEncoder(3, WIDTH))


def animate(ask: Ask) -> dict[str, Any]:
    """One segment of five frames."""
    side = ask.pick(32, 48)
    arguments = {**text(ask), "image": picture(side), "pose_video": film(5, side, "pose"), "face_video": film(5, 16, "face"), "segment_frame_length": 5}
    del arguments["num_frames"]
    return arguments


CLIP = f"{NO_TEXT} The CLIP image encoder is a stand-in."
FAMILY: list[Tiny] = [
    tiny("WanPipeline", parts, text, guidance="sequential", notes=NO_TEXT),
    tiny(
        "WanPipeline:2.2", wan22_parts, text, guidance="sequential", notes=f"{NO_TEXT} Two of the four steps are run by `transformer`, two by `transformer_2`."
    ),
    tiny(
        "WanPipeline:2.2-5B", lambda: parts(expand_timesteps=True), text, guidance="sequential", notes=f"{NO_TEXT} `expand_timesteps`: one timestep per token."
    ),
    tiny("WanImageToVideoPipeline", wan21_image_parts, image, guidance="sequential", notes=CLIP),
    tiny("WanImageToVideoPipeline:2.2", wan22_image_parts, image, guidance="sequential", notes=NO_TEXT),
    tiny("WanVACEPipeline", vace_parts, vace, guidance="sequential", notes=f"{NO_TEXT} {NO_BATCH} the pipeline refuses more than one video."),
    tiny("WanVideoToVideoPipeline", lambda: parts(vae=wan_vae()), edit, guidance="sequential", notes=f"{NO_TEXT} strength 0.75: 3 of 4 steps are run."),
    tiny("WanAnimatePipeline", animate_parts, animate, guidance="sequential", notes=CLIP),
]
