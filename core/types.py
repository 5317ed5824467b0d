"""The values that pass between a host, the engine and the plugins.

All of them are frozen. `R` is the number of rows (batch entries) of a denoiser call, `T` the number of steps
of a run, `L` the number of blocks, `K` the number of anchors kept per row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.declared import refuse_schedule, refuse_shape
from foreseer.evidence import Evidence, Probe, Verdict
from foreseer.site import LATENT, MODULATED, OUTPUT, PLACES, STREAM, TIME, Site

__all__ = [
    "LATENT",
    "MODULATED",
    "OUTPUT",
    "PLACES",
    "STREAM",
    "TIME",
    "Drafts",
    "Evidence",
    "History",
    "Late",
    "Live",
    "Needs",
    "Plan",
    "Probe",
    "Run",
    "Site",
    "Step",
    "Verdict",
    "Weights",
]


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
        sigmas: ``(T,)`` noise levels as the scheduler or loop counts them, or None: the share of noise in
            flow matching, sigma / alpha in others.
        log_snr: ``(T,)`` lambda = log(alpha / sigma), half the log-SNR of an evaluation's input alpha x +
            sigma n; -inf where that is noise alone. None where nobody said.
        sites: Every site that the host can record and forecast, in execution order. Residuals between them
            are not listed.
        places: The places in front of block 0 that can be looked at here, of `foreseer.types.PLACES`. With
            `STREAM` among them the host has residuals.
        stream: Which of several calls per step this run follows (``"cond"``); empty where there is one.
        model: Class of the model and hash of its configuration; empty where the host does not say.
        scheduler: Which scheduler steps it, likewise; empty for a loop of the caller's own.
        start: Steps of the sampling that were over when this run began: 0, but for a stream that is first
            called later, or that begins anew. Number of steps, timesteps and noise levels are from there on.
        latent: Shape of one row of what the model is given to denoise, and its dtype, as ``"16x128x128
            bfloat16"``; empty where the host does not say.
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
    places: tuple[Site, ...] = ()
    latent: str = ""
    log_snr: tuple[float, ...] | None = None

    def __attrs_post_init__(self) -> None:
        refuse_shape(self.depth, self.rows, self.groups, self.start)
        refuse_schedule(self.num_steps, self.timesteps, self.sigmas, self.log_snr)

    def step(self, index: int, timestep: float | None = None, sigma: float | None = None) -> Step:
        """Return one of its steps, with its timestep and noise level where they are known and not given."""
        times, sigmas = self.timesteps or (), self.sigmas or ()
        time = times[index] if timestep is None and index < len(times) else timestep
        level = sigmas[index] if sigma is None and index < len(sigmas) else sigma
        return Step(index, time, level)

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
        return attrs.evolve(self, start=0, num_steps=steps, timesteps=None, sigmas=None, log_snr=None)

    def starting_at(self, step: int) -> Run:
        """Return the run that is left from one of its steps on."""
        left = None if self.num_steps is None else max(self.num_steps - step, 1)
        times, sigmas, log_snr = (None if values is None else values[step:] for values in (self.timesteps, self.sigmas, self.log_snr))
        return attrs.evolve(self, num_steps=left, timesteps=times, sigmas=sigmas, log_snr=log_snr, start=self.start + step)


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
        evidence: Places to keep what was last seen at, for `Evidence.before` and `Evidence.anchor`: block
            outputs, residuals, or places in front of block 0. In a pass that skips one it is not seen.
        products: Whether to be told, at each computed step, the inner products of what is kept at each
            recorded site: see `Outcome.products`.
    """

    sites: tuple[Site, ...] = ()
    anchors: int | Mapping[Site, int] = 1
    note: str | tuple[str, ...] = ""
    evidence: tuple[Site, ...] = ()
    products: bool = False

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
        most = max((needs.most for needs in several), default=1)
        anchors = {site: max(needs.at(site) for needs in several) for site in sites} if sites else most
        seen = tuple(dict.fromkeys(site for needs in several for site in needs.evidence))
        return cls(sites, anchors, notes, seen, any(needs.products for needs in several))


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


@functools.lru_cache(maxsize=64)
def _steps_of(anchors: bytes, shape: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """Each row's anchors, as many as there are; one row's where all have the same, as rows computed together."""
    rows = [tuple([a for a in row if a == a]) for row in np.ndarray(shape, np.float64, anchors).tolist()]  # NaN differs from itself
    return tuple(rows[:1] if all(row == rows[0] for row in rows) else rows)


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
            function: ``(anchors, target) -> weights``: of the step indices of the row's anchors, newest
                first, as many as there are, at most as many weights (the rest are 0).
            anchors: ``(R, K)`` step indices, newest first, NaN where a row has fewer.
            target: The step index to forecast.
        """
        values, rows = np.zeros(anchors.shape), _steps_of(np.asarray(anchors, np.float64).tobytes(), anchors.shape)
        for row, own in enumerate(rows):
            weights = function(own, target)
            values[slice(None) if len(rows) == 1 else row, : len(weights)] = weights
        return cls(values)


@attrs.frozen(eq=False)
class History:
    """What a predictor may look at: each row's anchors, and recorded features for the few that need them.

    Attributes:
        anchors: ``(R, K)`` float64 step indices of the rows' computed steps, newest first, NaN where a row
            has fewer.
        features: ``site -> (K, R, ...)`` recorded features, newest first, zero where a row has fewer. Builds
            a copy: a linear predictor should return `Weights` instead. Never write to it. Where a block
            returns several tensors (text and image), its feature is one row of numbers, ``(K, R, n)``: each
            tensor flattened, laid end to end in the block's own order.
    """

    anchors: NDArray[np.float64] = attrs.field(repr=False)
    features: Callable[[Site], Tensor] = attrs.field(repr=False)


@attrs.frozen(eq=False)
class Live:
    """What is known where a late draft is formed. All tensors hold the rows of this pass; never write to them.

    Attributes:
        step: The step.
        input: ``(R, ...)`` what the site is given now: the stream that a residual is added to, or a block or
            a module part would transform; `LATENT` for the output. None where the host cannot say.
        evidence: Of this step's probe, once it was judged; None before, or without one.
        features: ``site -> (R, ...)`` of the recorded sites, those that were computed on the way here, up to
            a probe on the input; as `History.features` has them, all streams of them.
    """

    step: Step
    input: Tensor | None = attrs.field(repr=False)
    evidence: Evidence | None = attrs.field(repr=False)
    features: Mapping[Site, Tensor] = attrs.field(factory=dict, repr=False)


@attrs.frozen(eq=False)
class Late:
    """A draft that waits until its site is reached (DiCache's weights depend on this step's probe).

    Attributes:
        form: ``live -> draft``: called once a step, when the site is reached. A row's draft may depend on its
            own row alone; do not synchronise.
    """

    form: Callable[[Live], Weights | Tensor] = attrs.field(repr=False)


Drafts = Mapping[Site, Weights | Tensor | Late]
"""What ``predict_features`` returns: for each requested site its weights, the forecast ``(R, ...)``, or what
forms one of them when the site is reached."""
