"""What a benchmark draws with: a model or pipeline, the conditions of each sample, and how its latents become images.

A sample's condition and noise depend on its index and the seed only, whatever the batch, the lane or the machine. Three families come with the zoo:
`dit` (guidance by concatenation), `flux` (distilled guidance) and `wan` (video, guidance in two calls).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreseer.adapters import attach
from foreseer.adapters.attachment import Attachment
from foreseer.adapters.blocks import find_blocks
from foreseer.bench.fields import DTYPES
from foreseer.bench.lanes import CLASSES, SAMPLE, generator_of, labels_of, noise_of
from foreseer.errors import OptionError
from foreseer.registry import PolicySpec
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps

__all__ = ["FAMILIES", "DiTFamily", "Family", "PipelineFamily", "blocks_of", "load_family"]


class Family(Protocol):
    """A model to benchmark, with everything that lanes have in common."""

    @property
    def name(self) -> str:
        """What settings call it."""

    @property
    def num_steps(self) -> int:
        """Denoising steps where the settings do not say."""

    @property
    def guidance(self) -> float:
        """Weight of the guidance where the settings do not say."""

    @property
    def video(self) -> bool:
        """Whether a sample is a sequence of frames."""

    @property
    def model(self) -> nn.Module:
        """The denoiser."""

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline around it; None where the loop is our own."""

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        """Sample, with whatever is attached to the model.

        Returns:
            ``(B, ...)`` final latents, on the model's device.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` images or ``(B, F, C, H, W)`` videos in about [-1, 1], float32, on the CPU."""

    def digits(self, frames: Tensor) -> Tensor:
        """Return what the digit classifier is to see of ``(N, C, H, W)`` images or frames: ``(N, 1, 8, 8)``."""

    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> AbstractContextManager[Attachment]:
        """Attach a policy, and observers of its runs, for one `draw`."""


@attrs.frozen(eq=False, kw_only=True)
class DiTFamily:
    """A class-conditional DiT under DDIM, in a loop of our own; sample i is of class i modulo 10. Latents are images.

    Attributes: as of `Family`.
    """

    model: nn.Module
    name: str = "dit"
    num_steps: int = 50
    guidance: float = 1.5
    video: bool = False
    pipeline: Any = None

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        """See `Family`."""
        weight = next(self.model.parameters())
        noise = noise_of(indices, seed=seed, shape=SAMPLE).to(weight.device, weight.dtype)
        # diffusers' own caches want to be told which call of a step this is; guidance by concatenation makes one
        named: Any = self.model.cache_context("cond_uncond") if getattr(self.model, "is_cache_enabled", False) else nullcontext()  # type: ignore[operator]
        with named:
            return ddim_sample(self.model, noise, labels_of(indices).to(weight.device), ddim_timesteps(num_steps), guidance=guidance)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return latents.float().cpu()

    def digits(self, frames: Tensor) -> Tensor:
        """See `Family`."""
        return frames

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        """See `Family`."""
        # rows r and r + B, with and without the class, are one sample
        with attach(self.model, spec, observers=observers) as attached, attached.run(timesteps=ddim_timesteps(num_steps), groups=samples):
            yield attached


@attrs.frozen(eq=False, kw_only=True)
class PipelineFamily:
    """A diffusers pipeline, called as its users call it, up to the final latents.

    Attributes:
        arguments: ``(indices, guidance) -> keyword arguments`` of the pipeline's call: the conditions.
        decoder: ``(pipeline, latents) -> images``; shapes as `Family.decode`.
        shrink: ``(N, C, H, W) -> (N, 1, 8, 8)``, see `Family.digits`; None takes the mean over the channels and over equal parts of the picture.
        (others): as of `Family`.
    """

    name: str
    pipeline: Any
    arguments: Callable[[Sequence[int], float], Mapping[str, Any]]
    decoder: Callable[[Any, Tensor], Tensor]
    shrink: Callable[[Tensor], Tensor] | None = None
    num_steps: int = 50
    guidance: float = 3.5
    video: bool = False

    @property
    def model(self) -> nn.Module:
        """The pipeline's transformer."""
        found: nn.Module = self.pipeline.transformer
        return found

    @torch.no_grad()
    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        """See `Family`."""
        generators = [generator_of(index, seed=seed) for index in indices]
        conditions = self.arguments(indices, guidance)
        latents: Tensor = self.pipeline(**conditions, num_inference_steps=num_steps, generator=generators, output_type="latent", return_dict=False)[0]
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return self.decoder(self.pipeline, latents).float().cpu()

    def digits(self, frames: Tensor) -> Tensor:
        """See `Family`."""
        return F.adaptive_avg_pool2d(frames.mean(1, keepdim=True), 8) if self.shrink is None else self.shrink(frames)

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        """See `Family`."""
        with attach(self.pipeline, spec, observers=observers) as attached:
            yield attached


