"""What `foreseer explain` found of one sample, as data and in words."""

from __future__ import annotations

import base64
import html
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from torch import Tensor

from foreseer.document import plain
from foreseer.errors import MissingPackageError
from foreseer.psnr import decibels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Caught", "Explained", "Likeness", "Replaced", "StepAccount"]

MOST = 3.0
"""From how many decibels on, that is three tenths of the error, one forecast is said to have done it."""


@attrs.frozen(kw_only=True)
class Likeness:
    """How near a draw of the sample is to full computation of it.

    Attributes:
        psnr: Of the decoded sample, dB; infinite where it is the same, NaN where it is not finite.
        error: L2 distance of what is drawn over the norm of what full computation draws: final latents, or
            pictures where a pipeline returns those.
        computed: Steps that were computed; streams are averaged.
    """

    psnr: float
    error: float
    computed: float

    @property
    def words(self) -> str:
        """The PSNR as it is said."""
        return "not finite" if math.isnan(self.psnr) else "exact" if math.isinf(self.psnr) else f"{self.psnr:.1f} dB"


@attrs.frozen(kw_only=True)
class StepAccount:
    """What became of one step of the sampling, in all of its streams.

    Attributes:
        step: Its index, from 0.
        fate: ``"computed"``, ``"rejected"`` (and computed), ``"accepted"`` by a gate, or ``"forecast"``
            unseen. Where streams differ, the last of these that any of them had.
        reason: Why, as the report says it; of the stream whose fate it is.
        error: What the gate judged by, the largest of the rows; NaN where nothing was judged.
        threshold: What that was held against; NaN likewise.
        behind: The computed step before it: the newest that a forecast was made from; -1 for none.
        off: How wrong the denoiser's output was: L2 distance from what computing gives on the same input,
            over its norm; 0 where it was computed.
        drift: How far the latent that arrived at this step was from that of full computation, over its norm,
            both L2; NaN where it is not known.
    """

    step: int
    fate: str
    reason: str
    error: float
    threshold: float
    behind: int
    off: float
    drift: float

    @property
    def forecast(self) -> bool:
        """Whether the run went on with a forecast."""
        return self.fate in ("accepted", "forecast")


@attrs.frozen(kw_only=True)
class Replaced:
    """The sample drawn again, with the outputs of some steps computed in the place of their forecasts.

    Attributes:
        steps: Which: one, or a run of forecasts from one computed step to the next.
        likeness: What the sample then comes to.
    """

    steps: tuple[int, ...]
    likeness: Likeness

    @property
    def words(self) -> str:
        """The steps as they are said."""
        return f"step {self.steps[0]}" if len(self.steps) == 1 else f"steps {self.steps[0]} to {self.steps[-1]}"


@attrs.frozen(kw_only=True)
class Caught:
    """A stricter setting of the policy, drawn.

    Attributes:
        policy: As one would write it on the command line.
        likeness: What the sample then comes to.
        off: How wrong the output of the step in question is under it, as `StepAccount.off`: 0 where it is
            computed.
        behind: The computed step that it is forecast from; -1 where it is computed.
        caught: Whether it computes the step, or is at most half as wrong there: a policy that computes more
            steps before it forecasts it from a newer one.
    """

    policy: str
    likeness: Likeness
    off: float
    behind: int
    caught: bool


