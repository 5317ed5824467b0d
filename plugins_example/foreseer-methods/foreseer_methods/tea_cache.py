"""TeaCache (arXiv 2411.19108): reuse what the blocks added while a signal in front of them has not moved far.

The signal is known before any block runs: block 0's modulated input, or the time embedding. Its relative
change from one step to the next goes through a polynomial, fitted per model, that turns it into the change of
what comes out; these are added up.

What follows from the rule, and is easily got wrong:

- *Distances are between neighbours.* The sum of the steps' distances is compared, never the distance to the
  step that was computed last.
- *The polynomial is not clamped.* It may be negative: then the sum falls, and the report shows errors below
  0. It may also be far above any threshold.
- *A time embedding knows no sample.* With ``signal="time"`` all rows move alike, and model, timesteps and
  threshold fix the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Annotated, Literal

import attrs
import torch
from torch import Tensor

from foreseer import LATENT, MODULATED, TIME, Evidence, Needs, OptionError, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.policies import predictor_from, taylor
from foreseer_methods.gathering_gate import GatheringGate

__all__ = ["FITTED", "Fitted", "SignalGate", "evaluate", "tea_cache"]

Signal = Literal["modulated", "time", "latent"]
PLACE = {"modulated": MODULATED, "time": TIME, "latent": LATENT}


@attrs.frozen
class Fitted:
    """What was published for a model.

    Attributes:
        signal: What its polynomial was fitted on.
        coefficients: Of the polynomial, highest power first.
        first: Steps computed at the start; below 1, their share of all steps.
        last: Whether the last step is computed.
    """

    signal: Signal
    coefficients: tuple[float, ...]
    first: float = 1
    last: bool = True


FITTED = {
    "flux": Fitted("modulated", (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)),
    "tangoflux": Fitted("modulated", (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)),
    "hunyuan_video": Fitted("modulated", (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896)),
    "ltx_video": Fitted("modulated", (21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326)),
    "mochi": Fitted("modulated", (-3512.41319, 811.675948, -60.9400215, 2.42429681, 0.00305291719)),
    "lumina": Fitted("modulated", (393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344)),
    "lumina2": Fitted("modulated", (225.7042, -608.8453717, 304.1869942, 124.2126772, -1.4089067)),
    "cosmos": Fitted("modulated", (271.156237, -91.9775607, 2.2443725, 2.08355751, 0.14177633)),
    "open_sora": Fitted("modulated", (217.546007, -118.329252, 26.8662585, -0.0459364272, 0.048442624)),
    "latte": Fitted("modulated", (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402)),
    "open_sora_plan": Fitted("modulated", (205943.668, -14875.9286, 306.085986, 1.31418080, 0.00239658469)),
    "cogvideox_2b": Fitted("time", (-31.0658903, 25.4732368, -5.9238046, 1.75769064, -0.00361568434)),
    "cogvideox_5b": Fitted("time", (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339)),
    "cogvideox_1.5_5b": Fitted("time", (250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703)),
    "cogvideox_1.5_5b_i2v": Fitted("time", (122.842302, -104.088754, 26.2981677, -0.306009921, 0.0371213220)),
    "hidream": Fitted("time", (-31360.5009, -712.425503, 49.1363285, 8.2651549, 0.108053901), 0.1, last=False),
    # Wan 2.1, "ret" mode: the six-fold projection, which is what block 0 is given.
    "wan_t2v_1.3b_ret": Fitted("time", (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664), 5, last=False),
    "wan_t2v_14b_ret": Fitted("time", (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525), 5, last=False),
    "wan_i2v_480p_ret": Fitted("time", (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977), 5, last=False),
    "wan_i2v_720p_ret": Fitted("time", (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401), 5, last=False),
    # Wan 2.1, standard mode: the embedding in front of that projection.
    "wan_t2v_1.3b": Fitted("time", (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774)),
    "wan_t2v_14b": Fitted("time", (-5784.54975, 5449.50912, -1811.165918, 256.271784, -13.02252404)),
    "wan_i2v_480p": Fitted("time", (-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289)),
    "wan_i2v_720p": Fitted("time", (-114.363465, 65.265245, -18.822207, 4.915181, -0.234127)),
}
"""By model: what the authors fitted (released code, ali-vilab/TeaCache)."""


def evaluate(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Return the polynomial at each entry of ``x``, by Horner's rule; coefficients highest power first.

    >>> evaluate((1.0, 0.0, 2.0), torch.tensor([3.0]))
    tensor([11.])
    """
    total = torch.zeros_like(x)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


