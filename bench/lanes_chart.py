"""The chart of a benchmark: each lane by what it costs and how good its samples are."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from foreseer.bench.charts import COLORS, GREY, SHAPES, axis, escaped, finite, front, layout
from foreseer.bench.figures import FIGURES, Figure
from foreseer.bench.page import Chart
from foreseer.bench.results import Results
from foreseer.bench.sentences import sentence_of
from foreseer.bench.summary import Line, lines_of, sweep_of
from foreseer.bench.tables import broken_text, number_text

__all__ = ["ACROSS", "UP", "Axis", "lanes_chart", "told"]


@attrs.frozen
class Axis:
    """What an axis shows.

    Attributes:
        key: Short name.
        title: With its unit.
        lower_is_better: Which end is the good one.
        value: A line's number; NaN where there is none, infinite where it is the same as full computation.
    """

    key: str
    title: str
    lower_is_better: bool
    value: Callable[[Line], float]

    def drawn(self) -> dict[str, Any]:
        """Return it as plotly draws it."""
        return axis(f"{self.title}<br>{'lower' if self.lower_is_better else 'higher'} is better")


ACROSS = (
    Axis("cost", "block-rows, share of full computation", True, lambda line: line.cost),
    Axis("steps", "computed steps", True, lambda line: line.steps),
    Axis("flops", "FLOPs, share of full computation", True, lambda line: line.flops),
    Axis("speedup", "measured speed-up (x)", False, lambda line: line.speedup),
)
"""What a lane costs."""


def _figure(line: Line, *, figure: str, worst: bool) -> float:
    return (line.worst if worst else line.means).get(figure, math.nan)


def _axes(figures: Mapping[str, Figure]) -> Iterable[Axis]:
    for name, figure in figures.items():
        unit = f" ({figure.unit})" if figure.unit else ""
        for which in ("mean", "worst sample"):
            read = functools.partial(_figure, figure=name, worst=which != "mean")
            title = f"{figure.title}, {which}{unit}"
            if (name, which) != ("accuracy", "worst sample"):  # of a share the worst sample says nothing
                yield Axis(f"{name}_{which.split()[0]}", title, not figure.higher_is_better, read)


DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Of the lines of plain sampling, a solver each."""

UP = (
    *_axes(FIGURES),
    Axis("gain", "PSNR over fewer steps, as many (dB)", False, lambda line: line.gain),
    Axis("truth_gain", "PSNR to truth over the best solver, as many steps (dB)", False, lambda line: line.truth_gain),
    Axis("frechet", "Frechet distance to the data", True, lambda line: line.frechet),
)
"""How good its samples are."""


def lanes_chart(results: Results, batch: int) -> Chart:
    """Draw the finished lanes of a batch size by cost and quality, with the Pareto front and the line of fewer
    steps; the reader chooses both axes. What only full computation has is not offered.
    """
    lines = [line for line in lines_of(results, batch) if line.lane.units]

    def offered(axes: Sequence[Axis]) -> list[Axis]:
        saving = [line for line in lines if line.lane.kind != "full"]
        return [one for one in axes if any(math.isfinite(one.value(line)) for line in saving)] or [axes[0]]

    xs, ys = offered(ACROSS), offered((*UP, *_axes(results.measures)))
    labels = {line.lane.name: _label(line) for line in lines}
    words = {line.lane.name: f"{line.lane.name}\n{told(results, line)}" for line in lines}
    return Chart(
        {f"{y.key} {x.key}": _lanes(lines, x, y, labels, words) for y in ys for x in xs},
        "Cost of each lane against how close its samples come; the numbers are in the table below",
        {"up": {one.key: one.title for one in ys}, "across": {one.key: one.title for one in xs}},
        "Nothing reaches what the Pareto front joins on both axes and beats it on one. Above the line of fewer steps "
        "a policy pays; shapes without filling are peers. Bars across are quartiles.",
        told=True,
    )


def told(results: Results, line: Line) -> str:
    """Say what stands below the chart when a lane's point is pointed at: its sentence, and its settings."""
    return f"{sentence_of(results, line)}\n{_settings(line, ' = ')}"


def _settings(line: Line, equals: str) -> str:
    settings = line.lane.options or {"steps of the loop": line.lane.num_steps}
    return ", ".join(f"{key}{equals}{value}" for key, value in settings.items())