def decode_flux(pipeline: Any, latents: Tensor) -> Tensor:
    """Unpack and decode FLUX's latents, as the end of its pipeline does, at the pipeline's default size."""
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    unpacked = pipeline._unpack_latents(latents, side, side, pipeline.vae_scale_factor)
    config = pipeline.vae.config
    images: Tensor = pipeline.vae.decode(unpacked / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    return images


def decode_wan(pipeline: Any, latents: Tensor) -> Tensor:
    """Decode Wan's latents, as the end of its pipeline does, into ``(B, F, C, H, W)``."""
    config = pipeline.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1).to(latents) for values in (config.latents_mean, config.latents_std))
    videos: Tensor = pipeline.vae.decode((latents * std + mean).to(pipeline.vae.dtype), return_dict=False)[0]
    return videos.transpose(1, 2)


def _numerals(indices: Sequence[int]) -> list[str]:
    return [str(index % CLASSES) for index in indices]


def load_dit(device: str, dtype: torch.dtype) -> Family:
    """Load the bundled DiT."""
    from foreseer.zoo import load_dit

    return DiTFamily(model=load_dit(device=device, dtype=dtype))


def load_flux(device: str, dtype: torch.dtype) -> Family:
    """Load the bundled FLUX-shaped pipeline."""
    from foreseer.zoo import load_flux

    def arguments(indices: Sequence[int], guidance: float) -> dict[str, Any]:
        return {"prompt": _numerals(indices), "guidance_scale": guidance}

    return PipelineFamily(name="flux", pipeline=_quiet(load_flux(device=device, dtype=dtype)), arguments=arguments, decoder=decode_flux, num_steps=50)


def load_wan(device: str, dtype: torch.dtype) -> Family:
    """Load the bundled Wan-shaped pipeline."""
    from foreseer.zoo import load_wan
    from foreseer.zoo.digits import load_digits
    from foreseer.zoo.moving import FRAMES, SIDE, find

    template = load_digits()[0].mean(0)

    def arguments(indices: Sequence[int], guidance: float) -> dict[str, Any]:
        shape = {"height": SIDE, "width": SIDE, "num_frames": FRAMES}
        return {"prompt": _numerals(indices), "negative_prompt": "", "guidance_scale": guidance, **shape}

    return PipelineFamily(
        name="wan",
        pipeline=_quiet(load_wan(device=device, dtype=dtype)),
        arguments=arguments,
        decoder=decode_wan,
        shrink=lambda frames: find(frames, template)[0],
        num_steps=50,
        guidance=3.0,
        video=True,
    )


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


FAMILIES: dict[str, Callable[[str, torch.dtype], Family]] = {"dit": load_dit, "flux": load_flux, "wan": load_wan}
"""By name: a function of device and dtype that loads the family. Tests, and whoever has another model to measure, may add to it."""


def load_family(name: str, *, device: str, dtype: str) -> Family:
    """Load a family by its name. Raises `OptionError` for one that this installation does not have."""
    if name not in FAMILIES:
        raise OptionError(f"family={name!r} is unknown; write one of {', '.join(FAMILIES)}")
    try:
        return FAMILIES[name](device, DTYPES[dtype])
    except ImportError as error:
        raise OptionError(f"family={name!r} cannot be loaded here: {error}; write another of {', '.join(FAMILIES)}") from error


def blocks_of(family: Family) -> list[nn.Module]:
    """Return the denoiser's blocks, in the order in which they are declared."""
    return [block for _, block in find_blocks(family.model)]
