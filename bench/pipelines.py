"""A diffusers pipeline as a workload: found in a folder, on the hub, or built by a function of the user's.

It is called as its users call it. What it draws are its pictures, so that every pipeline will do, whatever
its latents; with ``output_type="latent"`` in the arguments they are its latents.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters import attach
from foreseer.adapters.attachment import Attachment
from foreseer.adapters.denoisers import find_denoisers
from foreseer.bench.fields import DTYPES, nearest
from foreseer.bench.pictures import in_range, pictures_of
from foreseer.bench.prompts import Prompts
from foreseer.bench.workload import Workload, identities_of
from foreseer.errors import ForeseerError, OptionError, in_one_line
from foreseer.registry import PolicySpec

__all__ = ["PipelineWorkload", "is_workload", "load_pipeline", "workload_of"]

Call = Callable[[Any, Mapping[str, Any], torch.Generator | list[torch.Generator]], Any]
"""``call(pipeline, condition, generator)``: the condition holds the arguments of the call, and
``num_inference_steps``; the generator is one, or a list where several samples are drawn together.
"""


@attrs.frozen(eq=False, kw_only=True)
class PipelineWorkload:
    """A pipeline with prompts.

    Attributes:
        name: What results call it.
        pipeline: A diffusers pipeline.
        prompts: What it is asked for.
        arguments: Of every call; a prompt's own come before them.
        num_steps: Denoising steps where the settings do not say.
        guidance: The call's ``guidance_scale`` where it is given; None for the pipeline's own.
        own_call: Draws, instead of calling the pipeline; None calls it.
    """

    name: str
    pipeline: Any
    prompts: Prompts
    arguments: Mapping[str, Any]
    num_steps: int
    guidance: float | None = None
    own_call: Call | None = None

    @property
    def model(self) -> nn.Module:
        """The denoiser, the first of several."""
        return next(iter(find_denoisers(self.pipeline)[0].values()))

    @torch.no_grad()
    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        """See `Workload`. Returns pictures, ``(B, C, H, W)`` or ``(B, F, C, H, W)`` in [-1, 1], or latents."""
        weight = {} if guidance is None else {"guidance_scale": guidance}
        condition = {**self.arguments, **weight, **self.prompts.arguments(indices), "num_inference_steps": num_steps}
        generators = self.prompts.generators(indices, seed=seed)
        if self.own_call is not None:
            own, one = self.own_call, generators[0] if len(generators) == 1 else generators
            return in_range(pictures_of(self._called(indices, lambda: own(self.pipeline, condition, one))))
        kind = condition.pop("output_type", "pt")
        drawn = self._called(indices, lambda: self.pipeline(**condition, generator=generators, output_type=kind, return_dict=False)[0])
        return pictures_of(drawn, unit_range=kind == "pt")

    def _called(self, indices: Sequence[int], draw: Callable[[], Any]) -> Any:
        """Draw. What the pipeline makes of wrong arguments is one sentence."""
        try:
            return draw()
        except ForeseerError:
            raise
        except Exception as error:
            asked = ", ".join(f"{index} ({textwrap.shorten(word, 40)})" for index, word in zip(indices, self.words(indices), strict=True))
            raise OptionError(f"{self.name} cannot draw sample {asked}: {in_one_line(error)}; see the arguments of its call and prompts") from error

    def to_dict(self) -> dict[str, Any]:
        """Return what results depend on, as plain data."""
        call = {name: value if isinstance(value, (int, float, str, bool)) else _hash(value) for name, value in self.arguments.items()}
        prompts = f"{len(self.prompts)}, {self.prompts.digest()}"
        return {"family": self.name, **identities_of(self), "prompts": prompts} | ({"call": call} if call else {})

    def decode(self, latents: Tensor) -> Tensor:
        """See `Workload`. Of latents the first three channels are shown, or one, a third as strong; of tokens a
        picture of all.
        """
        images = latents.float().cpu()
        if self.arguments.get("output_type") != "latent":
            return images
        images = images[:, None] if images.ndim == 3 else images.transpose(1, 2) if images.ndim == 5 else images
        return images[..., : 3 if images.shape[-3] >= 3 else 1, :, :] / 3

    def words(self, indices: Sequence[int]) -> list[str]:
        """See `Workload`."""
        return self.prompts.words(indices)

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        """See `Workload`."""
        with attach(self.pipeline, spec, observers=observers) as attached:
            yield attached


OURS = ("seed", "generator", "return_dict", "num_images_per_prompt", "num_videos_per_prompt", "latents")
"""Arguments that no call may be given; a prompt may have a seed."""


def is_workload(value: object) -> bool:
    """Whether something draws as a `Workload` does."""
    return all(callable(getattr(value, method, None)) for method in ("draw", "decode", "attached"))


def load_pipeline(
    where: str,
    *,
    prompts: Prompts | None,
    call: Mapping[str, Any],
    device: str | None,
    dtype: str | None,
) -> Workload:
    """Load a pipeline of the user's, see `foreseer.bench.source.Source`.

    Raises:
        OptionError: There is none, it cannot be loaded, or cannot be called so; the message says why.
        UnsupportedModelError: It has no denoiser that a policy could drive.
    """
    place, colon, function = where.rpartition(":")
    chosen = {"device": device, "dtype": None if dtype is None else DTYPES[dtype]}
    by_function = bool(colon) and function.isidentifier()
    own_call, found = None, _built(where, place, function, chosen) if by_function else _pretrained(where, chosen)
    if isinstance(found, tuple) and len(found) == 2:
        found, own_call = found
    workload = workload_of(found, name=where, prompts=prompts, call=call, own_call=own_call)
    if not by_function:  # now that nothing is wrong with what it is asked for
        found.to(device or "cpu")
    return workload


def workload_of(found: Any, *, name: str, prompts: Prompts | None, call: Mapping[str, Any], own_call: Call | None = None) -> Workload:
    """Return a pipeline with prompts as a workload; a workload as it is.

    Raises:
        OptionError: It cannot be called so; the message says why.
        UnsupportedModelError: It has no denoiser that a policy could drive.
    """
    if is_workload(found):
        if prompts or call:
            raise OptionError(f"{name!r} is a workload, which has conditions of its own; leave {'prompts' if prompts else 'call'} out")
        workload: Workload = found
        return workload
    find_denoisers(found)
    takes = inspect.signature(type(found).__call__).parameters if own_call is None else {}
    conditions = prompts or Prompts(({},))
    for given, reserved in ((call, OURS), *((entry, (*OURS[1:], "num_inference_steps", "output_type")) for entry in conditions.entries)):
        if taken := next((argument for argument in given if argument in reserved), None):
            whose = "is each prompt's own: write it into the prompts" if taken == "seed" else "is ours to say"
            where = "; write it with --call" if taken in ("num_inference_steps", "output_type") else ""
            raise OptionError(f"{taken}={given[taken]!r} {whose}{where}")
    open_ended = own_call is not None or any(one.kind is one.VAR_KEYWORD for one in takes.values())
    for given in (call, *conditions.entries):
        for argument in given:
            if argument not in takes and argument != "seed" and not open_ended:
                shown = ", ".join(one for one in takes if one != "self")
                raise OptionError(f"{argument!r} is no argument of {type(found).__name__}; {nearest(argument, takes)}write one of {shown}")
    if prompts is None and "prompt" in takes and not {"prompt", "prompt_embeds"} & set(call):
        raise OptionError(f"{type(found).__name__} needs prompts; write --prompts FILE, with one in each line")
    if not open_ended and "num_inference_steps" not in takes:
        raise OptionError(
            f"{type(found).__name__} takes no num_inference_steps; write a function that returns the pipeline and call(pipe, condition, generator)"
        )
    steps = call.get("num_inference_steps", getattr(takes.get("num_inference_steps"), "default", None))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        steps = 50 if "num_inference_steps" not in call else _refuse_steps(steps)
    quiet = getattr(found, "set_progress_bar_config", None)
    if quiet is not None:
        quiet(disable=True)
    arguments = {name: value for name, value in call.items() if name not in ("num_inference_steps", "guidance_scale")}
    weight = call.get("guidance_scale")
    return PipelineWorkload(name=name, pipeline=found, prompts=conditions, arguments=arguments, num_steps=steps, guidance=weight, own_call=own_call)


def _refuse_steps(steps: object) -> int:
    raise OptionError(f"num_inference_steps={steps!r} is out of range; write a whole number >= 1")


def _pretrained(where: str, chosen: Mapping[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    folder = Path(where)
    if (folder.exists() or where.startswith((".", "/", "~"))) and not (folder / "model_index.json").is_file():
        what = "holds no model_index.json" if folder.is_dir() else "is no folder"
        raise OptionError(f"pipeline={where!r} {what}; write a folder of a diffusers pipeline, a name on the hub, or file.py:function")
    kind = {} if chosen["dtype"] is None else {"torch_dtype": chosen["dtype"]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch_dtype has a new name, which earlier diffusers do not know
            found = DiffusionPipeline.from_pretrained(where, **kind)
    except Exception as error:  # whatever the hub, safetensors, transformers and diffusers make of it
        raise OptionError(f"pipeline={where!r} cannot be loaded: {in_one_line(error)}; write a folder, a name on the hub, or file.py:function") from error
    return found


def _built(where: str, place: str, function: str, chosen: Mapping[str, Any]) -> Any:
    module = _module(where, place)
    build = getattr(module, function, None)
    if not callable(build):
        there = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
        raise OptionError(f"pipeline={where!r}: there is no function {function!r}; {nearest(function, there)}it has {', '.join(there) or 'none'}")
    takes = inspect.signature(build).parameters
    try:
        found = build(**{name: value for name, value in chosen.items() if name in takes})
    except Exception as error:
        raise OptionError(f"pipeline={where!r} failed: {in_one_line(error)}") from error
    rest = [value for name, value in chosen.items() if value is not None and name not in takes]
    one = found[0] if isinstance(found, tuple) and found else found
    if rest and not hasattr(one, "to"):
        raise OptionError(f"pipeline={where!r}: a {type(one).__name__} cannot be moved to {rest[0]}; let the function take device and dtype")
    if rest:
        one.to(*rest)
    if not (is_workload(one) or hasattr(one, "scheduler")):
        raise OptionError(f"pipeline={where!r} returned a {type(one).__name__}; return a diffusers pipeline, a pair (pipeline, call), or a workload")
    return found


def _module(where: str, place: str) -> Any:
    try:
        if not place.endswith(".py"):
            if os.getcwd() not in sys.path:  # as `python -m` does
                sys.path.insert(0, os.getcwd())
            return importlib.import_module(place)
        path = Path(place).resolve()
        if not path.is_file():
            raise OptionError(f"pipeline={where!r}: there is no file {place!r}; write file.py:function")
        if str(path.parent) not in sys.path:  # as `python file.py` does
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except OptionError:
        raise
    except Exception as error:
        raise OptionError(f"pipeline={where!r} cannot be imported: {in_one_line(error)}; write file.py:function or module:function") from error


def _hash(value: Any) -> str:
    content = value.detach().float().cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]