def _label(line: Line) -> str:
    """What stands beside a point."""
    numbers = [f"{line.steps:.1f} steps".replace(".0 ", " "), f"block-rows {line.cost:.3f}"]
    numbers += [f"{line.speedup:.2f}x"] if math.isfinite(line.speedup) else []
    psnr = {"mean": line.means.get("psnr", math.nan), "worst": line.worst.get("psnr", math.nan)}
    known = [f"{key} {number_text(value, '.1f')}" for key, value in psnr.items() if value == value]
    reached = [f"PSNR {', '.join(known)}{broken_text(line)}"] if known else []
    said = [", ".join(numbers), *reached, _settings(line, "=")]
    return "<br>".join([f"<b>{escaped(line.lane.name)}</b>", *map(escaped, said)])


def _lanes(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    labels: dict[str, str],
    words: dict[str, str],
) -> dict[str, Any]:
    known = [y.value(line) for line in lines if math.isfinite(y.value(line))] or [0.0]
    top = max(known) + 0.14 * (max(known) - min(known) or 1)  # where the same as full computation lies

    def trace(name: str, shown: Iterable[Line], marker: dict[str, Any], **more: Any) -> dict[str, Any]:
        lanes = list(shown)
        bars = x.key == "speedup" and all(math.isfinite(end) for line in lanes for end in line.quartiles)
        ends = [(x.value(line), *line.quartiles) for line in lanes] if bars else []
        spread = {
            "array": [finite(high - at) for at, _, high in ends],
            "arrayminus": [finite(at - low) for at, low, _ in ends],
        }
        return {
            "type": "scatter",
            "mode": "markers",
            "name": html.escape(name, quote=False),
            "marker": {"size": 11, **marker},
            "x": [finite(x.value(line)) for line in lanes],
            "y": [finite(top if y.value(line) == math.inf else y.value(line)) for line in lanes],
            "text": [labels[line.lane.name] for line in lanes],
            "customdata": [words[line.lane.name] for line in lanes],
            "hovertemplate": "%{text}<extra></extra>",
            "error_x": {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "visible": bars} | spread,
        } | more

    places = [(x.value(line), y.value(line)) for line in lines]
    best = [places[i] for i in front(places, lower_x=x.lower_is_better, lower_y=y.lower_is_better)]
    shape = "hv" if x.lower_is_better else "vh"
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "hoverinfo": "skip",
            "line": {"color": GREY, "width": 1.5, "dash": "dot", "shape": shape},
            "x": [finite(across) for across, _ in best],
            "y": [finite(up) for _, up in best],
        }
    ]
    plain: dict[str, list[Line]] = {}
    for line in (line for line in lines if line.lane.kind == "fewer"):
        plain.setdefault(line.lane.solver, []).append(line)
    for place, (solver, own) in enumerate(plain.items()):
        joined = {"mode": "lines+markers", "line": {"color": GREY, "dash": DASHES[min(place, len(DASHES) - 1)], "width": 1 if solver else 2}}
        traces.append(trace(solver or "fewer steps", own, {"size": 7, "symbol": "circle", "color": GREY}, **joined))
    star = {"size": 15, "symbol": "star", "color": GREY}
    traces.append(trace("full", (line for line in lines if line.lane.kind == "full"), star))
    sweeps: dict[tuple[bool, str, str], list[Line]] = {}
    for line in (line for line in lines if line.lane.kind not in ("full", "fewer")):
        kind = line.lane.kind
        sweeps.setdefault((kind == "peer", kind, sweep_of(line.lane) or line.lane.name), []).append(line)
    for place, ((peer, _, sweep), own) in enumerate(sorted(sweeps.items(), key=lambda found: found[0][0])):
        color = COLORS[place % 5]
        edge = {"width": 2, "color": color} if peer else {"width": 1, "color": "white"}
        look = {"symbol": SHAPES[place % len(SHAPES)] + "-open" * peer, "color": color, "line": edge}
        traces.append(trace(f"{sweep} (peer)" if peer else sweep, own, look))
    dashed = {"color": GREY, "width": 1, "dash": "dash"}
    edge = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": top, "y1": top, "layer": "below", "line": dashed}
    said = {"text": "the same as full computation", "xref": "paper", "x": 0, "xanchor": "left", "xshift": 4}
    said |= {"y": top, "yanchor": "bottom", "showarrow": False}
    same = any(up == math.inf for _, up in places)
    more: dict[str, Any] = {"shapes": [edge] * same, "annotations": [said] * same}
    return {"data": traces, "layout": layout(x.drawn(), y.drawn(), showlegend=True, **more)}
