"""A planned schedule as a JSON file: for each number of steps which to compute, and the predicted error."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import attrs

from foreseer.document import Document
from foreseer.errors import OptionError
from foreseer.psnr import BEST_PSNR
from foreseer.signature import Signature

__all__ = ["FILE", "Budget", "Grid", "SchedulePlan", "stretched"]

FILE = Document(
    format="foreseer plan 1",
    made_by="`foreseer plan`",
    again="plan again",
    earlier=lambda content: {**content.pop("plan", {}), **content},
)

Between = Literal["forecast", "not visited"]
Target = Literal["modules", "last_block", "residual", "residual_after_first", "output"]


def _whole_numbers(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


@attrs.frozen(kw_only=True)
class Budget:
    """The best schedule that computes so many steps.

    Attributes:
        steps: Indices of the computed steps, rising; the first is 0.
        error: Predicted distance of the final latent from that of full computation over its norm, both L2, of
            the recorded samples together, as ``SchedulePlan.objective`` says. 0 where every step is computed.
        psnr: The same in dB, for values between -1 and 1, as `foreseer.psnr.Likeness` has it; 100 where
            ``error`` is 0. None where the size of a latent is not known.
        uniform: Predicted error of the same number of steps spread evenly.
    """

    steps: tuple[int, ...] = attrs.field(converter=_whole_numbers)
    error: float
    psnr: float | None = None
    uniform: float = float("nan")

    def __attrs_post_init__(self) -> None:
        if self.psnr is None and self.error == 0:
            object.__setattr__(self, "psnr", BEST_PSNR)
        if not self.steps or self.steps[0] != 0 or any(b <= a for a, b in itertools.pairwise(self.steps)):
            raise OptionError(f"steps={list(self.steps)} is no schedule; write rising step indices that begin with 0, such as 0+1+4+9")


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


@attrs.frozen(kw_only=True)
class Grid:
    """Steps of a solver, noisiest first.

    Attributes:
        solver: Which, as on the command line, such as ``"dpmpp_2m"``.
        timesteps: ``(T,)`` as the scheduler has them.
        sigmas: ``(T,)`` noise levels as diffusers counts ``sigmas``: in flow matching the share of noise, behind
            every shift; else noise over signal.
        levels: ``(T,)`` noise over signal in either case.
    """

    solver: str
    timesteps: tuple[float, ...] = attrs.field(converter=_numbers, repr=False)
    sigmas: tuple[float, ...] = attrs.field(converter=_numbers, repr=False)
    levels: tuple[float, ...] = attrs.field(converter=_numbers, repr=False)

    def at(self, steps: Sequence[int]) -> Grid:
        """Return the grid of some of its steps."""
        timesteps, sigmas, levels = (tuple(values[step] for step in steps) for values in (self.timesteps, self.sigmas, self.levels))
        return Grid(solver=self.solver, timesteps=timesteps, sigmas=sigmas, levels=levels)


@attrs.frozen(kw_only=True)
class SchedulePlan:
    """Static schedules for one model, scheduler and number of steps.

    Attributes:
        signature: What was recorded.
        predictor: What forecasts the other steps, as on the command line: ``"taylor:max_order=1"``.
        target: What is forecast; the plan was made for errors at the recorded site, which ``site`` names.
        site: Where the forecast errors were recorded, such as ``"11.block"``.
        objective: How errors of single steps were added up: ``"gaps"``, ``"sum"`` or ``"squares"``, and over
            the samples ``"mean"`` or ``"worst"``.
        budgets: By number of computed steps.
        chosen: Which budget is run where nothing else is said.
        note: What a reader should know: that the predictor was truncated, that sensitivities were missing;
            empty for nothing.
        seed: Of the recorded noises; None where it is not known.
        samples: How many samples it was planned for; 0 where that is not known.
        grid: The T recorded steps, and the solver that is to step through them; None where they are not known.
        between: What becomes of the steps that are not computed: they are forecast, or never visited.
    """

    signature: Signature
    predictor: str = "taylor:max_order=1"
    target: Target = "modules"
    site: str = ""
    objective: str = ""
    budgets: Mapping[int, Budget]
    chosen: int
    note: str = ""
    seed: int | None = None
    samples: int = 0
    grid: Grid | None = None
    between: Between = "forecast"

    def __attrs_post_init__(self) -> None:
        if self.target not in get_args(Target):
            words = ", ".join(get_args(Target))
            raise OptionError(f"target={self.target!r} is unknown; write one of {words}")
        for number, budget in self.budgets.items():
            if number != len(budget.steps) or budget.steps[-1] >= self.num_steps:
                raise OptionError(f"budget {number} of a plan for {self.num_steps} steps has the steps {list(budget.steps)}: plan again")
        self.budget(self.chosen)

    def __str__(self) -> str:
        return f"plan({self.chosen} of {self.num_steps} steps)"

    @property
    def num_steps(self) -> int:
        """Steps of a run, T."""
        return self.signature.num_steps

    def budget(self, number: int | None = None) -> Budget:
        """Return the schedule that computes so many steps, else raise `OptionError`; None: the chosen one."""
        number = self.chosen if number is None else number
        if number not in self.budgets:
            known = sorted(self.budgets)
            close = min(known, key=lambda n: (abs(n - number), n), default=0)
            have = f"which has {known[0]} to {known[-1]}; write budget={close}" if known else "which is empty; plan again"
            raise OptionError(f"budget={number} is not in this plan, {have}")
        return self.budgets[number]

    @property
    def visits(self) -> tuple[int, ...]:
        """How many steps a run may have: T where others are forecast, else the number of a budget."""
        return (self.num_steps,) if self.between == "forecast" else tuple(self.budgets)

    def visited(self, number: int | None = None) -> Grid:
        """Return the steps that a run visits: all T where the others are forecast, else those of a budget.

        Args:
            number: The budget's; None for the chosen one.

        Raises:
            OptionError: There is no such budget, or the steps are not known.
        """
        steps = self.budget(number).steps
        if self.grid is None:
            raise OptionError("the steps of this plan are not known; record with --solver, and plan again")
        return self.grid if self.between == "forecast" else self.grid.at(steps)

    def visited_in(self, count: int) -> Grid:
        """Return the steps of a run that has so many, else raise `OptionError`."""
        if count not in self.visits:
            raise OptionError(f"this plan has no run of {count} steps; ask for {' or '.join(map(str, self.visits))}")
        return self.visited(None if self.between == "forecast" else count)

    def cheapest(self, error: float) -> int:
        """Return the smallest budget with at most this predicted error. Else raises `OptionError`."""
        if not 0 <= error < float("inf"):
            raise OptionError(f"target_error={error:g} is out of range; write a number >= 0, relative to the final latent's norm, such as 0.02")
        found = [number for number, budget in sorted(self.budgets.items()) if budget.error <= error]
        if not found:
            best = min(budget.error for budget in self.budgets.values())
            raise OptionError(f"target_error={error:g} is below what this plan reaches, {best:.3g}; write a larger one, or plan more steps")
        return found[0]

    def save(self, path: Path | str) -> Path:
        """Write the file, whole or not at all. Returns its path."""
        return FILE.save(path, self)

    @classmethod
    def load(cls, path: Path | str) -> SchedulePlan:
        """Read a file. Raises `OptionError`, as `foreseer.document.Document.load`."""
        return FILE.load(path, cls)


def stretched(steps: Sequence[int], before: int, after: int) -> tuple[int, ...]:
    """Map a schedule for ``before`` steps to one for ``after`` steps: the same shares of the run, as many
    steps (or all, where there are fewer), the first first, none twice.

    >>> stretched((0, 1, 4, 9), 10, 20)
    (0, 2, 8, 19)
    >>> stretched((0, 1, 2, 9), 10, 5)
    (0, 1, 2, 4)
    """
    count = min(len(steps), after)
    scale = (after - 1) / max(before - 1, 1)
    found: list[int] = []
    for place, step in enumerate(steps[:count]):
        earliest = found[-1] + 1 if found else 0
        found.append(min(max(round(step * scale), earliest), after - (count - place)))
    return tuple(found)
