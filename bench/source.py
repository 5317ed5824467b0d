"""Where samples come from: a workload that is bundled or installed, or the user's own pipeline with prompts.

    Source(workload="flux")
    Source(pipeline="./FLUX.1-dev", prompts="prompts.txt", call="height=512,width=512", dtype="bfloat16")
    Source(pipeline="my_pipes.py:build", prompts=["a fox", "a heron"])

Every command takes the same options, and settings files the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import optional

from foreseer.bench.fields import check_device, check_dtype, refuse_device
from foreseer.bench.pipelines import PipelineWorkload, load_pipeline
from foreseer.bench.prompts import Prompts, prompts_from
from foreseer.bench.workload import Workload, load_workload
from foreseer.errors import OptionError
from foreseer.spelling import read_spec

__all__ = ["Drawing", "Source", "loaded", "named", "source_from"]


def _call(value: str | Mapping[str, Any]) -> dict[str, Any]:
    return read_spec(f"call:{value}")[1] if isinstance(value, str) else dict(value)


@attrs.frozen(kw_only=True)
class Source:
    """Which model is driven, and what it is asked for.

    Attributes:
        workload: A bundled model, dit, fashion, flux or wan, or one that a package brings; dit where no pipeline
            is named.
        pipeline: A diffusers pipeline of yours instead: its folder, its name on the hub, or the function that
            builds it, as file.py:function or module:function. The function returns a pipeline; or a pair, of
            it and of ``call(pipe, condition, generator)``, which draws; or a
            `foreseer.bench.workload.Workload`.
        prompts: What the pipeline is asked for: a text file with a prompt in each line, or JSON lines
            (.jsonl) with the arguments of each call; see `foreseer.bench.prompts`.
        call: Arguments of every call of the pipeline, such as height=512,width=512,num_inference_steps=28.
        device: Where to compute: cpu, cuda, cuda:1. None for the CPU, or where a function of yours puts it.
        dtype: float32, bfloat16 or float16. None for float32, or what a function of yours chooses.

    Raises:
        OptionError: A value is out of range, or options do not go together.
    """

    workload: str | None = None
    pipeline: str | None = None
    prompts: Path | Prompts | None = attrs.field(default=None, repr=False, converter=prompts_from)
    call: Mapping[str, Any] = attrs.field(factory=dict, converter=_call)
    device: str | None = attrs.field(default=None, validator=optional(check_device))
    dtype: str | None = attrs.field(default=None, validator=optional(check_dtype))

    def __attrs_post_init__(self) -> None:
        if self.workload is not None and self.pipeline is not None:
            raise OptionError(f"workload={self.workload!r} and pipeline={self.pipeline!r} each name a model; write one of them")
        asked = {"prompts": self.prompts, "call": self.call}
        if self.pipeline is None and (lone := [name for name, value in asked.items() if value]):
            raise OptionError(f"{lone[0]}= is for a pipeline of yours; write --pipeline FOLDER or --pipeline file.py:function with it")

    @property
    def name(self) -> str:
        """What results call it."""
        return self.pipeline or self.workload or "dit"

    def load(self) -> Workload:
        """Load it. Raises `OptionError`, `PluginError` and others, see the loaders."""
        if self.device is not None:
            refuse_device(self.device)
        if self.pipeline is None:
            return load_workload(self.name, device=self.device or "cpu", dtype=self.dtype or "float32")
        prompts = self.prompts if isinstance(self.prompts, Prompts) else None
        return load_pipeline(self.pipeline, prompts=prompts, call=self.call, device=self.device, dtype=self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return what results depend on, as plain data; prompts by their hash."""
        # what is a workload was called a family when the first results were written
        plain = {"family": self.name, "device": self.device or "cpu", "dtype": self.dtype or "float32"}
        if isinstance(self.prompts, Prompts):
            plain["prompts"] = f"{len(self.prompts)}, {self.prompts.digest()}"
        return plain | ({"call": dict(self.call)} if self.call else {})


Drawing = Source | Workload
"""What settings name: where samples come from, or what is loaded already."""


def source_from(value: str | Mapping[str, Any] | Drawing) -> Drawing:
    """Read what settings name; a text is the name of a workload."""
    if isinstance(value, str):
        return Source(workload=value)
    return Source(**value) if isinstance(value, Mapping) else value


def loaded(drawing: Drawing) -> Workload:
    """Return the workload, loaded anew unless it is loaded already."""
    return drawing.load() if isinstance(drawing, Source) else drawing


def named(drawing: Drawing) -> dict[str, Any]:
    """Return what results depend on, as plain data."""
    return drawing.to_dict() if isinstance(drawing, (Source, PipelineWorkload)) else {"family": drawing.name}
