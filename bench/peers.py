"""Other libraries' caches on the same models and noises: cache-dit's DBCache, and diffusers' own caches.

A peer gets a freshly loaded model for each batch, is enabled before each run and disabled after it, outside
of what is timed: no run begins with another's state, and no lane with what another left. (After cache-dit
1.5.3 is disabled a `FluxTransformer2DModel` computes bit for bit what it did, and diffusers' caches fail on
it all the same.) What a peer computed is counted from outside (`foreseer.bench.counting`), not by its own
summary. Nothing here is needed for anything else: without a peer installed its lanes are rows that say so.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, Literal

import attrs
import torch
from torch import nn

from foreseer.bench.fields import refuse_unknown
from foreseer.bench.workload import Workload
from foreseer.errors import ForeseerError
from foreseer.options import at_least, at_least_float, checked, fraction
from foreseer.registry import signature_of

__all__ = ["PEERS", "Enable", "PeerError", "PeerSpec", "Request"]


class PeerError(ForeseerError, RuntimeError):
    """A peer did what its documentation does not lead one to expect; its lane says so and has no result."""


@attrs.frozen(eq=False)
class Request:
    """What a peer must know to be set up, as its users know it.

    Attributes:
        family: What to enable the cache on.
        num_steps: Steps of the run.
        calibrate: Draws the first batch with what is enabled now: for methods that are calibrated on the
            model.
        memory: What a calibration found, for the next request of this benchmark.
    """

    family: Workload
    num_steps: int
    calibrate: Callable[[], object]
    memory: dict[object, Any] = attrs.field(factory=dict)


Enable = Callable[[Request], AbstractContextManager[None]]


@attrs.frozen
class PeerSpec:
    """A peer and its options.

    Attributes:
        name: One of `PEERS`.
        options: Keyword arguments of that peer.

    Raises:
        OptionError: An option is unknown or out of range.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        refuse_unknown(self.options, signature_of(self.factory).parameters, f"option of peer {self.name!r}")
        self.enable()

    @property
    def factory(self) -> Callable[..., Enable]:
        """The function that its options are of."""
        return PEERS[self.name]

    def enable(self) -> Enable:
        """Return the function that enables it on a family."""
        return self.factory(**self.options)

    def __str__(self) -> str:
        chosen = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{chosen}" if chosen else self.name


@checked
def dbcache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.08,
    first_blocks: Annotated[int, at_least(1)] = 8,
    last_blocks: Annotated[int, at_least(0)] = 0,
    warmup_steps: Annotated[int, at_least(1)] = 8,
    max_continuous_cached_steps: Annotated[int, at_least(-1)] = -1,
    calibrator: Literal["none", "taylorseer", "foca"] = "none",
    order: Annotated[int, at_least(1)] = 1,
) -> Enable:
    """cache-dit's DBCache, with or without a calibrator. Defaults are its own.

    Args:
        threshold: ``residual_diff_threshold``.
        first_blocks: ``Fn_compute_blocks``, which are always computed and judge the step.
        last_blocks: ``Bn_compute_blocks``.
        warmup_steps: ``max_warmup_steps``.
        max_continuous_cached_steps: Most cached steps in a row; -1 for no limit.
        calibrator: Its predictor of residuals.
        order: Of its TaylorSeer calibrator.
    """

    @contextmanager
    def enable(request: Request) -> Iterator[None]:
        cache_dit: Any = importlib.import_module("cache_dit")  # it has no types
        logging.getLogger("CACHE_DIT").setLevel(logging.ERROR)
        pipeline, model = request.family.pipeline, request.family.model
        target = model if pipeline is None else pipeline
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=first_blocks,
            Bn_compute_blocks=last_blocks,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup_steps,
            max_continuous_cached_steps=max_continuous_cached_steps,
            num_inference_steps=request.num_steps if pipeline is None else None,
        )
        chosen: Any = None
        if calibrator == "taylorseer":
            chosen = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
        elif calibrator == "foca":
            chosen = cache_dit.FoCaCalibratorConfig()
        try:
            cache_dit.enable_cache(target, cache_config=config, calibrator_config=chosen)
        except Exception:
            with contextlib.suppress(Exception):  # half enabled: what it says now is not why it failed
                cache_dit.disable_cache(target)
            raise
        try:
            yield
        finally:
            cache_dit.disable_cache(target)

    return enable


