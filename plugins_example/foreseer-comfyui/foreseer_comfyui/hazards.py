"""What else is applied to a model in ComfyUI, and does not go together with a policy."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from foreseer import UnsupportedModelError

__all__ = ["DISABLED", "computed_because", "notes_on", "refuse", "without_graphs"]

CACHES = {"lazycache": "LazyCache", "easycache": "EasyCache"}
"""ComfyUI's own caches, by what they leave on a model; the first leaves what the second does, too."""
OTHERS = re.compile(r"teacache|magcache|wavespeed|cache_?dit|firstblock|fbcache", re.IGNORECASE)
"""Modules of custom nodes that cache."""
DISABLED = "disable_comfy_compiler"
"""Of a model's options: asks ComfyUI to neither capture nor record its forward."""


def _wrappers(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, list[Any]]]:
    found: Mapping[str, Mapping[str, list[Any]]] = options.get("transformer_options", {}).get("wrappers", {})
    return found


def refuse(model: Any, options: Mapping[str, Any]) -> None:
    """Refuse what cannot go together with a policy.

    Args:
        model: The diffusion transformer.
        options: Of this sampling (``model_options``).

    Raises:
        UnsupportedModelError: Another cache of ComfyUI is applied, or the model is compiled as a whole.
    """
    keys = {str(key) for kind in _wrappers(options).values() for key in kind} | {str(key) for key in options.get("transformer_options", {})}
    if both := [name for key, name in CACHES.items() if key in keys]:
        raise UnsupportedModelError(f"{both[0]} is applied too; remove one of them")
    compiled = {str(name) for function in _wrappers(options).get("apply_model", {}).get("torch.compile", ()) for name in _names_in(function)}
    if "diffusion_model" in compiled or type(model).__name__ == "OptimizedModule":
        raise UnsupportedModelError(
            "the model is compiled as a whole, so that its blocks cannot be seen; compile its blocks instead (the keys of its blocks, such as "
            "diffusion_model.double_blocks.0), or remove the compile node"
        )


def _names_in(function: Any) -> Iterator[object]:
    """The keys of the dictionaries that a function closes over."""
    for value in inspect.getclosurevars(function).nonlocals.values():
        if isinstance(value, Mapping):
            yield from value


def notes_on(model: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what looks like another cache, and what will change the model in the middle of a sampling."""
    wrapper = options.get("model_function_wrapper")
    suspects = [getattr(wrapper, "__module__", "") or ""] if wrapper is not None else []
    suspects += [getattr(vars(model)[name], "__module__", "") or "" for name in ("forward", "forward_orig") if name in vars(model)]
    found = [f"{module} seems to cache too: two caches on one model spoil each other" for module in suspects if OTHERS.search(module)]
    if options.get("registered_hooks") is not None:
        found.append("weights are changed by hooks during this sampling: forecasts reach over the change")
    return tuple(found)


def computed_because(options: Mapping[str, Any]) -> str:
    """Say why nothing can be forecast here; empty where it can."""
    if options.get("multigpu_clones"):
        return "the model runs on several GPUs at once, in copies that no policy is attached to"
    return ""


@functools.cache
def _say_once(sentence: str) -> None:
    logging.info("foreseer: %s", sentence)


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Keep ComfyUI from recording a forward and expecting the next to be like it: some steps here are not.

    Newer versions record the allocations of a forward, and replay blocks (``comfy.model_prefetch``).
    """
    try:
        from comfy import model_prefetch
    except ImportError:
        yield
        return
    before = getattr(model_prefetch, "malloc_graph_enabled", None)
    if before is None:
        yield
        return
    _say_once("the Comfy compiler is off while a sampling has a policy, as forecast steps do not run their blocks")
    model_prefetch.malloc_graph_enabled = lambda *args, **kwargs: False
    try:
        yield
    finally:
        model_prefetch.malloc_graph_enabled = before
