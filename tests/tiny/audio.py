"""Audio transformers: ACE-Step and Stable Audio."""

from typing import Any

import diffusers

from .common import NO_TEXT, Ask, Tiny, flow, model, nothing, redraw, scheduler, tiny
from .standins import TextEncoder, Tokenizer

TEXT, WIDTH = 6, 16


def ace_parts() -> dict[str, Any]:
    """ACE-Step: a real condition encoder on a stand-in text encoder; no VAE. Layers see a window and the whole in turn."""
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
    }
    network = model("AceStepTransformer1DModel", **sizes, num_hidden_layers=3, in_channels=12, audio_acoustic_hidden_dim=4)
    layers = {"num_lyric_encoder_hidden_layers": 1, "num_timbre_encoder_hidden_layers": 1}
    condition = diffusers.pipelines.ace_step.AceStepConditionEncoder(**sizes, **layers, text_hidden_dim=WIDTH, timbre_hidden_dim=4)
    encoders = {"text_encoder": TextEncoder(WIDTH), "tokenizer": Tokenizer(TEXT), "condition_encoder": redraw(condition, 1).eval().requires_grad_(False)}
    return {"transformer": network, "vae": None, "scheduler": flow(num_train_timesteps=1), **encoders}


def ace(ask: Ask) -> dict[str, Any]:
    """0.64 seconds are 16 frames, two of which are a token."""
    lyrics = [f"{prompt}, sung" for prompt in ask.prompts]
    return {"prompt": ask.prompts, "lyrics": lyrics, "audio_duration": 0.96 if ask.large else 0.64, "guidance_scale": ask.scale(7.0)}


def stable_parts() -> dict[str, Any]:
    """Stable Audio, with a tiny real VAE (read for its config only) and a real projection of the durations."""
    network = model(
        "StableAudioDiTModel",
        sample_size=16,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    sizes: dict[str, Any] = {
        "encoder_hidden_size": 4,
        "downsampling_ratios": [1, 2],
        "decoder_channels": 2,
        "decoder_input_channels": 4,
        "channel_multiples": [1, 2],
    }
    vae = model("AutoencoderOobleck", **sizes, sampling_rate=32)
    projection = model("StableAudioProjectionModel", text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=32)
    sampler = scheduler("EDMDPMSolverMultistepScheduler", sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, prediction_type="v_prediction")
    return {"transformer": network, "vae": vae, "projection_model": projection, "scheduler": sampler, **nothing("text_encoder", "tokenizer")}


def stable(ask: Ask) -> dict[str, Any]:
    """16 latents, a token each. The pipeline reads the length from the transformer's config, so a large call writes it there."""
    ask.pipe.transformer.register_to_config(sample_size=ask.pick(16, 24))
    masks = {"attention_mask": ask.mask(TEXT), "negative_attention_mask": ask.mask(TEXT)}
    return {**ask.text(TEXT, WIDTH, scale=7.0), **masks}


FAMILY: list[Tiny] = [
    tiny("AceStepPipeline", ace_parts, ace, guidance="batched", notes="Tokenizer and text encoder are stand-ins; the condition encoder is real."),
    tiny("StableAudioPipeline", stable_parts, stable, guidance="batched", notes=f"{NO_TEXT} `size` sets the transformer's config."),
]