@attrs.define(eq=False)
class SignalGate(GatheringGate):
    """Gate: forecast what all blocks add while the rescaled changes of a signal, summed, stay below
    ``threshold``.

    Attributes:
        signal: What is looked at, in every step and before any block runs.
        coefficients: Of the polynomial, highest power first.
        first: Steps computed at the start; below 1, their share of all steps, rounded down.
        last: Whether the last step is computed.
    """

    signal: Signal
    coefficients: tuple[float, ...]
    first: float
    last: bool
    _stack: Site = attrs.field(default=Site(0), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record the residual of the whole stack, and keep what was seen of the signal."""
        first = int(self.first)
        if self.first < 1:
            if run.num_steps is None:
                raise OptionError("tea_cache computes a share of the steps first and must know how many there are: give the run timesteps= or num_steps=")
            first = int(self.first * run.num_steps)
        if PLACE[self.signal] not in run.places:
            there = ", ".join(repr(name) for name, place in PLACE.items() if place in run.places) or "none of its signals"
            raise OptionError(f"tea_cache: signal={self.signal!r} cannot be seen in front of this model's blocks; it has {there}")
        self.begin(run, first=first, last=int(self.last), name="tea_cache")
        self._stack = Site(run.depth - 1, since=-1)
        return Needs(sites=(self._stack,), evidence=(PLACE[self.signal],))

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Look at the signal, except where the step is computed anyway."""
        return self.computed(step) or Plan(forecast=(self._stack,), probe=Probe(PLACE[self.signal]))

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """P(sum|s_k - s_k-1| / sum|s_k-1|) is added."""
        return self.judge(evaluate(self.coefficients, evidence.error(relative_l1, groups=self._groups, against="before")))


@cites(
    """@inproceedings{liu2025teacache,
  title={Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model},
  author={Liu, Feng and Zhang, Shiwei and Wang, Xiaofeng and Wei, Yujie and Qiu, Haonan and Zhao, Yuzhong and Zhang,
  Yingya and Ye, Qixiang and Wan, Fang},
  booktitle={CVPR}, year={2025}, note={arXiv:2411.19108}}"""
)
@checked
def tea_cache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.2,
    poly: str | Sequence[float] | None = None,
    signal: Signal | None = None,
    warmup_steps: Annotated[int | None, at_least(1)] = None,
    last_step: bool | None = None,
    decide: Literal["row", "batch"] = "row",
) -> tuple[SignalGate, object]:
    """Reuse what all blocks added while a signal in front of them moves little (TeaCache, arXiv 2411.19108).

    As released, but for ``decide``. The authors' thresholds belong to a model's polynomial: 0.25 to 0.8 on
    FLUX, 0.05 to 0.1 on Wan 1.3B. The default is ours, for no polynomial.

    Args:
        threshold: Reuse while the sum of rescaled changes is below it. 0 computes everything where the
            polynomial is not negative.
        poly: What rescales a relative change: coefficients, highest power first; or the model whose published
            ones to take, one of `FITTED`; or None for the change itself (ours). Fits are often poor: see
            `foreseer_methods.tea_cache_calibration`.
        signal: ``"modulated"``: block 0's modulated input. ``"time"``: the time embedding that block 0 is
            given. ``"latent"`` (ours): the denoiser's input. None takes what the named model's polynomial was
            fitted on, else ``"modulated"``. Wan's standard mode was fitted on the embedding in front of the
            projection that block 0 is given: rather take a model's ``_ret``.
        warmup_steps: Computed steps at the start; None takes those of the named model, else 1.
        last_step: Whether the last step is computed; the run must then know its number of steps. None takes
            what the named model does, else True.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over all rows, as
            released.

    Raises:
        OptionError: No such model is known, or ``poly`` holds something else than finite numbers. In
            ``setup``, where the model does not show the signal, or the number of steps is missing.
    """
    if isinstance(poly, str):
        if poly not in FITTED:
            raise OptionError(f"tea_cache: poly={poly!r} is no known model; write coefficients, highest power first, or one of {', '.join(FITTED)}")
        fitted = FITTED[poly]
    else:
        given = (1.0, 0.0) if poly is None else tuple(poly) if isinstance(poly, Sequence) else ()
        numbers = tuple(float(c) for c in given if isinstance(c, Real) and math.isfinite(c))
        if not numbers or len(numbers) < len(given):
            raise OptionError(f"tea_cache: poly={poly!r} is no polynomial; write its coefficients, highest power first, such as (1.0, 0.0), or a model's name")
        fitted = Fitted("modulated", numbers)
    gate = SignalGate(
        threshold,
        decide,
        signal or fitted.signal,
        fitted.coefficients,
        fitted.first if warmup_steps is None else warmup_steps,
        fitted.last if last_step is None else last_step,
    )
    return gate, predictor_from(taylor, max_order=0)