@attrs.frozen(eq=False, kw_only=True)
class Explained:
    """What was found.

    Attributes:
        policy: As one would write it on the command line.
        workload, sample, asked: What was drawn, and what it is asked to be, in words.
        num_steps: Steps of the sampling.
        likeness: What the policy came to.
        steps: ``(T,)`` what became of each step.
        runs: What runs of forecasts did, in the order of the steps.
        replaced: What single forecasts of the worst run did, likewise; empty where that is of one step.
        stricter: The settings that were tried, in order, up to the first that catches the worst step.
        no_stricter: Why none was tried, as a sentence; empty where one was, or where no step is blamed.
        images: ``(C, H, W)`` each, or ``(F, C, H, W)`` of a video, in about [-1, 1]: ``"full"``,
            ``"policy"``, ``"replaced"`` (the worst run) and ``"stricter"``, as far as they were drawn.
        warnings: What the report of the run warned of.
    """

    policy: str
    workload: str
    sample: int
    asked: str
    num_steps: int
    likeness: Likeness
    steps: tuple[StepAccount, ...]
    runs: tuple[Replaced, ...]
    replaced: tuple[Replaced, ...]
    stricter: tuple[Caught, ...]
    images: Mapping[str, Tensor] = attrs.field(repr=False)
    warnings: tuple[str, ...] = ()
    no_stricter: str = ""

    @property
    def worst_run(self) -> Replaced | None:
        """The run of forecasts that did most of the damage, of those that were replaced; None where none was."""
        return min(self.runs, key=_harm, default=None)

    @property
    def worst(self) -> StepAccount | None:
        """The step of it that did; None likewise."""
        run = self.worst_run
        if run is None:
            return None
        return self.steps[min(self.replaced, key=_harm, default=run).steps[0]]

    @property
    def caught(self) -> Caught | None:
        """The stricter setting that catches that step; None where none of those that were tried does."""
        return next((tried for tried in self.stricter if tried.caught), None)

    def gain(self, one: Replaced) -> float:
        """Return how many dB nearer the sample comes where steps are computed in their forecasts' place; less
        than 0 where it moves away, infinite where nothing is left of the error.
        """
        was, own = self.likeness.error, one.likeness.error
        if math.isnan(was) or math.isnan(own):  # not finite: all comes back, or nothing
            return math.inf if math.isnan(was) and not math.isnan(own) else 0.0
        if own == 0:
            return math.inf
        before, after = decibels(np.square([was, own]))
        return float(after - before)

    def sentences(self) -> list[str]:
        """Say what was found, one sentence or two for each question: what was lost, where, why it was let
        pass, and what catches it.
        """
        asked = textwrap.shorten(self.asked, 60, placeholder=" ...")
        head = f"{self.policy} computes {_short(self.likeness.computed)} of {self.num_steps} steps of sample {self.sample} ({asked}) of {self.workload}"
        if self.likeness.error == 0:
            return [f"{head}, and draws what full computation draws: nothing broke."]
        off = "" if math.isnan(self.likeness.error) else f" to full computation, {_percent(self.likeness.error)} off"
        said = [f"{head}: {self.likeness.words}{off}."]
        run, worst = self.worst_run, self.worst
        if run is None or worst is None:
            return [*said, "No step was forecast: what differs does not come from a forecast."]
        return [*said, self._damage(run), self._inside(run, worst), self._let_pass(worst), self._catching(worst), self._rest(run)]

    def _gained(self, one: Replaced) -> str:
        gain = self.gain(one)
        return "" if math.isinf(gain) else f" ({gain:+.1f} dB)"

    def _damage(self, run: Replaced) -> str:
        behind, tried = {step.behind for step in self.steps if step.forecast}, len(self.runs)
        among = "the one run of forecasts" if len(behind) == 1 else f"the {len(behind)} runs of forecasts"
        among += f" ({tried} were tried)" if tried < len(behind) else ""
        outputs = "output" if len(run.steps) == 1 else "outputs"
        given = f"{outputs} computed and all else as it was, {run.likeness.words}{self._gained(run)}"
        if self.gain(run) < MOST:
            return f"No single run of forecasts did it. Of {among} {run.words} {'give' if len(run.steps) > 1 else 'gives'} back most: with their {given}."
        if len(run.steps) == 1:
            return f"The forecast of {run.words} did the damage, of {among}: with its {given}."
        return f"The forecasts of {run.words} did the damage, of {among}: with their {given}."

    def _inside(self, run: Replaced, worst: StepAccount) -> str:
        truth = f"utput was {_percent(worst.off)} off what computing gives there, on a latent that was {_percent(worst.drift)} off already."
        if not self.replaced:
            return f"Its o{truth}"
        alone = next(one for one in self.replaced if one.steps[0] == worst.step)
        return f"Of these step {worst.step} alone gives back most: {alone.likeness.words}{self._gained(alone)}. Its o{truth}"

    def _let_pass(self, worst: StepAccount) -> str:
        where = f"forecast no. {worst.step - worst.behind} in a row, behind step {worst.behind}"
        if math.isnan(worst.error):
            why = f" ({worst.reason.partition(': ')[2]})" if ": " in worst.reason else ""
            return f"No gate looked at it: it was {where}{why}."
        said = f"Its gate saw an error of {worst.error:.3g} at a threshold of {worst.threshold:.3g} and let it pass: {where}."
        others = [step for step in self.steps if step.fate == "accepted" and step.step != worst.step]
        refused = sum(step.error * worst.threshold >= worst.error * step.threshold for step in others)
        return f"{said} A threshold below {worst.error:.3g} refuses it, and {refused} of the {len(others)} others that it accepted, as they were."

    def _catching(self, worst: StepAccount) -> str:
        found = self.caught
        if found is not None:
            does = f"forecasts step {worst.step} from step {found.behind}, {_percent(found.off)} off" if found.off else f"computes step {worst.step}"
            return f"{found.policy} {does}: {_short(found.likeness.computed)} steps, {found.likeness.words}."
        if not self.stricter:
            return self.no_stricter
        tried = self.stricter[-1]
        return f"None of {len(self.stricter)} stricter settings catches it; the last, {tried.policy}, is {_percent(tried.off)} off there."

    def _rest(self, run: Replaced) -> str:
        others = sorted((one for one in self.runs if one is not run), key=self.gain, reverse=True)[:3]
        listed = ", ".join(f"{one.words}{self._gained(one)}" for one in others)
        return f"Next: {listed}." if listed else ""

    def __str__(self) -> str:
        return "\n".join(filter(None, self.sentences()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; numbers that are not finite become None, infinity text."""
        names = [field.name for field in attrs.fields(Explained) if field.name != "images"]
        found: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        worst = self.worst
        gains = {one.words: plain(self.gain(one)) for one in (*self.runs, *self.replaced)} if self.likeness.error else {}
        return {**found, "worst_step": None if worst is None else worst.step, "gains_db": gains, "sentences": self.sentences()}

    def plot(self, path: str | Path | None = None) -> Path | Figure:
        """Draw it: the images, what became of each step, how wrong its forecast was, how the latent drifted,
        and what replaced steps give back.

        Args:
            path: Where to write; the ending chooses the format. None writes nothing.

        Returns:
            The path; without one the ``matplotlib.figure.Figure``, which a notebook shows.

        Raises:
            MissingPackageError: Without matplotlib (``pip install 'foreseer[plots]'``).
            OptionError: The path has no ending.
        """
        from foreseer.workbench.explain_picture import draw, figure

        return figure(self) if path is None else draw(self, Path(path))

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture above the words."""
        from foreseer.workbench.explain_picture import png

        words = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences() if sentence)
        try:
            picture = base64.b64encode(png(self)).decode()
        except MissingPackageError:
            return words
        return f'<img alt="What became of each step" style="max-width: 100%" src="data:image/png;base64,{picture}">{words}'


def _harm(one: Replaced) -> tuple[bool, float]:
    """What is left of the error; what is not finite is worse than anything."""
    return math.isnan(one.likeness.error), one.likeness.error


def _percent(value: float) -> str:
    return "an unknown part" if math.isnan(value) else f"{100 * value:.3g} %"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
