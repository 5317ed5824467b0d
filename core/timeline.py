"""The timeline of a run as a picture: steps across, rows down, and the errors against the threshold."""

from __future__ import annotations

import functools
import io
import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreseer.errors import MissingPackageError, OptionError
from foreseer.facts import Facts
from foreseer.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "figure", "picture"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; the order is also one of lightness, so
# that a grey print keeps it.
FATES = (
    ("computed", "#00466e"),  # their blue, darkened: the few computed steps should be seen first
    ("rejected and computed", "#d55e00"),
    ("accepted", "#92cbef"),  # a tint of their sky blue
    ("forecast unseen", "#e6e9ec"),
)
COMPUTED, REJECTED, ACCEPTED, UNSEEN = range(4)
MARKERS = {ACCEPTED: ("o", "#56b4e9"), REJECTED: ("D", "#d55e00")}
INK, FAINT = "#222222", "#c8c8c8"
DPI = 200
GROUP_GAP = 0.45
"""White space between samples of several rows, in rows."""

STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "text.color": INK,
    "pdf.fonttype": 42,  # TrueType outlines: publishers refuse the default, Type 3
}


def draw(report: Facts, path: Path) -> Path:
    """Write the `figure` of a run and return ``path``, whose ending chooses the format.

    Raises:
        MissingPackageError: Without matplotlib (``pip install 'foreseer[plots]'``).
        OptionError: The path has no ending.
        ValueError: It has one that matplotlib cannot write; from matplotlib.
    """
    drawn = figure(report)
    if not path.suffix:
        raise OptionError(f"{path} has no ending to choose the format by; write {path}.pdf, {path}.svg or {path}.png")
    write_whole(path, lambda part: _save(drawn, part, format=path.suffix[1:], dpi=DPI))
    return path


def picture(report: Facts) -> tuple[bytes, int]:
    """Return the `figure` of a run as a PNG of some 20 kB, and how wide to show it, in CSS pixels.

    Raises:
        MissingPackageError: Without matplotlib (``pip install 'foreseer[plots]'``).
    """
    drawn = figure(report)
    return _png(drawn), round(96 * drawn.get_figwidth())


def _png(drawn: Figure) -> bytes:
    stream = io.BytesIO()
    _save(drawn, stream, format="png", dpi=144)
    return stream.getvalue()


def _save(drawn: Figure, where: Any, **how: Any) -> None:
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        drawn.savefig(where, **how)


