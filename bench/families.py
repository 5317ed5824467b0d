"""The zoo's workloads: `dit` and `fashion` (guidance by concatenation), `flux` (distilled guidance), `wan`
(video, two calls).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreseer.adapters import attach
from foreseer.adapters.attachment import Attachment
from foreseer.adapters.noise import schedule_of
from foreseer.bench.workload import Workload, generator_of, labels_of, noise_of
from foreseer.declared import Schedule
from foreseer.registry import PolicySpec
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps
from foreseer.zoo.stepping import sample_with

__all__ = ["DiTFamily", "PipelineFamily", "load_dit", "load_fashion", "load_fashion_unlike", "load_flux", "load_wan"]

Prediction = Literal["epsilon", "v_prediction"]


@attrs.define(eq=False, kw_only=True)
class DiTFamily:
    """A class-conditional DiT under DDIM, in a loop of our own. Latents are images.

    Attributes:
        prediction: What the model predicts.
        classes: What each class is, for readers.
        labels: Classes of the samples, in turn.
        of_digits: Whether the digit classifier knows the samples.
        scheduler: Stands for the DDIM of our own; another one in its place takes the steps.
        (others): As of `Workload`.
    """

    model: nn.Module
    name: str = "dit"
    num_steps: int = 50
    guidance: float = 1.5
    pipeline: Any = None
    prediction: Prediction = "epsilon"
    classes: Sequence[str] = attrs.field(factory=lambda: [str(digit) for digit in range(10)], repr=False)
    labels: Sequence[int] = range(10)
    of_digits: bool = True
    scheduler: Any = attrs.field(repr=False)
    _own: Any = attrs.field(init=False, repr=False)

    @scheduler.default
    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type=self.prediction, timestep_spacing="linspace")

    def __attrs_post_init__(self) -> None:
        self._own = self.scheduler

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        """See `Workload`."""
        weight = next(self.model.parameters())
        noise = noise_of(indices, seed=seed, shape=self._shape).to(weight.device, weight.dtype)
        labels, weigh = torch.tensor(self._labels(indices)).to(weight.device), self.guidance if guidance is None else guidance
        # diffusers' own caches want to be told which call of a step this is; guidance by concatenation makes
        # one
        named: Any = self.model.cache_context("cond_uncond") if getattr(self.model, "is_cache_enabled", False) else nullcontext()  # type: ignore[operator]
        with named:
            if self.scheduler is not self._own:
                return sample_with(self.scheduler, self.model, noise, labels, num_steps=num_steps, guidance=weigh)
            return ddim_sample(self.model, noise, labels, ddim_timesteps(num_steps), guidance=weigh, prediction=self.prediction)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Workload`."""
        return latents.float().cpu()

    def digits(self, frames: Tensor) -> Tensor | None:
        """See `Workload`."""
        return frames if self.of_digits else None

    def words(self, indices: Sequence[int]) -> list[str]:
        """See `Workload`."""
        return [self.classes[label] for label in self._labels(indices)]

    def _labels(self, indices: Sequence[int]) -> list[int]:
        return [self.labels[index % len(self.labels)] for index in indices]

    @property
    def _shape(self) -> tuple[int, int, int]:
        config: Any = self.model.config
        return config.in_channels, config.sample_size, config.sample_size

    def _schedule(self, num_steps: int) -> Schedule:
        if self.scheduler is self._own:
            return schedule_of(self.scheduler, timesteps=ddim_timesteps(num_steps))
        self.scheduler.set_timesteps(num_steps)
        return schedule_of(self.scheduler)

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        """See `Workload`."""
        # rows r and r + B, with and without the class, are one sample
        told = self._schedule(num_steps)
        with attach(self.model, spec, observers=observers) as attached:
            with attached.run(timesteps=told.timesteps, sigmas=told.sigmas, log_snr=told.log_snr, groups=samples):
                yield attached


