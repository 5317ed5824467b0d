"""foreseer in SGLang-diffusion: a policy from the environment, in each worker, through SGLang's hook registry.

SGLang loads functions of the entry point group ``sglang.multimodal_gen.plugins`` in each of its processes,
after its platform is up. They register hooks, ``HookRegistry.register(target, hook, HookType.AROUND)``, which
are then called as ``hook(original, *args, **kwargs)`` (``python/sglang/srt/plugins/hook_registry.py``). The
targets are in `Native.targets` and `Pipelines.targets`. Most are private to SGLang, so each is looked at when
this is loaded.

Read, and not run: SGLang 0.5.23, and of its main branch hook_registry.py at 106f37cea63a, denoising.py at
00251aaaa093 and cfg_policy.py at 49aea385842f.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import foreseer
from foreseer.adapters.serving import Request, Requests, deciding_together
from foreseer.errors import ForeseerError

__all__ = ["Native", "Pipelines", "register"]

RUNTIME = "sglang.multimodal_gen.runtime"
STAGE = f"{RUNTIME}.pipelines_core.stages.denoising.DenoisingStage"
PIPELINE = f"{RUNTIME}.pipelines.diffusers_pipeline"
LOG = logging.getLogger("foreseer.sglang")

Original = Callable[..., Any]
Target = tuple[Callable[..., Any], tuple[str, ...]]
"""A hook, and the names that its target's parameters must have."""


def register() -> None:
    """Put foreseer's hooks into SGLang's registry. SGLang calls this in each of its processes.

    ``FORESEER_POLICY`` is the policy as everywhere (``taylorseer:interval=3``); without it nothing happens.
    ``FORESEER_REPORTS`` is a folder for the reports, one file for each stream of each request.

    Raises:
        PluginError, OptionError: The policy is not there, or an option is wrong.
    """
    policy = os.environ.get("FORESEER_POLICY", "").strip()
    if not policy:
        LOG.info("foreseer is installed and off; write FORESEER_POLICY=taylorseer:interval=3, or another policy, to switch it on")
        return
    requests = Requests(policy, folder=os.environ.get("FORESEER_REPORTS") or None, log=LOG)
    try:
        plugins = importlib.import_module("sglang.multimodal_gen.plugins")
        put, around = plugins.HookRegistry.register, plugins.HookType.AROUND
    except (ImportError, AttributeError) as error:
        LOG.warning("foreseer: this SGLang has no hook registry that is known (%s); everything is computed", error)
        return
    for name, host in (("native", Native(requests)), ("diffusers", Pipelines(requests))):
        wrong = next(filter(None, (misfit(target, names) for target, (_, names) in host.targets.items())), "")
        if wrong:
            LOG.warning("foreseer: %s; with SGLang's %s backend everything is computed", wrong, name)
            continue
        optional = {target: each for target, each in getattr(host, "optional", {}).items() if not misfit(target, each[1])}
        for target, (hook, _) in {**host.targets, **optional}.items():
            put(target, hook, around)


def misfit(target: str, names: tuple[str, ...]) -> str:
    """Why a function cannot be hooked, in half a sentence; empty where it can.

    Args:
        target: Its dotted name.
        names: Parameters that it must have, the first ones first.
    """
    try:
        function = pkgutil.resolve_name(target)
    except Exception as error:
        # an engine's module that cannot be imported here says so in many ways
        return f"{target} is not there ({type(error).__name__}: {error})"
    given = tuple(inspect.signature(function).parameters)
    if [name for name in given if name in names] != list(names):
        return f"{target} takes ({', '.join(given)}), and not {', '.join(names)}"
    return ""


