"""What every family shares: the `Tiny` record, the request a call makes, seeded models, schedulers and inputs drawn from a text."""

import importlib
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

PROMPT = "a prompt, number {}"


@attrs.frozen
class Tiny:
    """One pipeline class in miniature: how to build it, how to call it, and what its call does to the transformer."""

    name: str
    """The pipeline class's name, or "Class:variant"."""
    build: Callable[[], Any]
    """A new pipeline, with equal weights at each call."""
    call: Callable[..., Tensor]
    """`call(pipe, *, steps=4, batch=1, size=None, guidance=True, seed=0, **extra)`: the output, equal for equal arguments.

    `size="large"` asks for another resolution, and `extra` goes to the pipeline's own `__call__`. Sample i of a call with seed s has the
    prompt and the noise of the single sample of a call with seed s + i (where `notes` does not say otherwise).
    """
    guidance: str
    """What a call does by default: "batched" (one forward on 2B rows), "sequential" (two forwards), "distilled" or "none"."""
    rows_per_sample: int
    """Rows of one transformer call per sample."""
    notes: str = ""
    """What is a stand-in, and what is odd about this pipeline."""


@attrs.frozen
class Ask:
    """What one call asks for; a family's `inputs` turns it into the pipeline's own arguments."""

    pipe: Any
    batch: int
    large: bool
    guidance: bool
    seed: int

    @property
    def prompts(self) -> list[str]:
        """One text per sample."""
        return [PROMPT.format(self.seed + i) for i in range(self.batch)]

    def embeds(self, *shape: int) -> Tensor:
        """One embedding per sample, each drawn from that sample's prompt."""
        return torch.stack([drawn(prompt, *shape) for prompt in self.prompts])

    def negative(self, *shape: int) -> Tensor:
        """The embedding of the empty prompt, once per sample."""
        return drawn("", *shape).expand(self.batch, *shape).clone()

    def mask(self, length: int, dtype: torch.dtype = torch.long) -> Tensor:
        """A mask that hides no token."""
        return torch.ones(self.batch, length, dtype=dtype)

    def text(self, length: int, width: int, *, scale: float, mask: str | None = None, dtype: torch.dtype = torch.long) -> dict[str, Any]:
        """What most pipelines take: embeddings, those of the empty prompt, the guidance scale, and masks where `mask` names one."""
        arguments: dict[str, Any] = {"prompt_embeds": self.embeds(length, width), "negative_prompt_embeds": self.negative(length, width)}
        if mask is not None:
            arguments |= {mask: self.mask(length, dtype), f"negative_{mask}": self.mask(length, dtype)}
        return {**arguments, "guidance_scale": self.scale(scale)}

    def pick(self, default: int, large: int) -> int:
        """The number for the asked size."""
        return large if self.large else default

    def side(self, default: int, large: int) -> dict[str, int]:
        """A square resolution, as `height` and `width`."""
        side = self.pick(default, large)
        return {"height": side, "width": side}

    def scale(self, on: float, off: float = 1.0) -> float:
        """The guidance scale: `on` with guidance, else `off`."""
        return on if self.guidance else off


Parts = Callable[[], dict[str, Any]]
Inputs = Callable[[Ask], dict[str, Any]]


def drawn(text: str, *shape: int) -> Tensor:
    """Normal numbers that depend on the text and the shape only: the stand-in for a text encoder's output."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{text}{shape}".encode())))


def picture(side: int, text: str = "picture") -> Image.Image:
    """A square RGB image of smooth random colours."""
    grid = drawn(text, 4, 4, 3).mul(40).add(128).clamp(0, 255).to(torch.uint8).numpy()
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BILINEAR)


def half_mask(side: int) -> Image.Image:
    """An inpainting mask whose left half is to be painted."""
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[:, : side // 2] = 255
    return Image.fromarray(mask)


def pictures(ask: Ask, default: int, large: int) -> list[Image.Image]:
    """One image per sample (all equal): a list, so that the VAE draws each sample's noise from that sample's generator."""
    return [picture(ask.pick(default, large))] * ask.batch


def film(frames: int, side: int, text: str = "film") -> list[Image.Image]:
    """A list of images, as the video pipelines take them."""
    return [picture(side, f"{text} {frame}") for frame in range(frames)]


def redraw(module: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter again, so that none is zero, uninitialised memory, or dependent on the class's own initialisation.

    A freshly built diffusion transformer has gates and output layers of zeros: its output would not depend on its blocks. Matrices and
    kernels get normal numbers of variance 1 / fan-in, the scales of norms numbers near one, and everything else small ones.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            values = noise / max(parameter[0].numel(), 1) ** 0.5
        elif name.endswith("weight"):
            values = 1 + 0.1 * noise
        else:
            values = 0.1 * noise
        parameter.data = values.to(parameter.dtype)
    return module


def model(name: str, *, seed: int = 0, **config: Any) -> Any:
    """The diffusers model class of this name, built from a config with redrawn weights, ready to be run."""
    return redraw(getattr(diffusers, name)(**config), seed).eval().requires_grad_(False)


def scheduler(name: str, **config: Any) -> Any:
    """The diffusers scheduler class of this name."""
    return getattr(diffusers, name)(**config)


def flow(**config: Any) -> Any:
    """The flow-matching Euler scheduler, which most families use."""
    return scheduler("FlowMatchEulerDiscreteScheduler", **config)


def shifted_flow() -> Any:
    """The flow scheduler with the resolution-dependent shift of the Flux line."""
    return flow(use_dynamic_shifting=True, shift=3.0)


def without_noise(vae: nn.Module) -> nn.Module:
    """Shut the posterior's variance off, so that what is drawn for an image does not depend on the batch it is encoded in."""
    convolution: Any = vae.quant_conv
    half = len(convolution.bias) // 2
    convolution.weight.data[half:] = 0
    convolution.bias.data[half:] = -30
    return vae