def figure(report: Facts) -> Figure:
    """Draw the timeline of a run, finished or not. A notebook shows the figure.

    Above: a cell for each step and row, in the order of the samples. Below, where a gate judged anything:
    each row's error and the threshold. On a logarithmic axis an error of 0 sits on the lower edge; an error
    that is not finite is a cross at the top.

    Raises:
        MissingPackageError: Without matplotlib (``pip install 'foreseer[plots]'``).
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.legend_handler import HandlerTuple
    except ImportError as error:
        raise MissingPackageError("drawing a timeline needs matplotlib: pip install 'foreseer[plots]'") from error

    steps = max(len(report.outcomes), report.run.num_steps or 1)
    judged = report.judged
    shown = bool(np.isfinite(report.error[judged]).any() or np.isfinite(report.thresholds[judged]).any())
    width = min(9.5, max(4.8, 1.3 + 0.15 * steps))
    cells_height = min(3.2, max(0.45, 0.2 * report.run.rows))
    errors_height = 1.7 if shown else 0.0
    title = _title(report, characters=int(13.5 * width))
    # A style of the user's own (dark, LaTeX) is set aside: it would change what was chosen here to be
    # legible.
    with matplotlib.style.context(["default", STYLE]):
        drawn = Figure(
            figsize=(width, cells_height + errors_height + 0.95 + 0.17 * title.count("\n")), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.04, hspace=0.02)
        )
        ratios = [cells_height, errors_height] if shown else [1]
        axes = drawn.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        handles = _draw_cells(report, axes[0], point=72 * (width - 1) / steps, errors=shown)
        if shown:
            handles |= _draw_errors(report, axes[1])
        axes[0].set_title(title, loc="left", parse_math=False, linespacing=1.35)
        bottom = axes[-1]
        bottom.set_xlim(-0.5, steps - 0.5)
        bottom.set_xticks(_ticks(steps))
        bottom.set_xlabel("step")
        if handles:
            drawn.legend(
                handles=list(handles.values()),
                labels=list(handles),
                handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
                loc="outside lower left",
                ncols=min(len(handles), 5 if width > 6.5 else 3),
                frameon=False,
                handlelength=1.6,
                handleheight=0.9,
                columnspacing=1.4,
            )
    drawn._repr_png_ = functools.partial(_png, drawn)  # type: ignore[attr-defined]  # of itself a notebook shows only pyplot's
    return drawn


def _title(report: Facts, characters: int) -> str:
    made, planned = len(report.outcomes), report.run.num_steps
    facts = f"{report.steps_computed:.1f}".removesuffix(".0") + f" of {made} steps computed"
    if made and np.ptp(report.computed.sum(axis=0)):
        facts += " in the mean"
    if made:
        facts += f", block-rows {100 * report.block_rows_ratio:.1f} %"
    if not report.finished or planned not in (None, made):
        facts += f" (ended after {made} of {planned} steps)" if report.finished else f" (not finished: {made} of {planned or '?'} steps)"
    policy = textwrap.wrap(report.policy, characters, max_lines=2, placeholder=" ...") or [""]
    return "\n".join([*policy, facts])


def _draw_cells(report: Facts, axes: Any, *, point: float, errors: bool) -> dict[str, Any]:
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    groups, rows = report.run.groups, report.run.rows
    fates = np.where(report.judged[:, None], float(ACCEPTED), float(UNSEEN)) * np.ones((1, rows))
    fates[report.computed], fates[report.rejected] = COMPUTED, REJECTED
    samples = list(dict.fromkeys(groups))
    grouped = len(samples) < rows
    edges, bands, middles = [0.0], list[Any](), []  # a band is the fates of a row, or the gap between samples
    for sample in samples:
        if grouped and bands:
            bands.append(np.full(len(fates), np.nan))
            edges.append(edges[-1] + GROUP_GAP)
        own = [fates[:, r] for r in range(rows) if groups[r] == sample]
        middles.append(edges[-1] + len(own) / 2)
        edges += [edges[-1] + place for place in range(1, len(own) + 1)]
        bands += own
    if len(fates):
        # White joints between cells help counting; where cells are small they would eat them.
        joint = min(0.8, 0.08 * point) if point > 3 and rows <= 24 else 0.0
        edge: dict[str, Any] = {"edgecolors": "white", "linewidth": joint} if joint else {"edgecolors": "none", "antialiased": False}
        mesh = np.ma.masked_invalid(np.array(bands))
        axes.pcolormesh(np.arange(len(fates) + 1) - 0.5, edges, mesh, cmap=ListedColormap([c for _, c in FATES]), vmin=-0.5, vmax=3.5, **edge)
    axes.set_ylim(edges[-1], 0)
    ticks = _ticks(len(samples) if grouped else rows, most=8)
    axes.set_yticks([middles[t] for t in ticks], [str(samples[t] if grouped else t) for t in ticks])
    axes.set_ylabel("sample" if grouped else "row")
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    if errors:
        axes.tick_params(axis="x", length=0, labelbottom=False)
    handles: dict[str, Any] = {}
    for fate, (name, color) in enumerate(FATES):
        if (fates == fate).any():
            handle: Any = Patch(facecolor=color)
            if errors and fate in MARKERS:
                marker, dark = MARKERS[fate]
                handle = (handle, Line2D([], [], linestyle="", marker=marker, markersize=4, color=dark))
            handles[name] = handle
    return handles


def _draw_errors(report: Facts, axes: Any) -> dict[str, Any]:
    judged, rejected, rows = report.judged, report.rejected, report.run.rows
    steps = np.arange(len(judged))
    error, threshold = report.error.astype(np.float64), np.where(judged, report.thresholds, np.nan)
    known = np.isfinite(error) & judged[:, None]
    lost = np.nonzero((judged[:, None] & ~known).any(axis=1))[0]
    _scale(axes, np.concatenate([error[known], threshold[np.isfinite(threshold)]]), crown=lost.size > 0)
    error = np.where(known, error, np.nan)

    crowd = rows > 8 or len(steps) > 150
    for r in range(rows if rows <= 8 else 0):
        axes.plot(steps, error[:, r], color=FAINT, linewidth=0.7, zorder=1)
    for fate, chosen in ((ACCEPTED, known & ~rejected), (REJECTED, known & rejected)):
        at, row = np.nonzero(chosen)
        marker, color = MARKERS[fate]
        look: dict[str, Any] = {"s": 9 if crowd else 16, "edgecolors": "white", "linewidths": 0.3, "zorder": 3, "clip_on": False}
        axes.scatter(at, error[at, row], marker=marker, color=color, **look)
    axes.set_ylabel("error")
    handles: dict[str, Any] = {}
    if np.isfinite(threshold).any():
        # A level piece for each judged step, so that a threshold which falls from step to step is read at the
        # right place.
        pieces = np.stack([threshold, threshold], axis=1).ravel()
        ends = np.stack([steps - 0.5, steps + 0.5], axis=1).ravel()
        look = {"linewidth": 1.2, "zorder": 2.6, "solid_capstyle": "butt", "clip_on": False}
        handles["threshold"] = axes.plot(ends, pieces, color=INK, **look)[0]
    if lost.size:
        look = {"transform": axes.get_xaxis_transform(), "s": 18, "marker": "x", "linewidths": 1, "zorder": 4}
        handles["error not finite"] = axes.scatter(lost, np.full(lost.size, 0.95), color=INK, **look)
    return handles


def _scale(axes: Any, values: NDArray[np.float64], *, crown: bool) -> None:
    """Choose a linear or logarithmic error axis, which goes on straight below its smallest value, down to 0.
    A crown is room on top, for what is not finite.
    """
    positive = values[values > 0]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)
    if high <= 20 * low:
        axes.set_ylim(0.0, (1.25 if crown else 1.1) * high)
        return
    zeros = bool((values == 0).any())
    axes.set_yscale("symlog", linthresh=low, linscale=0.4) if zeros else axes.set_yscale("log")
    margin = (high / low) ** 0.06
    axes.set_ylim(0.0 if zeros else low / margin, high * margin ** (3 if crown else 1))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}" if high < 50 * low and not zeros else "")


def _ticks(count: int, most: int = 11) -> list[int]:
    sizes = (unit * 10**power for power in itertools.count() for unit in (1, 2, 5))
    return list(range(0, count, next(size for size in sizes if (count - 1) // size < most)))