@attrs.frozen(eq=False, kw_only=True)
class PipelineFamily:
    """A diffusers pipeline, called as its users call it, up to the final latents.

    Attributes:
        arguments: ``(indices, guidance) -> keyword arguments`` of the pipeline's call: the conditions.
        decoder: ``(pipeline, latents) -> images``; shapes as `Workload.decode`.
        shrink: ``(N, C, H, W) -> (N, 1, 8, 8)``, see `Workload.digits`; None takes the mean over the channels
            and over equal parts of the picture.
        (others): as of `Workload`.
    """

    name: str
    pipeline: Any
    arguments: Callable[[Sequence[int], float], Mapping[str, Any]]
    decoder: Callable[[Any, Tensor], Tensor]
    shrink: Callable[[Tensor], Tensor] | None = None
    num_steps: int = 50
    guidance: float = 3.5

    @property
    def model(self) -> nn.Module:
        """The pipeline's transformer."""
        found: nn.Module = self.pipeline.transformer
        return found

    @torch.no_grad()
    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        """See `Workload`."""
        generators = [generator_of(index, seed=seed) for index in indices]
        conditions = self.arguments(indices, self.guidance if guidance is None else guidance)
        latents: Tensor = self.pipeline(**conditions, num_inference_steps=num_steps, generator=generators, output_type="latent", return_dict=False)[0]
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Workload`."""
        return self.decoder(self.pipeline, latents).float().cpu()

    def digits(self, frames: Tensor) -> Tensor:
        """See `Workload`."""
        return F.adaptive_avg_pool2d(frames.mean(1, keepdim=True), 8) if self.shrink is None else self.shrink(frames)

    def words(self, indices: Sequence[int]) -> list[str]:
        """See `Workload`."""
        prompts: Any = self.arguments(indices, self.guidance).get("prompt")
        return list(map(str, indices)) if prompts is None else list(map(str, prompts))

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        """See `Workload`."""
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


def numerals(indices: Sequence[int]) -> list[str]:
    """Return the digit that each sample is to be, as a text."""
    return [str(label) for label in labels_of(indices).tolist()]


def load_dit(device: str, dtype: torch.dtype) -> Workload:
    """Load the bundled DiT."""
    from foreseer.zoo import load_dit

    return DiTFamily(model=load_dit(device=device, dtype=dtype))


def load_fashion(device: str, dtype: torch.dtype) -> Workload:
    """Load the bundled DiT of clothing."""
    return _clothes("fashion", range(10), device, dtype)


def load_fashion_unlike(device: str, dtype: torch.dtype) -> Workload:
    """Load the bundled DiT of clothing, for samples that are unlike: every other one is a pair of trousers, all
    alike, and the rest are pullovers, dresses, shirts and bags, which are patterned.
    """
    return _clothes("fashion_unlike", (1, 2, 1, 3, 1, 6, 1, 8), device, dtype)


def _clothes(name: str, labels: Sequence[int], device: str, dtype: torch.dtype) -> Workload:
    from foreseer.zoo import load_fashion
    from foreseer.zoo.fashion import CLASSES

    model = load_fashion(device=device, dtype=dtype)
    return DiTFamily(model=model, name=name, prediction="v_prediction", classes=CLASSES, labels=labels, of_digits=False)


def load_flux(device: str, dtype: torch.dtype) -> Workload:
    """Load the bundled FLUX-shaped pipeline."""
    from foreseer.zoo import load_flux

    def arguments(indices: Sequence[int], guidance: float) -> dict[str, Any]:
        return {"prompt": numerals(indices), "guidance_scale": guidance}

    return PipelineFamily(name="flux", pipeline=_quiet(load_flux(device=device, dtype=dtype)), arguments=arguments, decoder=decode_flux, num_steps=50)


def load_wan(device: str, dtype: torch.dtype) -> Workload:
    """Load the bundled Wan-shaped pipeline."""
    from foreseer.zoo import load_wan
    from foreseer.zoo.digits import load_digits
    from foreseer.zoo.moving import FRAMES, SIDE, find

    template = load_digits()[0].mean(0)

    def arguments(indices: Sequence[int], guidance: float) -> dict[str, Any]:
        shape = {"height": SIDE, "width": SIDE, "num_frames": FRAMES}
        return {"prompt": numerals(indices), "negative_prompt": "", "guidance_scale": guidance, **shape}

    return PipelineFamily(
        name="wan",
        pipeline=_quiet(load_wan(device=device, dtype=dtype)),
        arguments=arguments,
        decoder=decode_wan,
        shrink=lambda frames: find(frames, template)[0],
        num_steps=50,
        guidance=3.0,
    )


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