def given(function: Original, stage: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a method's call by their names."""
    return inspect.signature(function).bind(stage, *args, **kwargs).arguments


class Native:
    """SGLang's own loop, `DenoisingStage`: a request is a call of its ``forward``, a step is a call of its
    ``_predict_noise_with_cfg``, a stream is a branch of guidance.

    A generation begins at a request's first step and not before: by then the stage has loaded, cached and
    compiled its models as it wants them. SGLang's ``_reset_dit_cache_states``, where it is there, begins it
    anew.
    """

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.targets: Mapping[str, Target] = {
            f"{STAGE}.forward": (self.forward, ("self", "batch", "server_args")),
            f"{STAGE}._predict_noise_with_cfg": (self.predict_step, ("self", "current_model", "batch")),
            f"{STAGE}._predict_noise": (self.predict, ("self", "current_model")),
        }
        self.optional: Mapping[str, Target] = {f"{STAGE}._reset_dit_cache_states": (self.reset, ("self", "batch"))}
        self._now: _Loop | None = None
        self._told: set[str] = set()

    def forward(self, original: Original, stage: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DenoisingStage.forward``: what is begun inside ends with it, also by an exception."""
        named = given(original, stage, args, kwargs)
        outer, self._now = self._now, (loop := _Loop(stage, named["server_args"]))
        try:
            with loop.ending:
                result = original(stage, *args, **kwargs)
        finally:
            self._now = outer
        if loop.batch is None:
            self._tell(stage, named["batch"])
        return result

    def _tell(self, stage: Any, batch: Any) -> None:
        """Say once of a kind of stage that it is not followed."""
        name = type(stage).__name__
        if name not in self._told and not getattr(batch, "is_warmup", False):
            self._told.add(name)
            LOG.warning("foreseer: %s has a loop of its own, which is not followed; it is computed in full", name)

    def reset(self, original: Original, stage: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DenoisingStage._reset_dit_cache_states``: whatever comes, no history is older than this."""
        if self._now is not None:
            self._now.end()
        return original(stage, *args, **kwargs)

    def predict_step(self, original: Original, stage: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DenoisingStage._predict_noise_with_cfg``: one evaluation of a sampler."""
        loop, batch = self._now, given(original, stage, args, kwargs)["batch"]
        if loop is None or loop.stage is not stage:
            self._tell(stage, batch)
        elif not getattr(batch, "is_warmup", False):
            loop.batch = batch
            if loop.request is None:
                loop.request = loop.ending.enter_context(self._serve(loop))
            loop.request.step()
        return original(stage, *args, **kwargs)

    def predict(self, original: Original, stage: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DenoisingStage._predict_noise``: one call of a model, of the branch that the batch names."""
        loop = self._now
        if loop is None or loop.request is None or loop.stage is not stage:
            return original(stage, *args, **kwargs)
        with loop.request.call("uncond" if getattr(loop.batch, "is_cfg_negative", False) else "cond"):
            return original(stage, *args, **kwargs)

    def _serve(self, loop: _Loop) -> contextlib.AbstractContextManager[Request]:
        parts = {name: getattr(loop.stage, name, None) for name in ("transformer", "transformer_2")}
        models = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        group, apart = deciding_together(groups)
        times = getattr(loop.batch, "timesteps", None)
        return self.requests.serve(
            models,
            name=str(getattr(loop.batch, "request_id", None) or ""),
            refused=refusal(loop.stage, loop.batch, loop.server_args) or apart,
            process_group=group,
            timesteps=None if times is None else torch.as_tensor(times).tolist(),
        )


class _Loop:
    """A call of a stage's ``forward``, and the request that it serves once it has begun."""

    def __init__(self, stage: Any, server_args: Any) -> None:
        self.stage, self.server_args, self.batch = stage, server_args, None
        self.request: Request | None = None
        self.ending = contextlib.ExitStack()

    def end(self) -> None:
        """End the request; the next step begins another."""
        self.request = None
        self.ending.close()


def refusal(stage: Any, batch: Any, server_args: Any) -> str:
    """Why a request is computed in full; empty where it is driven. What SGLang no longer has is off."""
    if getattr(server_args, "enable_breakable_cuda_graph", False):
        return "SGLang's breakable CUDA graphs replay a step without calling its blocks; leave --enable-breakable-cuda-graph away"
    if getattr(server_args, "use_fsdp_inference", False):
        return "FSDP gathers each block's weights from all workers when it is called, so none may be skipped; leave --use-fsdp-inference away"
    on = {"cache-dit": getattr(stage, "_cache_dit_enabled", False)}
    on |= {"TeaCache": getattr(batch, "enable_teacache", False), "Spectrum": getattr(batch, "enable_spectrum", False)}
    return next((f"{name} is on for this request too; switch one of them off" for name, is_on in on.items() if is_on), "")


def groups() -> tuple[Any, Any]:
    """SGLang's groups of workers that share each sample. Branches of guidance that are computed by different
    workers decide for themselves.
    """
    parallel = importlib.import_module(f"{RUNTIME}.distributed")
    return parallel.get_sp_group(), parallel.get_tp_group()


class Pipelines:
    """SGLang's diffusers backend: the policy is attached to its pipeline, whose scheduler says the steps."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.targets: Mapping[str, Target] = {
            f"{PIPELINE}.DiffusersPipeline._apply_cache_dit": (self.attach, ("self", "pipe", "server_args")),
            f"{PIPELINE}.DiffusersExecutionStage.forward": (self.forward, ("self", "batch", "server_args")),
        }
        self._attached: foreseer.Attachment | None = None
        self._refused = "this pipeline was not seen when it was loaded"

    def attach(self, original: Original, pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DiffusersPipeline._apply_cache_dit``, the last thing that is done to a pipeline."""
        pipe, self._refused = original(pipeline, *args, **kwargs), ""
        if getattr(given(original, pipeline, args, kwargs)["server_args"], "cache_dit_config", None):
            self._refused = "cache-dit is on too; leave --cache-dit-config away"
        else:
            try:
                self._attached = foreseer.attach(pipe, self.requests.spec, on_error="compute")
            except ForeseerError as error:
                self._refused = str(error)
        if self._refused:
            LOG.warning("foreseer: every request is computed in full: %s", self._refused)
        return pipe

    def forward(self, original: Original, stage: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``DiffusersExecutionStage.forward``, a request.

        Raises:
            ForeseerError: In the middle of a call, where the pipeline cannot be asked again without another
                noise. The policy is then off for the requests that follow.
        """
        batch, ended, attached = given(original, stage, args, kwargs)["batch"], "", self._attached
        if getattr(batch, "is_warmup", False):
            return original(stage, *args, **kwargs)
        before = {} if attached is None else {name: report.outcomes for name, report in attached.reports.items()}
        try:
            return original(stage, *args, **kwargs)
        except BaseException as error:
            ended = type(error).__name__
            if isinstance(error, ForeseerError) and attached is not None:
                self._refused, self._attached = str(error), None
                attached.detach()
            raise
        finally:
            found = {} if attached is None else attached.reports
            reports = {name: report for name, report in found.items() if report.outcomes is not before.get(name)}  # of this request
            self.requests.account(str(getattr(batch, "request_id", None) or ""), reports, refused=self._refused, ended=ended)