@checked
def first_block_cache(*, threshold: Annotated[float, at_least_float(0.0)] = 0.05) -> Enable:
    """The FirstBlockCache of diffusers.

    Args:
        threshold: Of the change of the first block's residual.
    """
    return _diffusers("FirstBlockCacheConfig", lambda request: {"threshold": threshold})


@checked
def diffusers_taylorseer(
    *,
    interval: Annotated[int, at_least(2)] = 5,
    order: Annotated[int, at_least(0)] = 1,
    warmup_steps: Annotated[int, at_least(1)] = 3,
    mode: Literal["default", "lite", "modules"] = "default",
    factors_dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> Enable:
    """The TaylorSeer of diffusers. Defaults are its own.

    Args:
        interval: ``cache_interval``.
        order: ``max_order``.
        warmup_steps: ``disable_cache_before_step``.
        mode: ``"default"``: what it finds by itself, attention. ``"lite"``: ``use_lite_mode``, the output
            projection. ``"modules"``: what the paper forecasts, by ``cache_identifiers``: attention and
            feed-forward layers, and of FLUX's single blocks the output of both together.
        factors_dtype: ``taylor_factors_dtype``.
    """
    settings = {
        "cache_interval": interval,
        "max_order": order,
        "disable_cache_before_step": warmup_steps,
        "use_lite_mode": mode == "lite",
        "taylor_factors_dtype": getattr(torch, factors_dtype),
    }
    if mode == "modules":
        forecast = r"(transformer_blocks|blocks)\.\d+\.(attn|attn1|attn2|ff|ffn|ff_context)"
        single = r"single_transformer_blocks\.\d+\."
        settings["cache_identifiers"] = [forecast, rf"{single}proj_out"]
        settings["skip_predict_identifiers"] = [rf"{single}(attn|proj_mlp)"]
    return _diffusers("TaylorSeerCacheConfig", lambda request: settings)


@checked
def magcache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.06,
    max_skip_steps: Annotated[int, at_least(1)] = 3,
    retention_ratio: Annotated[float, fraction] = 0.2,
) -> Enable:
    """The MagCache of diffusers, calibrated as its docs describe: run once with ``calibrate=True``, copy the
    list. The first batch is what it runs on.

    Args:
        threshold: Of the accumulated error.
        max_skip_steps: Most skipped steps in a row.
        retention_ratio: Share of the steps at the start that are computed.
    """
    settings = {"threshold": threshold, "max_skip_steps": max_skip_steps, "retention_ratio": retention_ratio}

    def calibrated(request: Request) -> dict[str, Any]:
        steps = {"num_inference_steps": request.num_steps}
        key = ("magcache", request.num_steps)
        if key not in request.memory:
            printed = io.StringIO()
            calibrating = _diffusers("MagCacheConfig", lambda request: steps | {"calibrate": True})
            with contextlib.redirect_stdout(printed), calibrating(request):
                request.calibrate()
            # one list for each stream; the first is that of the call with the condition
            lists = [line for line in printed.getvalue().splitlines() if re.fullmatch(r"\[(?!.*MagCache).*\]", line)]
            if not lists:
                raise PeerError("its calibration printed no ratios")
            request.memory[key] = ast.literal_eval(lists[0])
        return steps | {"mag_ratios": request.memory[key]} | settings

    return _diffusers("MagCacheConfig", calibrated)


def _diffusers(config: str, settings: Callable[[Request], Mapping[str, Any]]) -> Enable:
    """Enable a cache of diffusers by the name of its config."""

    @contextmanager
    def enable(request: Request) -> Iterator[None]:
        with _with_mixin(request.family.model) as model:
            made = getattr(importlib.import_module("diffusers"), config)(**settings(request))
            try:
                model.enable_cache(made)
                yield
            finally:
                if model.is_cache_enabled:
                    model.disable_cache()

    return enable


@contextmanager
def _with_mixin(model: nn.Module) -> Iterator[Any]:
    """Give a model diffusers' `CacheMixin` where its class has none (DiT): the hooks themselves work on any
    model.
    """
    from diffusers.models.cache_utils import CacheMixin

    own = type(model)
    if isinstance(model, CacheMixin):
        yield model
        return
    model.__class__ = type(own.__name__, (own, CacheMixin), {})
    try:
        yield model
    finally:
        model.__class__ = own


PEERS: dict[str, Callable[..., Enable]] = {peer.__name__: peer for peer in (dbcache, first_block_cache, diffusers_taylorseer, magcache)}
"""By name: a function of options that returns what enables the peer for one run."""
