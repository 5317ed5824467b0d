"""foreseer as a cache backend of vLLM-Omni: ``--cache-backend foreseer --cache-config '{"policy": ...}'``.

vLLM-Omni chooses its backends in a closed function, ``get_cache_backend(cache_backend, cache_config)``
(``vllm_omni/diffusion/cache/selector.py``), so the plugin puts another in its place where the model runner
looks for it (``vllm_omni/diffusion/worker/diffusion_model_runner.py``). The runner calls ``enable(pipeline)``
once after loading and compiling, ``refresh(pipeline, num_inference_steps)`` before each request and then
``pipeline.forward(batch)``. Functions of the entry point group ``vllm_omni.general_plugins`` are called in each
process before that (``vllm_omni/plugins/__init__.py``).

Read, and not run: vLLM-Omni 0.30.0, and of its main branch diffusion_model_runner.py at 001514f970f3,
selector.py at 148d7ff23d2d, plugins/__init__.py at 6a96e66ea6f8, distributed/cfg_parallel.py at 0473904e9d18.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from foreseer.adapters.serving import Request, Requests, deciding_together
from foreseer.errors import ForeseerError, OptionError

__all__ = ["Backend", "register"]

RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"
CONFIG = "vllm_omni.diffusion.data"
PARALLEL = "vllm_omni.diffusion.distributed.parallel_state"
SELECTOR = ("cache_backend", "cache_config")
LOG = logging.getLogger("vllm.foreseer")
"""A child of vLLM's logger, so that its lines go where vLLM's go."""


def register() -> None:
    """Let vLLM-Omni's model runner know the cache backend ``foreseer``. vLLM-Omni calls this in each of its
    processes, and may do so twice.
    """
    try:
        runner: Any = importlib.import_module(RUNNER)
        fields = {field.name for field in dataclasses.fields(importlib.import_module(CONFIG).DiffusionCacheConfig)}
        original = runner.get_cache_backend
        takes = tuple(inspect.signature(original).parameters)
    except Exception as error:
        # an engine that cannot be imported here says so in many ways, and goes on without us in each
        LOG.warning("foreseer: this vLLM-Omni cannot be extended (%s: %s); --cache-backend foreseer is not there", type(error).__name__, error)
        return
    if takes != SELECTOR or "_extra_params" not in fields:
        what = f"get_cache_backend takes ({', '.join(takes)}), and not {', '.join(SELECTOR)}" if takes != SELECTOR else "cache configs keep no other keys"
        LOG.warning("foreseer: this vLLM-Omni is another than is known: %s; --cache-backend foreseer is not there", what)
        return
    if getattr(original, "knows_foreseer", False):
        return

    @functools.wraps(original)
    def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
        if str(cache_backend).lower() != "foreseer":
            return original(cache_backend, cache_config)
        return Backend(cache_config)

    runner.get_cache_backend = get_cache_backend
    runner.get_cache_backend.knows_foreseer = True


def options_of(config: Any) -> dict[str, Any]:
    """The policy under ``policy``, and its options by their names.

    Args:
        config: vLLM-Omni's ``DiffusionCacheConfig``, which keeps the keys that it does not know, or a mapping.

    Raises:
        OptionError: It names no policy.
    """
    found = dict(config) if isinstance(config, Mapping) else dict(vars(config).get("_extra_params", {}))
    if not isinstance(found.get("policy"), str):
        raise OptionError(f'cache-config: policy={found.get("policy")!r} names no policy; write --cache-config \'{{"policy": "taylorseer", "interval": 3}}\'')
    return found


class Backend:
    """A cache backend, by vLLM-Omni's interface: `enable`, `refresh`, `is_enabled`, ``config``, ``enabled``.

    A request is a call of the pipeline's ``forward``, and a stream is a branch of guidance, by its name where
    the pipeline asks vLLM-Omni's ``predict_noise_maybe_with_cfg`` and else by its text. Steps begin by
    themselves, with each timestep or when a branch's turn comes again.

    Args:
        config: As of `options_of`.

    Attributes:
        requests: The accounts of the last requests are in its ``served``.

    Raises:
        PluginError, OptionError: The policy is not there, or an option is wrong: the worker does not start.
    """

    def __init__(self, config: Any) -> None:
        options = options_of(config)
        self.config, self.enabled = config, False
        self.requests = Requests(options.pop("policy"), folder=os.environ.get("FORESEER_REPORTS") or None, log=LOG, **options)
        self._steps: int | None = None
        self._request: Request | None = None
        self._branches: Mapping[str, Mapping[str, Any]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.requests.spec})"

    def is_enabled(self) -> bool:
        """Whether `refresh` is to be called before each request."""
        return self.enabled

    def enable(self, pipeline: Any) -> None:
        """Follow a pipeline's requests from now on. What cannot be driven is computed, and the log says why."""
        if self.enabled:
            return
        self.enabled = True
        around = {"predict_noise": self._predict, "predict_noise_maybe_with_cfg": self._guide, "predict_noise_with_multi_branch_cfg": self._guide}
        for name, hook in {"forward": self._serve, **around}.items():
            if callable(original := getattr(pipeline, name, None)):
                setattr(pipeline, name, functools.wraps(original)(functools.partial(hook, original, pipeline)))
        models = denoisers(pipeline)
        group, apart = deciding_together(groups)
        refused = apart or refusal(pipeline, models)
        try:
            if not refused:
                self.requests.attach(models, group)
        except ForeseerError as error:
            refused = str(error)
        if refused:
            LOG.warning("foreseer: requests of this %s are computed in full: %s", type(pipeline).__name__, refused)

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Note how many steps the next request has."""
        self._steps = num_inference_steps or None

    def _serve(self, original: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``forward``, a request or a batch of them."""
        steps, self._steps = self._steps, None
        batch = args[0] if args else next(iter(kwargs.values()), None)
        names = [str(getattr(one, "request_id", "")) for one in getattr(batch, "requests", ())]
        models, (group, apart) = denoisers(pipeline), deciding_together(groups)
        given: dict[str, Any] = {"refused": apart or refusal(pipeline, models), "process_group": group, "num_steps": steps, "by_itself": True}
        with self.requests.serve(models, name="+".join(filter(None, names)), **given) as request:
            outer, self._request = self._request, request
            try:
                return original(*args, **kwargs)
            finally:
                self._request = outer

    def _guide(self, original: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        """Around what evaluates all branches of guidance of a step: note which is which."""
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        pair = {"cond": given.get("positive_kwargs"), "uncond": given.get("negative_kwargs")}
        several = {f"branch {at}" if at else "cond": branch for at, branch in enumerate(given.get("branches_kwargs") or ())}
        outer, self._branches = self._branches, {name: branch for name, branch in (pair | several).items() if isinstance(branch, Mapping)}
        try:
            return original(*args, **kwargs)
        finally:
            self._branches = outer

    def _predict(self, original: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``predict_noise``, a call of a model."""
        if self._request is None:
            return original(*args, **kwargs)
        same = (name for name, branch in self._branches.items() if branch.keys() == kwargs.keys() and all(kwargs[key] is branch[key] for key in branch))
        with self._request.call(next(same, "")):
            return original(*args, **kwargs)


def denoisers(pipeline: Any) -> dict[str, nn.Module]:
    """The models of a pipeline that are driven, by their names."""
    found = {name: getattr(pipeline, name, None) for name in ("transformer", "transformer_2")}
    return {name: model for name, model in found.items() if isinstance(model, nn.Module)}


def refusal(pipeline: Any, models: Mapping[str, nn.Module]) -> str:
    """Why a pipeline is computed in full; empty where it is driven."""
    if not models:
        return f"{type(pipeline).__name__} has no transformer"
    for name, model in models.items():
        if any(kind.__name__ in ("FSDPModule", "FullyShardedDataParallel") for kind in type(model).__mro__):
            return f"{name} is sharded (HSDP) and gathers each block's weights from all workers when it is called, so none may be skipped"
        hooks = getattr(getattr(model, "_hook_registry", None), "_hooks", ())
        if cache := next((hook for hook in hooks if re.search("cache", str(hook))), ""):
            return f"another cache, {cache}, is on {name} too; use one of them"
    return ""


def groups() -> tuple[Any, Any]:
    """vLLM-Omni's groups of workers that share each sample. Branches of guidance that are computed by different
    workers decide for themselves.
    """
    return importlib.import_module(PARALLEL).get_sp_group(), importlib.import_module("vllm.distributed.parallel_state").get_tp_group()