def image_vae(latents: int = 4, *, blocks: int = 2, **config: Any) -> nn.Module:
    """A tiny real `AutoencoderKL` that halves the resolution `blocks - 1` times."""
    vae = model(
        "AutoencoderKL",
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=latents,
        norm_num_groups=1,
        **{"shift_factor": 0.0, "scaling_factor": 1.0, **config},
    )
    return without_noise(vae)


def wan_vae(latents: int = 4, **config: Any) -> nn.Module:
    """A tiny real `AutoencoderKLWan`: 8 times smaller in space, 4 times in time."""
    vae = model(
        "AutoencoderKLWan",
        base_dim=4,
        z_dim=latents,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * latents,
        latents_std=[1.0] * latents,
        **config,
    )
    return without_noise(vae)


OWN_WARNINGS = (
    "__array__ implementation doesn't accept a copy keyword",
    "__array_wrap__ must accept context",
    "In CPU autocast, but the target dtype is not supported",
    "`FluxPosEmbed` is deprecated",
    "`LoraLoaderMixin` is deprecated",
    "`torch.nn.utils.weight_norm` is deprecated",
)
"""How the warnings begin that diffusers raises by itself, whatever it is given: numpy on torch tensors in schedulers, and old names."""
NO_TEXT = "No text encoder: embeddings are handed in."


NO_BATCH = "No batch:"
"""Begins the sentence of `notes` that says why a pipeline takes one sample only."""
ALWAYS_GUIDED = "Always guided:"
"""Begins the sentence of `notes` that says why `guidance=False` changes nothing."""
SHARED_NOISE = "Shared noise:"
"""Begins the sentence of `notes` that says why a sample of a batch is not the sample of a single call."""


def nothing(*names: str) -> dict[str, None]:
    """Components that the call does without: the embeddings are handed in, or the latents handed out."""
    return dict.fromkeys(names)


def tensor_of(output: Any) -> Tensor:
    """The output as one float tensor: a tensor, an array, or a list of them (per sample)."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, np.ndarray):
        return torch.from_numpy(output).float()
    return torch.stack([tensor_of(item) for item in output])


@contextmanager
def accepted() -> Iterator[None]:
    """Let diffusers' own warnings pass in silence; every other warning stays as it is."""
    with warnings.catch_warnings():
        for message in OWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def tiny(
    name: str,
    parts: Parts,
    inputs: Inputs,
    *,
    guidance: str,
    latent: str = "latent",
    module: str = "diffusers",
    pick: Callable[[Any], Any] = lambda outputs: outputs[0],
    notes: str = "",
) -> Tiny:
    """A `Tiny` from the pipeline's components and from its arguments.

    `latent` is the `output_type`; `module` is where the class is when diffusers does not export it;
    `pick` finds the result in what the pipeline returns.
    """

    def build() -> Any:
        with torch.random.fork_rng(devices=[]), accepted():
            torch.manual_seed(0)
            pipe = getattr(importlib.import_module(module), name.split(":")[0])(**parts())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(pipe: Any, *, steps: int = 4, batch: int = 1, size: str | None = None, guidance: bool = True, seed: int = 0, **extra: Any) -> Tensor:
        ask = Ask(pipe, batch, size == "large", guidance, seed)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(batch)]
        arguments = {
            "num_inference_steps": steps,
            "generator": generators if batch > 1 else generators[0],
            "return_dict": False,
            "output_type": latent,
            **inputs(ask),
            **extra,
        }
        with torch.random.fork_rng(devices=[]), torch.no_grad(), accepted():
            torch.manual_seed(seed)
            return tensor_of(pick(pipe(**arguments)))

    return Tiny(name, build, call, guidance, 2 if guidance == "batched" else 1, notes)
