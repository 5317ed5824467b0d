"""The picture of `foreseer explain`: what was drawn, what became of each step, and what each forecast did."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.report_pictures import AMPLIFY, difference_of, pixels_of
from foreseer.errors import MissingPackageError, OptionError
from foreseer.files import write_whole
from foreseer.timeline import FATES as TIMELINE
from foreseer.timeline import INK, STYLE
from foreseer.workbench.explained import Explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "figure", "png"]

COLORS = dict(zip(("computed", "rejected", "accepted", "forecast"), (color for _, color in TIMELINE), strict=True))
"""As in the timeline of a report, but that a forecast that nobody looked at is to be seen on white."""
COLORS["forecast"] = "#b9c0c6"
NAMES = dict(zip(COLORS, (name for name, _ in TIMELINE), strict=True))
WIDE = 20
"""From which ratio on errors stand on a logarithmic axis."""
WORST, GIVEN = "#d55e00", "#0072b2"


def draw(found: Explained, path: Path) -> Path:
    """Write the `figure`, and return ``path``, whose ending chooses the format.

    Raises:
        MissingPackageError: Without matplotlib.
        OptionError: The path has no ending.
    """
    drawn = figure(found)
    if not path.suffix:
        raise OptionError(f"{path} has no ending to choose the format by; write {path}.pdf, {path}.svg or {path}.png")
    write_whole(path, lambda part: _save(drawn, part, format=path.suffix[1:]))
    return path


def png(found: Explained) -> bytes:
    """Return the `figure` as a PNG."""
    stream = io.BytesIO()
    _save(figure(found), stream, format="png")
    return stream.getvalue()


def _save(drawn: Figure, where: Any, **how: Any) -> None:
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        drawn.savefig(where, **how)


def figure(found: Explained) -> Figure:
    """Draw it: see `Explained.plot`.

    Raises:
        MissingPackageError: Without matplotlib.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("drawing needs matplotlib: pip install 'foreseer[plots]'") from error
    with matplotlib.style.context(["default", STYLE]):
        drawn = Figure(figsize=(8.6, 7.8), dpi=160, layout="constrained")
        parts: Any = drawn.subfigures(2, 1, height_ratios=[2.45, 5.35])
        above, below = parts
        _draw_images(found, above)
        axes = below.subplots(4, 1, sharex=True, height_ratios=[0.35, 1.3, 1.1, 1.5])
        _draw_fates(found, axes[0])
        _draw_errors(found, axes[1])
        _draw_drift(found, axes[2])
        _draw_gains(found, axes[3])
        axes[3].set_xlim(-0.5, found.num_steps + 0.2)
        axes[3].set_xlabel("step")
        lines = [line for sentence in found.sentences()[:2] for line in textwrap.wrap(sentence, 128)]
        drawn.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left", parse_math=False)
    return drawn


def _draw_images(found: Explained, figure: Any) -> None:
    worst, caught = found.worst_run, found.caught
    full, own = _frame(found, "full"), _frame(found, "policy")
    shown = [("full computation", pixels_of(full)), (f"with the policy\n{found.likeness.words}", pixels_of(own))]
    shown.append((f"difference, x{AMPLIFY:g}", difference_of(own, full)))
    if worst is not None and "replaced" in found.images:
        shown.append((f"{worst.words} computed\n{worst.likeness.words}", pixels_of(_frame(found, "replaced"))))
    if caught is not None and "stricter" in found.images:
        shown.append((f"{_changed(found.policy, caught.policy)}\n{caught.likeness.words}", pixels_of(_frame(found, "stricter"))))
    for axes, (title, image) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()


def _frame(found: Explained, name: str) -> NDArray[np.float32]:
    """``(C, H, W)`` of an image; of a video the frame in which the policy is furthest off."""
    image = found.images[name]
    if image.ndim == 4:
        apart = (found.images["policy"].float() - found.images["full"].float()).nan_to_num().flatten(1).norm(dim=1)
        image = image[int(apart.argmax())]
    return np.asarray(image.float().numpy(), dtype=np.float32)


def _changed(was: str, now: str) -> str:
    """What is other in a policy's text: its last options."""
    return next((part for part in now.partition(":")[2].split(",") if part not in was.partition(":")[2].split(",")), now)


def _draw_fates(found: Explained, axes: Any) -> None:
    for name, color in COLORS.items():
        at = [step.step for step in found.steps if step.fate == name]
        if at:
            axes.bar(at, 1, width=1, color=color, edgecolor="white", linewidth=0.6, label=NAMES[name])
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=4, frameon=False, borderpad=0, handlelength=1)


def _draw_errors(found: Explained, axes: Any) -> None:
    forecast = [step for step in found.steps if step.forecast]
    axes.vlines([s.step for s in forecast], 0, [100 * s.off for s in forecast], color=COLORS["forecast"], linewidth=1)
    axes.scatter([s.step for s in forecast], [100 * s.off for s in forecast], s=12, color=GIVEN, zorder=3, label="true error of the output")
    judged = [step for step in found.steps if math.isfinite(step.error)]
    axes.set_ylabel("error, %")
    seen = [100 * value for step in found.steps for value in (step.off, step.error, step.threshold) if 0 < value < math.inf]
    if seen and max(seen) > WIDE * min(seen):
        axes.set_yscale("log")
        axes.set_ylim(min(seen) / 2, max(seen) * 8)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(bottom=0)
    if judged:
        axes.scatter([s.step for s in judged], [100 * s.error for s in judged], s=14, marker="x", linewidths=1, color=INK, label="what the gate saw")
        for number, step in enumerate(judged):
            label = "its threshold" if number == 0 else None
            axes.plot([step.step - 0.5, step.step + 0.5], [100 * step.threshold] * 2, color=INK, linewidth=1, label=label)
    _mark(found, axes)
    axes.legend(loc="upper left", frameon=False, ncols=3)


def _draw_drift(found: Explained, axes: Any) -> None:
    steps = [(step.step, 100 * step.drift) for step in found.steps if math.isfinite(step.drift)]
    steps.append((found.num_steps, 100 * found.likeness.error))
    axes.plot(*zip(*steps, strict=True), color=GIVEN, linewidth=1.2, marker=".", markersize=3)
    axes.set_ylabel("latent off, %")
    axes.set_ylim(bottom=0)
    _mark(found, axes)


def _draw_gains(found: Explained, axes: Any) -> None:
    worst = found.worst
    for label, ones, alpha in (("runs of forecasts", found.runs, 0.35), ("single steps", found.replaced, 1.0)):
        for one in ones:
            middle, width = (one.steps[0] + one.steps[-1]) / 2, len(one.steps) - 0.2
            blamed = worst is not None and worst.step in one.steps
            axes.bar(middle, min(found.gain(one), 60.0), width=width, color=WORST if blamed else GIVEN, alpha=alpha, label=label, linewidth=0)
            label = "_"
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_ylabel("computed in their\nplace, dB nearer")
    if found.replaced:
        axes.legend(loc="upper left", frameon=False, ncols=2)


def _mark(found: Explained, axes: Any) -> None:
    """Mark the worst step."""
    if found.worst is not None:
        axes.axvline(found.worst.step, color=WORST, linewidth=0.8, zorder=0)
