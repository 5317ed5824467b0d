"""The values that pass between a host, the engine and the plugins.

All of them are frozen. `R` is the number of rows (batch entries) of a denoiser call, `T` the number of steps
of a run, `L` the number of blocks, `K` the number of anchors kept per row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.declared import refuse_schedule, refuse_shape
from foreseer.site import OUTPUT, Site

if TYPE_CHECKING:
    from foreseer.metrics import Metric

__all__ = ["OUTPUT", "Evidence", "History", "Needs", "Plan", "Probe", "Run", "Site", "Step", "Verdict", "Weights"]


@attrs.frozen(eq=False)
class Run:
    """What is known when a run starts. A run is one sampling loop over one stream of denoiser evaluations.

    Raises:
        OptionError: One of the numbers is out of range, or ``groups`` has no label for each row.

    Attributes:
        depth: Number of blocks, L.
        rows: Batch entries of each call, R.
        groups: ``(R,)`` sample of each row. Rows of one sample (concatenated guidance) share one fate.
        num_steps: Evaluations that the run will make, T; None where the caller did not say.
        timesteps: ``(T,)`` as given to the model, or None.
        sigmas: ``(T,)`` noise levels, or None.
        sites: Every site that the host can record and forecast, in execution order.
        stream: Which of several calls per step this run follows (``"cond"``); empty where there is one.
        model: Class of the model and hash of its configuration; empty where the host does not say.
        scheduler: Which scheduler steps it, likewise; empty for a loop of the caller's own.
        start: Steps of the sampling that were over when this run began: 0, but for a stream that is first
            called later, or that begins anew. ``num_steps``, ``timesteps`` and ``sigmas`` are those from
            there on.
    """

    depth: int
    rows: int
    groups: tuple[int, ...]
    num_steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    sites: tuple[Site, ...] = ()
    stream: str = ""
    model: str = ""
    scheduler: str = ""
    start: int = 0

    def __attrs_post_init__(self) -> None:
        refuse_shape(self.depth, self.rows, self.groups, self.start)
        refuse_schedule(self.num_steps, self.timesteps, self.sigmas)

    def step(self, index: int, timestep: float | None = None, sigma: float | None = None) -> Step:
        """Return one of its steps, with its timestep and noise level where they are known and not given."""
        if timestep is None and self.timesteps is not None and index < len(self.timesteps):
            timestep = self.timesteps[index]
        if sigma is None and self.sigmas is not None and index < len(self.sigmas):
            sigma = self.sigmas[index]
        return Step(index, timestep, sigma)

    def over(self, step: Step) -> str:
        """Say that a step lies behind those that the run declared; empty where it does not."""
        if self.num_steps is None or step.index < self.num_steps:
            return ""
        return f"the run was declared with {self.num_steps} steps: later evaluations are computed"

    def whole(self) -> Run:
        """Return the sampling that it is a part of; of one that began before it, neither timesteps nor noise
        levels are known.
        """
        if not self.start:
            return self
        steps = None if self.num_steps is None else self.start + self.num_steps
        return attrs.evolve(self, start=0, num_steps=steps, timesteps=None, sigmas=None)

    def starting_at(self, step: int) -> Run:
        """Return the run that is left from one of its steps on."""
        left = None if self.num_steps is None else max(self.num_steps - step, 1)
        times, sigmas = (None if values is None else values[step:] for values in (self.timesteps, self.sigmas))
        return attrs.evolve(self, num_steps=left, timesteps=times, sigmas=sigmas, start=self.start + step)


@attrs.frozen
class Step:
    """One denoiser evaluation.

    Attributes:
        index: Counted up from 0 within the run; neither a scheduler step nor a timestep.
        timestep: As given to the model, or None where unknown.
        sigma: Noise level, or None where unknown.
    """

    index: int
    timestep: float | None = None
    sigma: float | None = None


@attrs.frozen
class Needs:
    """What a plugin wants the session to keep.

    Attributes:
        sites: Sites to record in every computed row. A gate or schedule names those that it will forecast; a
            predictor leaves this empty and serves whatever sites the gate asks for.
        anchors: How many computed features to keep per row, >= 1: at ``sites``, or at every recorded site
            where ``sites`` is empty. Or a number for each site, ``{Site(0): 1, Site(27): 3}``, whose sites
            are then recorded.
        note: A sentence for the report, or several, where the plugin had to do something else than it was
            asked.
    """

    sites: tuple[Site, ...] = ()
    anchors: int | Mapping[Site, int] = 1
    note: str | tuple[str, ...] = ""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.anchors, Mapping) and not self.sites:
            object.__setattr__(self, "sites", tuple(self.anchors))

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences for the report."""
        return tuple(filter(None, (self.note,) if isinstance(self.note, str) else self.note))

    @property
    def most(self) -> int:
        """The most features that are to be kept anywhere."""
        return max(self.anchors.values(), default=1) if isinstance(self.anchors, Mapping) else self.anchors

    def at(self, site: Site) -> int:
        """Return how many features to keep at a recorded site."""
        if isinstance(self.anchors, Mapping):
            return self.anchors.get(site, 1)
        return self.anchors if not self.sites or site in self.sites else 1

    @classmethod
    def together(cls, several: Sequence[Needs]) -> Needs:
        """Return what several plugins need."""
        notes = tuple(note for needs in several for note in needs.notes) or ""
        sites = tuple(dict.fromkeys(site for needs in several for site in needs.sites))
        if not sites:
            return cls(anchors=max((needs.most for needs in several), default=1), note=notes)
        return cls(sites, {site: max(needs.at(site) for needs in several) for site in sites}, notes)


