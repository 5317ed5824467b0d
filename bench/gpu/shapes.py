"""The models: published shapes, and smaller ones of the same kind, with random weights and random inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters.published import PUBLISHED, Published
from foreseer.errors import OptionError

__all__ = ["SCALES", "calls_of", "random_model", "shapes_of", "timesteps"]

_SMALL_FLUX = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "axes_dims_rope": (2, 2, 4)}
_SMALL_HUNYUAN = {
    "num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "rope_axes_dim": (2, 2, 4),
}  # fmt: skip
_SMALL_HEADS = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 4}


def _like(name: str, config: Mapping[str, Any], size: tuple[int, int, int]) -> Published:
    whole = PUBLISHED[name]
    return attrs.evolve(whole, checkpoint="", config={**whole.config, **config}, size=size)


_PUBLISHED = {
    "flux-dev": PUBLISHED["flux-dev"],
    "dit-xl-2-256": PUBLISHED["dit-xl-2-256"],
    "hunyuan-video": attrs.evolve(PUBLISHED["hunyuan-video"], size=(480, 640, 65)),  # as TaylorSeer, SpeCa and CG-Taylor ran it
    "wan-1.3b": PUBLISHED["wan-1.3b"],
}
_TINY = {
    "flux-dev": _like("flux-dev", _SMALL_FLUX, (64, 64, 1)),
    "dit-xl-2-256": _like("dit-xl-2-256", {**_SMALL_HEADS, "sample_size": 8}, (64, 64, 1)),
    "hunyuan-video": _like("hunyuan-video", _SMALL_HUNYUAN, (64, 64, 5)),
    "wan-1.3b": _like("wan-1.3b", {**_SMALL_HEADS, "ffn_dim": 32}, (64, 64, 5)),
}

SCALES: dict[str, dict[str, Published]] = {"published": _PUBLISHED, "tiny": _TINY}
"""``published``: the released models at the papers' resolutions. ``tiny``: small ones of their kinds, for
tests.
"""


def shapes_of(names: tuple[str, ...], scale: str) -> list[Published]:
    """Look models up at a scale, all of them for an empty list. Raises `OptionError` for what is not there."""
    if scale not in SCALES:
        raise OptionError(f"scale={scale!r} is unknown; write one of {', '.join(SCALES)}")
    there = SCALES[scale]
    for name in names:
        if name not in there:
            raise OptionError(f"models={name!r} is not there at scale={scale!r}; write one of {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(names or there)]


def random_model(shape: Published, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build a model with random weights. As ``from_pretrained`` does, keep in float32 what the class asks to
    be kept so.

    Raises:
        ImportError: Without diffusers.
    """
    import diffusers

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        with device:
            model: nn.Module = getattr(diffusers, shape.cls)(**shape.config)
    finally:
        torch.set_default_dtype(before)
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    for name, parameter in model.named_parameters():
        if not set(kept).isdisjoint(name.split(".")):
            parameter.data = parameter.data.float()
    return model.eval().requires_grad_(False)


def calls_of(shape: Published, *, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], ...]:
    """Return the fixed arguments of each call of a step, for one sample: two where the pipeline guides in two
    calls, which differ in their text.

    Timesteps are not in them. What is no position, mask or label is drawn from a normal distribution.
    """
    generator = torch.Generator().manual_seed(0)
    height, width, _ = shape.size

    def value(name: str, like: Tensor) -> Tensor:
        if name == "img_ids":
            rows, columns = torch.meshgrid(torch.arange(height // 16), torch.arange(width // 16), indexing="ij")
            made = torch.stack((torch.zeros(rows.numel()), rows.flatten(), columns.flatten()), dim=1)
        elif name in ("txt_ids", "encoder_attention_mask"):
            made = torch.full(like.shape, float(name == "encoder_attention_mask"))
        elif name == "guidance":
            made = torch.full(like.shape, 3.5)
        elif not like.is_floating_point():
            return torch.randint(1000, like.shape, generator=generator).to(device, like.dtype)
        else:
            made = torch.randn(like.shape, generator=generator)
        return made.to(device, dtype)

    first = {name: value(name, like) for name, like in shape.inputs(shape, shape.rows_per_sample, *shape.size).items() if name != "timestep"}
    others = [{**first, "encoder_hidden_states": torch.randn_like(first["encoder_hidden_states"])} for _ in range(1, shape.calls_per_step)]
    return (first, *others)


def timesteps(shape: Published, count: int, *, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return what each step's calls are given as ``timestep``, ``(R,)`` each: falling, from 1 for FLUX and
    from 999 for the others.
    """
    like = shape.inputs(shape, shape.rows_per_sample, *shape.size)["timestep"]
    highest = 1.0 if shape.cls.startswith("Flux") else 999.0
    values = torch.linspace(highest, highest / count, count)
    return [torch.full(like.shape, v, device=device).to(dtype if like.is_floating_point() else like.dtype) for v in values.tolist()]
