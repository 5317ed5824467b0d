"""Sampling loops that know nothing of who calls the model.

Each yields its timesteps; then, for each step, the calls that it wants, by the names of their streams, and is
sent what they return; last a function that makes the image.
"""

import copy
from functools import partial

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image

from foreseer.zoo import load_dit, load_flux
from foreseer.zoo.ddim import ddim_timesteps
from foreseer.zoo.dit import NULL_CLASS, alphas_cumprod
from foreseer.zoo.standins import digit_of


@torch.no_grad()
def dit(prompt, seed, steps, size, *, guidance=1.5):
    """DDIM, and guidance in two calls."""
    yield (times := ddim_timesteps(steps))
    size = size or 8
    x = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    labels = {"cond": torch.tensor([digit_of(prompt)]), "uncond": torch.tensor([NULL_CLASS])}
    kept = [*alphas_cumprod()[times].tolist(), 1.0]
    for t, a, a_next in zip(times, kept, kept[1:], strict=False):
        cond, uncond = yield {name: {"hidden_states": x, "timestep": torch.tensor([t]), "class_labels": label} for name, label in labels.items()}
        noise = (uncond.sample + guidance * (cond.sample - uncond.sample))[:, :1]
        x = a_next**0.5 * (x - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - a_next) ** 0.5 * noise
    yield lambda: Image.fromarray(((x[0, 0].clamp(-1, 1) + 1) * 127.5).round().byte().numpy())


@torch.no_grad()
def flux(pipe, prompt, seed, steps, size, *, guidance=3.5):
    """What `FluxPipeline` does for one prompt: guidance is an input of the model."""
    size = size or pipe.default_sample_size
    scheduler, config = copy.deepcopy(pipe.scheduler), pipe.scheduler.config  # it counts the steps of one request
    text, pooled, text_ids = pipe.encode_prompt(prompt, None)
    x, places = pipe.prepare_latents(1, pipe.transformer.config.in_channels // 4, size, size, text.dtype, text.device, torch.Generator().manual_seed(seed))
    shift = calculate_shift(x.shape[1], config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=shift)
    same = {"guidance": torch.full([1], guidance), "pooled_projections": pooled, "encoder_hidden_states": text, "txt_ids": text_ids, "img_ids": places}
    yield scheduler.timesteps
    for t in scheduler.timesteps:
        ((velocity,),) = yield {"": {"hidden_states": x, "timestep": t.expand(1) / 1000, **same, "return_dict": False}}
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
    yield partial(decode, pipe, x, size)


@torch.no_grad()
def decode(pipe, x, size):
    """The end of `FluxPipeline`."""
    config = pipe.vae.config
    latents = pipe._unpack_latents(x, size, size, pipe.vae_scale_factor) / config.scaling_factor + config.shift_factor
    return pipe.image_processor.postprocess(pipe.vae.decode(latents, return_dict=False)[0])[0]


def bundled():
    """The miniatures that come with foreseer: of each the denoiser, and how it is sampled."""
    pipe = load_flux()
    return {"dit": (load_dit(), dit), "flux": (pipe.transformer, partial(flux, pipe))}
