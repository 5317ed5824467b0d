"""One sample drawn under a policy and looked at step by step: how far it has drifted from full computation, how
wrong each forecast was, and what it becomes where the outputs of some steps are computed instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # diffusers registers its output classes there

from foreseer.adapters.attachment import Attachment
from foreseer.adapters.calls import intercept
from foreseer.adapters.denoisers import find_denoisers
from foreseer.bench.lanes import Sampler, Sampling
from foreseer.bench.workload import Workload
from foreseer.hookspecs import hookimpl
from foreseer.outcome import Outcome
from foreseer.registry import PolicySpec
from foreseer.types import Run, Site, Step

__all__ = ["Shadow", "Trail", "Watch", "draw_watched"]


@attrs.frozen(kw_only=True)
class Shadow:
    """A forecast step of one stream, computed as well.

    Attributes:
        stream: The run's stream.
        step: Index of the step in the sampling, from 0.
        outcome: How the step ended.
        off: L2 norm of the used output less the computed one, from the same input.
        size: L2 norm of the computed output.
        span: How far the noise level falls in the step; 1 where the host does not know noise levels.
    """

    stream: str
    step: int
    outcome: Outcome
    off: float
    size: float
    span: float


class Watch:
    """Observer: computes chosen forecast steps as well, notes how wrong they were, and may have them replaced.

    Args:
        steps: Which steps of the sampling; None for all.
        replace: Whether the run goes on with what was computed; the `Trail` around the model hands it on. What
            the policy keeps for its forecasts stays as it was.

    Attributes:
        shadows: What was found, in the order of the calls.
        last: The step of the sampling that ended last; -1 before the first.
        pending: What is to replace the output of the call that is ending; None for nothing.
    """

    def __init__(self, steps: Collection[int] | None = None, *, replace: bool = False) -> None:
        self._steps, self._replace = steps, replace
        self.shadows: list[Shadow] = []
        self.last = -1
        self.pending: Any = None

    @hookimpl
    def shadow(self, run: Run, step: Step) -> bool:
        """Ask for the chosen steps."""
        return self._steps is None or run.start + step.index in self._steps

    @hookimpl
    def on_shadow(self, run: Run, step: Step, outcome: Outcome, drafts: Mapping[Site, Tensor], output: Any, computed: Any) -> None:
        """Note how far off the output is."""
        pairs = list(zip(_numbers(output), _numbers(computed), strict=True))
        off, size = (
            math.sqrt(sum(float(part.double().square().sum()) for part in parts))
            for parts in ([a.float() - b.float() for a, b in pairs], [b for _, b in pairs])
        )
        self.shadows.append(Shadow(stream=run.stream, step=run.start + step.index, outcome=outcome, off=off, size=size, span=_span(run, step)))
        if self._replace:
            self.pending = computed

    @hookimpl
    def on_step(self, run: Run, step: Step) -> None:
        """Note where the run is."""
        self.last = run.start + step.index

    def replaced(self, output: Any) -> Any:
        """Return what a call of the model is to return, given what it did."""
        pending, self.pending = self.pending, None
        return output if pending is None else pending


class Trail:
    """What arrives at the denoiser in each of its calls.

    Args:
        reference: Of the same sampling, fully computed; None to keep what arrives.
        watch: Says which step a call was, and replaces outputs.

    Attributes:
        latents: What arrived, on the CPU; empty where there is a reference.
        drift: By step of the sampling, the L2 distance of what arrived at its first call from what arrives
            there in full computation, over the norm of that; NaN where that has another shape.
    """

    def __init__(self, reference: Sequence[Tensor] | None = None, watch: Watch | None = None) -> None:
        self._reference, self._watch, self._calls = reference, watch, 0
        self.latents: list[Tensor] = []
        self.drift: dict[int, float] = {}

    def around(self, inner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take part in a call."""
        arrived = next(iter(_numbers((kwargs.get("hidden_states"), args, kwargs))), torch.zeros(0))
        number, self._calls = self._calls, self._calls + 1
        apart = math.nan
        if self._reference is None:
            self.latents.append(arrived.detach().to("cpu", copy=True))
        elif number < len(self._reference):
            apart = relative(arrived.detach().cpu(), self._reference[number])
        output = inner(*args, **kwargs)
        if self._watch is None:
            return output
        self.drift.setdefault(self._watch.last, apart)
        return self._watch.replaced(output)


def draw_watched(
    sampler: Sampler, sample: int, spec: PolicySpec | None, *, watch: Watch | None = None, reference: Sequence[Tensor] | None = None
) -> tuple[Sampling, Trail]:
    """Draw one sample, fully computed or with a policy, and follow it.

    Args:
        sampler: Draws it.
        sample: Its index.
        spec: The policy; None computes everything.
        watch: Watches the policy.
        reference: `Trail.latents` of full computation; None for none.
    """
    trail = Trail(reference, watch)
    driven = None if spec is None else sampler.policy(spec, [sample], [] if watch is None else [watch])
    return sampler.run([sample], driven=_followed(sampler.workload, driven, trail)), trail


@contextmanager
def _followed(workload: Workload, driven: AbstractContextManager[Attachment] | None, trail: Trail) -> Iterator[Attachment | None]:
    with ExitStack() as stack:
        attached = None if driven is None else stack.enter_context(driven)
        for model in _models(workload):  # behind the attachment, so that calls come here first
            stack.callback(intercept(model, trail.around).restore)
        yield attached


def _models(workload: Workload) -> list[nn.Module]:
    """The denoiser, or all that the pipeline has."""
    return [workload.model] if workload.pipeline is None else list(find_denoisers(workload.pipeline)[0].values())


def relative(own: Tensor, full: Tensor) -> float:
    """Return the L2 distance of two tensors over the norm of the second; NaN where their shapes differ."""
    if own.shape != full.shape or not full.numel():
        return math.nan
    return float((own.double() - full.double()).norm() / full.double().norm())


def _numbers(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 1]


def _span(run: Run, step: Step) -> float:
    if run.sigmas is None or step.index >= len(run.sigmas):
        return 1.0
    following = run.sigmas[step.index + 1] if step.index + 1 < len(run.sigmas) else 0.0
    return abs(run.sigmas[step.index] - following)
