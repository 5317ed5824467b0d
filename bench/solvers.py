"""Solvers: which numerical method steps a workload's noise away, and through which noise levels.

    dpmpp_2m                          DPM-Solver++ of second order, steps uniform in log-SNR
    unipc:spacing=karras              UniPC, Karras's spacing
    heun:spacing=own                  Heun's method through the noise levels of the workload's own scheduler
    dpmpp_2m:timesteps=999,900,700    through these
    dpmpp_2m:timesteps=grid.json      through those that foreseer plan --grid chose for that many steps

The steps are diffusers' own. The noise levels are chosen here, in one way for all, and given to the scheduler
together with the timesteps that belong to them.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.adapters.noise import is_flow
from foreseer.bench.fields import nearest, refuse_unknown
from foreseer.bench.spaced import spaced
from foreseer.bench.spacings import between
from foreseer.bench.workload import Workload
from foreseer.errors import OptionError
from foreseer.reading import Written
from foreseer.schedule_plan import SchedulePlan
from foreseer.spelling import read_spec

__all__ = ["KINDS", "SPACINGS", "Solver", "own_scheduler", "scheduler_for", "solved_by", "solver_from", "solvers_from"]

_MULTISTEP, _UNIPC = ("DPMSolverMultistepScheduler",) * 2, ("UniPCMultistepScheduler",) * 2
KINDS: dict[str, tuple[tuple[str, str], Mapping[str, Any]]] = {
    "euler": (_MULTISTEP, {"solver_order": 1}),
    "dpmpp_2m": (_MULTISTEP, {"solver_order": 2}),
    "dpmpp_3m": (_MULTISTEP, {"solver_order": 3}),
    "unipc": (_UNIPC, {"solver_order": 2}),
    "unipc_3": (_UNIPC, {"solver_order": 3}),
    "heun": (("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"), {}),
}
"""Solvers by name: diffusers' classes for variance-preserving noise and for flow matching, and their options.

``euler`` is DDIM (arXiv 2010.02502) where noise is variance preserving; ``dpmpp_*`` are DPM-Solver++ multistep
(arXiv 2211.01095) of second and third order, ``unipc`` is UniPC (arXiv 2302.04867) of second, ``unipc_3`` of
third order, ``heun`` Heun's method (arXiv 2206.00364), which evaluates the model twice in each step but the
last.
"""

SPACINGS = ("log_snr", "karras", "uniform", "own")
"""Noise levels, from the highest to the lowest of a run: ``log_snr``: uniform in the half logarithm of the
signal-to-noise ratio. ``karras``: uniform in the seventh root of noise over signal (arXiv 2206.00364, eq. 5).
``uniform``: in the timestep, shifted by ``shift`` where it is given. ``own``: those of the workload's scheduler.
"""

NOISIEST = 1.0 - 1e-6
"""The highest noise level of a flow that a multistep solver can begin at: at 1 its log-SNR is infinite."""
NOISY = re.compile(r"Ancestral|SDE|DDPM|LCM|TCD")
"""Schedulers that add noise in each step, by the names of their classes."""
SHIFTING = ("use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "shift", "shift_terminal", "time_shift_type")
"""What pipelines look up in a scheduler's configuration before they say how its levels are shifted."""
CLIPPED = 0.999
"""Between this level and `NOISIEST` a flow takes one step, whatever the spacing: its log-SNR has no
beginning.
"""


def _timesteps(value: Any) -> tuple[float, ...] | Written:
    if isinstance(value, str):
        return value if isinstance(value, Written) else Written(value, SchedulePlan.load(value))
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def solver_from(value: object) -> Solver | None:
    """Return a solver, or one from its text; None and an empty text are none. Raises `OptionError` and
    `PluginError`.
    """
    if isinstance(value, Solver):
        return value
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise OptionError(f"solver={value!r} is no solver; write one of {', '.join(KINDS)} as a text, such as 'dpmpp_2m' or 'unipc:spacing=karras'")
    return Solver.read(value)


def solvers_from(value: object) -> tuple[Solver, ...]:
    """Return solvers, each once, from one or several or their texts. Raises `OptionError` and `PluginError`."""
    given = value if isinstance(value, (list, tuple)) else [value]
    return tuple(dict.fromkeys(found for one in given if (found := solver_from(one))))


