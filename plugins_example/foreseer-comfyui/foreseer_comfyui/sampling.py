"""A policy on a model of ComfyUI, for the length of each sampling: three wrappers around what ComfyUI does."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor, nn

import foreseer
from foreseer import ForeseerError, PolicySpec, Storage
from foreseer_comfyui.handle import Handle, Sampling, executing
from foreseer_comfyui.hazards import DISABLED, computed_because, notes_on, refuse, without_graphs
from foreseer_comfyui.naming import Names
from foreseer_comfyui.rehearsal import sigmas_ahead

__all__ = ["KEY", "Applied"]

KEY = "foreseer"
"""Under which wrappers lie on a model."""

_found_out: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
"""What was found out about each model that is still there, so that each is examined once."""


@attrs.define(eq=False)
class _UnderWay:
    """A sampling under way.

    Attributes:
        generation: Of its attachment.
        highest, lowest: Noise levels between which the policy is asked.
        names: Of its streams.
        compute: Why the evaluation under way is computed; empty where the policy is asked.
    """

    generation: Any
    highest: float
    lowest: float
    names: Names = attrs.field(factory=Names)
    compute: str = ""


@attrs.define(eq=False, kw_only=True)
class Applied:
    """What a policy node puts on a model.

    Attributes:
        spec: The policy.
        handle: Where reports go.
        start, end: Shares of the sampling between which the policy is asked, 0 to 1.
        blocks: Dotted paths of the block lists; None finds them.
        storage: Where and how features are kept; None as they are computed.
        on_error: ``"compute"``, or ``"raise"``.
        observers: Plugins that watch.
        afterwards: Called after each sampling; returns what there is to say, or an empty text. None: nothing is.
    """

    spec: PolicySpec
    handle: Handle
    start: float = 0.0
    end: float = 1.0
    blocks: str | None = None
    storage: Storage | None = None
    on_error: Literal["raise", "compute"] = "compute"
    observers: Sequence[object] = ()
    afterwards: Callable[[], str] | None = None
    _under_way: _UnderWay | None = attrs.field(default=None, init=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Applied:
        return self

    def put_on(self, patcher: Any) -> Any:
        """Return a clone of a model's handle with this policy on it, in the place of an earlier one."""
        from comfy.patcher_extension import WrappersMP

        clone = patcher.clone()
        around = {
            WrappersMP.OUTER_SAMPLE: self.around_all,
            WrappersMP.SAMPLER_SAMPLE: self.around_sampling,
            WrappersMP.PREDICT_NOISE: self.around_evaluation,
            WrappersMP.APPLY_MODEL: self.around_call,
        }
        if clone.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
            logging.warning("foreseer: this model had a policy already; %s takes its place", self.spec)
        for kind, function in around.items():
            clone.remove_wrappers_with_key(kind, KEY)
            clone.add_wrapper_with_key(kind, KEY, function)
        clone.model_options.setdefault("transformer_options", {})[DISABLED] = True
        return clone

    def around_all(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around a sampling, before weights are loaded."""
        with without_graphs():
            return executor(*args, **kwargs)

    def around_sampling(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Around the sampler: attach, and detach whatever happens."""
        options, model = extra_args.get("model_options", {}), guider.inner_model.diffusion_model
        ahead = sigmas_ahead(executor.class_obj, guider, sigmas, extra_args)
        if because := computed_because(options) or ("" if ahead else "this sampling has no evaluation"):
            self._keep({}, because)
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        with _in_words():
            refuse(model, options)
            attached = foreseer.attach(
                model,
                self.spec,
                blocks=self.blocks,
                storage=self.storage,
                on_error=self.on_error,
                observers=self.observers,
                findings=_found_out.get(model),
            )
            before, sampling = self._under_way, guider.inner_model.model_sampling
            try:
                with attached, attached.generation(**_steps(sampling, ahead)) as generation:
                    self._under_way = _UnderWay(generation, float(sampling.percent_to_sigma(self.start)), float(sampling.percent_to_sigma(self.end)))
                    try:
                        return executor(guider, sigmas, extra_args, *args, **kwargs)
                    finally:
                        _found_out[model] = attached.findings
            finally:
                self._under_way = before
                attached.detach()
                self._keep(attached.reports, *notes_on(model, options))

    def _keep(self, reports: Mapping[str, foreseer.Report], *notes: str) -> None:
        notes = tuple(note for note in (*notes, self.afterwards() if self.afterwards else "") if note)
        self.handle.samplings.append(sampling := Sampling(*executing(), dict(reports), notes))
        for name, report in sampling.reports.items():
            computed = f"{report.steps_computed:.3g} of {len(report.outcomes)} evaluations computed, {report.block_rows_ratio:.0%} of the block-rows"
            logging.info("foreseer: %s, %s: %s", self.spec, name, computed)
        for note in notes:
            logging.warning("foreseer: %s", note)

    def around_evaluation(self, executor: Callable[..., Any], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around each evaluation that the sampler asks for: a step begins."""
        now = self._under_way
        if now is not None:
            now.generation.step()
            now.names.step()
            if self.start > 0.0 or self.end < 1.0:
                inside = now.lowest <= float(timestep.flatten()[0]) <= now.highest
                now.compute = "" if inside else f"outside of {self.start:g} to {self.end:g} of the sampling"
        return executor(x, timestep, *args, **kwargs)

    def around_call(self, executor: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around each call of the model: whose it is, and which rows are one sample."""
        now = self._under_way
        if now is None:
            return executor(x, *args, **kwargs)
        options = kwargs.get("transformer_options") or next((each for each in args if isinstance(each, dict) and "cond_or_uncond" in each), {})
        samples, rest = divmod(len(x), len(options.get("cond_or_uncond") or (0,)))  # row r belongs to sample r modulo this
        with now.generation.call(stream=now.names.name(options), groups=None if rest or not samples else samples, compute=now.compute):
            return executor(x, *args, **kwargs)


def _steps(sampling: Any, ahead: Sequence[float]) -> dict[str, Sequence[float]]:
    """What is known of the evaluations ahead, by ComfyUI's account of the noise (``model_sampling``)."""
    flow = any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)
    levels = np.asarray(ahead, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_snr = np.log(np.maximum(1.0 - levels, 0.0) if flow else np.ones_like(levels)) - np.log(levels)
    times = [float(sampling.timestep(torch.tensor(level))) for level in ahead]
    return {"timesteps": times, "sigmas": ahead, "log_snr": log_snr.tolist()}


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Say who speaks: the message is shown on the sampler's node."""
    try:
        yield
    except ForeseerError as error:
        if str(error).startswith("foreseer: "):
            raise
        raise type(error)(f"foreseer: {error}") from error