@attrs.frozen
class Probe:
    """The one block that is computed to judge a draft.

    Attributes:
        block: Which block, 0..L-1.
        on: ``"input"``: blocks 0..block run on the real input, and the work is kept when rows are rejected
            (CG-Taylor). ``"draft"``: that block alone runs, on its forecast input; on rejection the work is
            lost (SpeCa).
    """

    block: int
    on: Literal["input", "draft"] = "input"


@attrs.frozen
class Plan:
    """What to do in a step. ``Plan()`` computes everything.

    Attributes:
        forecast: Sites whose features are forecast instead of computed.
        probe: The block to compute as evidence, or None to accept the forecast unseen.
        compute: ``(R,)`` rows to compute whatever the verdict; empty for none.
        reason: Why, in a few words, for the report.
    """

    forecast: tuple[Site, ...] = ()
    probe: Probe | None = None
    compute: tuple[bool, ...] = ()
    reason: str = ""


@attrs.frozen(eq=False)
class Evidence:
    """What a gate judges: the probed block's output, computed and forecast.

    Attributes:
        site: The probed block's output.
        computed: ``(R, ...)`` what the block computed; on its real input or on its draft input, as the probe
            says.
        forecast: ``(R, ...)`` same shape and dtype: what the forecast says.
        vote: Where several processes share a sample's tokens, and ``computed`` and ``forecast`` hold this
            process's: adds a tensor of any shape up over all of them. None where there is nobody to ask.
    """

    site: Site
    computed: Tensor = attrs.field(repr=False)
    forecast: Tensor = attrs.field(repr=False)
    vote: Callable[[Tensor], Tensor] | None = attrs.field(default=None, repr=False)

    def error(self, metric: Metric, *, groups: Sequence[int] | None = None) -> Tensor:
        """Return the error per row, ``(R,)`` float32, of the whole sample, whichever part of its tokens this
        process holds.

        This is the way to an error in a gate. ``metric(evidence.computed, evidence.forecast)`` is the same on
        one process; on several it is this process's tokens only, and the session then takes the strictest of
        all verdicts. A method, and not one more argument to hand on, because an argument that only matters on
        several GPUs is the one that is forgotten.

        Args:
            metric: One of `foreseer.metrics`, or your own `foreseer.metrics.Metric`.
            groups: ``(R,)`` which rows to pool; None for every row alone.
        """
        return metric(self.computed, self.forecast, groups=groups, vote=self.vote)


@attrs.frozen(eq=False)
class Verdict:
    """A gate's answer.

    Attributes:
        error: ``(R,)`` float32, non-negative. Where it is not finite the session rejects the row, whatever
            ``accept`` says.
        accept: ``(R,)`` bool: True where the draft may be used.
        threshold: What the error was held against; for the report.
    """

    error: Tensor = attrs.field(repr=False)
    accept: Tensor = attrs.field(repr=False)
    threshold: float = float("nan")


@attrs.frozen(eq=False)
class Weights:
    """A forecast that is linear in the recorded features; the session does the sum.

    Attributes:
        values: ``(R, K)`` float64: the weight of each row's K newest anchors, newest first. Columns beyond a
            row's anchors must be 0.
    """

    values: NDArray[np.float64] = attrs.field(repr=False)

    @functools.cached_property
    def rows(self) -> list[tuple[float, ...]]:
        """The weights as one tuple per row, or a single tuple where all rows have the same."""
        rows = [tuple(row) for row in self.values.tolist()]
        return rows[:1] if all(row == rows[0] for row in rows) else rows

    @classmethod
    def per_row(cls, function: Callable[[tuple[float, ...], float], Sequence[float]], anchors: NDArray[np.float64], target: float) -> Weights:
        """Apply a function of one row's anchors to every row.

        Args:
            function: ``(anchors, target) -> weights``. ``anchors`` holds the step indices of the row's
                anchors, newest first, as many as there are; ``weights`` has at most as many entries (the rest
                are 0).
            anchors: ``(R, K)`` step indices, newest first, NaN where a row has fewer.
            target: The step index to forecast.
        """
        values = np.zeros(anchors.shape)
        rows = anchors.tolist()
        if all(row == rows[0] for row in rows):  # as a rule: all rows were computed together
            weights = function(tuple([a for a in rows[0] if a == a]), target)
            values[:, : len(weights)] = weights
        else:
            for row, own in enumerate(rows):
                weights = function(tuple([a for a in own if a == a]), target)  # NaN differs from itself
                values[row, : len(weights)] = weights
        return cls(values)


@attrs.frozen(eq=False)
class History:
    """What a predictor may look at: each row's anchors, and recorded features for the few that need them.

    Attributes:
        anchors: ``(R, K)`` float64 step indices of the rows' computed steps, newest first, NaN where a row
            has fewer.
        features: ``site -> (K, R, ...)`` recorded features, newest first, zero where a row has fewer. Builds
            a copy: a linear predictor should return `Weights` instead. Never write to it.
    """

    anchors: NDArray[np.float64] = attrs.field(repr=False)
    features: Callable[[Site], Tensor] = attrs.field(repr=False)


Drafts = Mapping[Site, Weights | Tensor]
"""What ``predict_features`` returns: for each requested site its weights, or the forecast ``(R, ...)``."""