@attrs.frozen(kw_only=True)
class Solver:
    """A solver and its noise levels.

    Attributes:
        kind: One of `KINDS`.
        spacing: One of `SPACINGS`.
        shift: Of flow matching under uniform spacing: levels s become shift * s / (1 + (shift - 1) * s), so that
            more of them are noisy; 1 leaves them.
        timesteps: The timesteps to evaluate the model at, falling, in place of a spacing; of a flow 1000 times
            the noise level. Or a plan's file, read here and not again: those that it has for each number of
            steps. Empty for none.

    Raises:
        OptionError: A value is unknown, out of range, or does not go with the others.
    """

    kind: str
    spacing: str = "log_snr"
    shift: float = 1.0
    timesteps: tuple[float, ...] | Written = attrs.field(default=(), converter=_timesteps)

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"solver={self.kind!r} is unknown; {nearest(str(self.kind), KINDS)}write one of {', '.join(KINDS)}")
        if self.spacing not in SPACINGS:
            raise OptionError(f"spacing={self.spacing!r} is unknown; {nearest(str(self.spacing), SPACINGS)}write one of {', '.join(SPACINGS)}")
        if isinstance(self.shift, bool) or not isinstance(self.shift, (int, float)) or not 0.0 < self.shift <= 100.0:
            raise OptionError(f"shift={self.shift!r} is out of range; write a number in (0, 100], 1 for none")
        if self.shift != 1.0 and self.spacing != "uniform":
            raise OptionError(f"shift={self.shift:g} belongs to uniform spacing; write spacing=uniform,shift={self.shift:g}")
        if isinstance(self.timesteps, Written):
            self.timesteps.value.visited()
            return
        numbers = all(isinstance(t, (int, float)) and not isinstance(t, bool) and t >= 0 for t in self.timesteps)
        if not numbers or any(b >= a for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise OptionError(f"timesteps={list(self.timesteps)!r} do not fall; write numbers >= 0, noisiest first, such as timesteps=999,700,300,20")

    @classmethod
    def read(cls, text: str) -> Solver:
        """Read one as it is written on the command line. Raises `OptionError` and `PluginError`."""
        kind, options = read_spec(text)
        refuse_unknown(options, [name for name in attrs.fields_dict(cls) if name != "kind"], f"option of solver {kind!r}")
        return cls(kind=kind, **options)

    def __str__(self) -> str:
        fields = [field for field in attrs.fields(Solver)[1:] if (value := getattr(self, field.name)) != field.default and value]
        chosen = [f"{field.name}={_written(getattr(self, field.name))}" for field in fields]
        return f"{self.kind}:{','.join(chosen)}" if chosen else self.kind

    def fits(self, evaluations: int) -> bool:
        """Whether it can evaluate the model so many times: Heun's method an odd number of times only."""
        return (self.kind != "heun" or evaluations % 2 == 1) and (not self.timesteps or self.steps(evaluations) in self._counts)

    def advice(self, evaluations: int) -> str:
        """Say what to write in place of a number that does not fit."""
        return f"write {' or '.join(map(str, self._counts))}" if self.timesteps else f"write {evaluations - 1} or {evaluations + 1}"

    @property
    def _counts(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.timesteps.value.visits if isinstance(self.timesteps, Written) else (len(self.timesteps),)
        return found

    def steps(self, evaluations: int) -> int:
        """Return with how many steps it evaluates the model so many times."""
        return (evaluations + 1) // 2 if self.kind == "heun" else evaluations

    def instead_of(self, own: Any) -> Any:
        """Return a scheduler of diffusers to stand in the place of another, which is not changed.

        Raises:
            OptionError: The noise is neither variance preserving nor that of flow matching, it is counted the
                other way round, or the other adds noise in each step.
        """
        import diffusers

        flow, config = is_flow(own), own.config
        kind = type(own).__name__
        why = ""
        if not flow and getattr(own, "alphas_cumprod", None) is None:
            why = "whose noise levels are not known"
        elif config.get("invert_sigmas"):
            why = "which counts noise levels the other way round"
        elif NOISY.search(kind) or config.get("stochastic_sampling") or "sde" in str(config.get("algorithm_type", "")):
            why = "which adds noise in each step"
        if why:
            raise OptionError(f"solver={str(self)!r} cannot stand in the place of {kind}, {why}; leave the solver out")
        (preserving, matching), options = KINDS[self.kind]
        base: Any = getattr(diffusers, matching if flow else preserving)
        if flow:
            given = {"num_train_timesteps": own.config.get("num_train_timesteps", 1000)}
            if self.kind != "heun":
                # without use_flow_sigmas, for which pipelines look before they say their noise levels
                given |= {"prediction_type": "flow_prediction"}
        else:
            names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "rescale_betas_zero_snr")
            known = inspect.signature(base.__init__).parameters
            given = {name: own.config[name] for name in names if name in own.config and name in known}
        if self.kind != "heun":
            given["final_sigmas_type"] = "zero"
        found = base(**given, **options)
        # pipelines shift by what the configuration says
        found.register_to_config(**{name: config[name] for name in SHIFTING if name in config})
        found.__class__ = spaced(base, copy.deepcopy(own), self, flow=flow)  # some set timesteps while they are built
        return found

    def levels(self, own: NDArray[np.float64], *, table: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ``(n,)`` timesteps and noise levels of n steps, noisiest first.

        Args:
            own: ``(n,)`` timesteps of the scheduler in whose place this stands.
            table: ``(T,)`` noise over signal at each timestep of variance-preserving noise: levels are those of
                whole timesteps. None of a flow, whose timestep is 1000 times its level: the share of noise.
        """
        count = len(own)
        times = self.timesteps.value.visited_in(count).timesteps if isinstance(self.timesteps, Written) else self.timesteps
        if times and len(times) != count:
            raise OptionError(f"timesteps={_written(times)} are {len(times)}, and {count} steps were asked for; ask for {len(times)}")
        highest = 1000.0 if table is None else len(table) - 1
        if times and (max(times) > highest or (table is None and min(times) <= 0)):
            low = "> 0 and" if table is None else "from 0 and"
            raise OptionError(f"timesteps={_written(times)} are not all of this model's; write numbers {low} at most {highest:g}")
        if table is not None and self.shift != 1.0:
            raise OptionError(f"shift={self.shift:g} is for flow matching, and this model's noise is variance preserving; leave it out")
        if table is None:
            return self._of_flow(np.asarray(times or own) / 1000.0)
        given = np.asarray(times) if times else own if self.spacing == "own" else self._of_table(np.log(table), count)
        whole = np.clip(np.round(given), 0, len(table) - 1).astype(np.int64)
        for place in range(count - 1, -1, -1):  # each whole timestep once
            whole[place] = max(whole[place], whole[place + 1] + 1 if place + 1 < count else 0)
        if whole[0] >= len(table):
            raise OptionError(f"{count} steps are more than the {len(table)} timesteps of this model; ask for fewer")
        return whole.astype(np.float64), table[whole]

    def _of_table(self, logs: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        every = np.arange(len(logs), dtype=np.float64)
        if self.spacing == "uniform":
            return np.linspace(every[-1], 0.0, count)
        return np.interp(between(logs[-1], logs[0], count, karras=self.spacing == "karras"), logs, every)

    def _of_flow(self, own: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.timesteps or self.spacing == "own":
            levels = own
        elif self.spacing == "uniform":
            even = np.linspace(1.0, 1.0 / len(own), len(own))
            levels = self.shift * even / (1.0 + (self.shift - 1.0) * even)
        else:
            first, last = (math.log(level / (1.0 - level)) for level in (min(own[0], CLIPPED), min(own[-1], CLIPPED)))
            levels = 1.0 / (1.0 + np.exp(-between(first, last, len(own), karras=self.spacing == "karras")))
            levels[0] = own[0]
        return 1000.0 * levels, np.minimum(levels, NOISIEST)


def _written(value: Any) -> str:
    return ",".join(f"{part:.12g}" for part in value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def own_scheduler(workload: Workload) -> Any:
    """Return the scheduler that a workload steps with: its pipeline's, or in a loop of the caller's own that of
    the attribute ``scheduler``; None where there is none.
    """
    return getattr(workload if workload.pipeline is None else workload.pipeline, "scheduler", None)


def scheduler_for(workload: Workload, solver: Solver) -> Any:
    """Return a solver's scheduler for a workload.

    Raises:
        OptionError: The workload has no scheduler, or one that it cannot stand for.
    """
    own = own_scheduler(workload)
    if own is None:
        raise OptionError(
            f"solver={str(solver)!r} has no place in {workload.name!r}, which steps in a loop of its own; give it an attribute scheduler, which it steps with"
        )
    return solver.instead_of(own)


@contextmanager
def solved_by(workload: Workload, scheduler: Any) -> Iterator[None]:
    """Let another scheduler stand in the workload's; None lets its own."""
    holder: Any = workload if workload.pipeline is None else workload.pipeline
    own = getattr(holder, "scheduler", None)
    if scheduler is None:
        yield
        return
    holder.scheduler = scheduler
    try:
        yield
    finally:
        holder.scheduler = own
