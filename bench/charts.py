"""Figures that plotly draws, as plain data: how all look, and lanes by what they cost and how good they are."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

from foreseer.bench.page import Chart

__all__ = [
    "COLORS",
    "GREY",
    "SHAPES",
    "Axis",
    "Point",
    "axis",
    "escaped",
    "finite",
    "front",
    "lanes_chart",
    "layout",
]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b57d00", "#56b4e9")
"""Okabe and Ito's, as far as they can be seen on white and on black; a shape goes with each, so that neither
is needed alone.
"""
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "hexagon",
    "star-triangle-up",
    "bowtie",
    "pentagon",
)
GREY, CLEAR = "#767f86", "rgba(0,0,0,0)"
HOVER_WIDTH = 44
"""Characters in a line of a hover label: what fits beside a point on a phone."""

Line = TypeVar("Line")


@attrs.frozen
class Axis(Generic[Line]):
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

    @property
    def better(self) -> str:
        """Which end is the good one, in words."""
        return f"{'lower' if self.lower_is_better else 'higher'} is better"


@attrs.frozen(kw_only=True)
class Point:
    """A lane on a chart.

    Attributes:
        name: Of the lane.
        kind: ``full``, ``fewer``, ``peer``, or that of a policy.
        sweep: Lanes of one sweep share a shape and a colour.
        order: Lanes of fewer steps are joined in this order.
        at: Its number on each axis, by key.
        spread: Ends of the bar of its speed-up; NaN for none.
        label: Lines beside the point when it is pointed at, below the name.
        told: What is said of it below the chart.
    """

    name: str
    kind: str
    sweep: str = ""
    order: int = 0
    at: Mapping[str, float]
    spread: tuple[float, float] = (math.nan, math.nan)
    label: Sequence[str] = ()
    told: str = ""


def finite(value: float | None) -> float | None:
    """Return a number as a figure holds it: what is not finite is None, and is not drawn."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def escaped(text: str) -> str:
    """Return a text for plotly, which reads names as HTML, but no escaped quotes. Lines are broken, which
    plotly does not do.
    """
    lines = textwrap.wrap(text.replace(",", ", ").replace(",  ", ", "), HOVER_WIDTH, break_long_words=True)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis; more are plotly's own settings of one."""
    return {"title": {"text": title, "standoff": 8}, "zeroline": False, "automargin": True} | more


def layout(x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a layout with these axes; more are plotly's own settings. Text and grid take the page's colours."""
    return {
        "autosize": True,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "hovermode": "closest",
        "font": {"family": "system-ui, Segoe UI, Roboto, Liberation Sans, sans-serif", "size": 12},
        "margin": {"l": 56, "r": 12, "t": 28, "b": 48},
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "itemwidth": 30,
        },
        "hoverlabel": {
            "align": "left",
            "bgcolor": "#ffffff",
            "bordercolor": GREY,
            "font": {"color": "#1d2327"},
        },
        "modebar": {"bgcolor": CLEAR, "color": GREY, "activecolor": COLORS[0]},
        "xaxis": x,
        "yaxis": y,
    } | more


def front(points: Sequence[tuple[float, float]], *, lower_x: bool, lower_y: bool) -> list[int]:
    """Return the Pareto front: indices of the points that no other point matches on both axes and beats on
    one, from left to right.

    Args:
        points: Pairs of numbers; those that are not finite are on no front. Of equal points the first is
            taken.
        lower_x: Whether the left end is the better one.
        lower_y: Whether the lower end is the better one.
    """
    signs = (1 if lower_x else -1), (1 if lower_y else -1)
    able = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    found: list[int] = []
    best = math.inf
    for i in sorted(able, key=lambda i: (signs[0] * points[i][0], signs[1] * points[i][1], i)):
        if signs[1] * points[i][1] < best:
            best = signs[1] * points[i][1]
            found.append(i)
    return sorted(found, key=lambda i: points[i][0])


def lanes_chart(points: Sequence[Point], across: Sequence[Axis[Any]], up: Sequence[Axis[Any]], *, note: str = "") -> Chart:
    """Draw lanes by cost and quality, with the Pareto front and the line of fewer steps; the reader chooses
    both axes.

    Args:
        points: The lanes.
        across: What they cost; what only full computation has is not offered.
        up: How good they are, likewise.
        note: Below the chart.
    """

    def offered(axes: Sequence[Axis[Any]]) -> list[Axis[Any]]:
        saving = [point for point in points if point.kind != "full"]
        return [one for one in axes if any(math.isfinite(point.at[one.key]) for point in saving)] or [axes[0]]

    xs, ys = offered(across), offered(up)
    return Chart(
        {f"{y.key} {x.key}": _lanes(points, x, y) for y in ys for x in xs},
        "Cost of each lane against how close its samples come; the numbers are in the table below",
        {"up": {one.key: one.title for one in ys}, "across": {one.key: one.title for one in xs}},
        "Nothing reaches what the Pareto front joins on both axes and beats it on one. Above the line of fewer steps "
        f"a policy pays; shapes without filling are peers. {note}",
        told=True,
    )


def _lanes(points: Sequence[Point], x: Axis[Any], y: Axis[Any]) -> dict[str, Any]:
    known = [p.at[y.key] for p in points if math.isfinite(p.at[y.key])] or [0.0]
    top = max(known) + 0.14 * (max(known) - min(known) or 1)  # where the same as full computation lies

    def trace(name: str, shown: Iterable[Point], marker: dict[str, Any], **more: Any) -> dict[str, Any]:
        lanes = list(shown)
        bars = x.key == "speedup" and all(math.isfinite(end) for p in lanes for end in p.spread)
        spread = [[finite(p.at[x.key] - p.spread[0]), finite(p.spread[1] - p.at[x.key])] for p in lanes] if bars else []
        return {
            "type": "scatter",
            "mode": "markers",
            "name": html.escape(name, quote=False),
            "marker": {"size": 11, **marker},
            "x": [finite(p.at[x.key]) for p in lanes],
            "y": [finite(top if p.at[y.key] == math.inf else p.at[y.key]) for p in lanes],
            "text": ["<br>".join([f"<b>{escaped(p.name)}</b>", *map(escaped, p.label)]) for p in lanes],
            "customdata": [f"{p.name}\n{p.told}".strip() for p in lanes],
            "hovertemplate": "%{text}<extra></extra>",
            "error_x": {
                "type": "data",
                "symmetric": False,
                "thickness": 1,
                "width": 3,
                "visible": bars,
                "array": [high for _, high in spread],
                "arrayminus": [low for low, _ in spread],
            },
        } | more

    places = front([(p.at[x.key], p.at[y.key]) for p in points], lower_x=x.lower_is_better, lower_y=y.lower_is_better)
    fewer = sorted((p for p in points if p.kind == "fewer"), key=lambda p: p.order)
    shape = "hv" if x.lower_is_better else "vh"
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "hoverinfo": "skip",
            "line": {"color": GREY, "width": 1.5, "dash": "dot", "shape": shape},
            "x": [finite(points[i].at[x.key]) for i in places],
            "y": [finite(points[i].at[y.key]) for i in places],
        },
        *(
            [
                trace(
                    "fewer steps",
                    fewer,
                    {"size": 7, "symbol": "circle", "color": GREY},
                    mode="lines+markers",
                    line={"color": GREY},
                )
            ]
            if fewer
            else []
        ),
        trace("full", (p for p in points if p.kind == "full"), {"size": 15, "symbol": "star", "color": GREY}),
    ]
    ways = [p for p in points if p.kind not in ("full", "fewer")]
    sweeps = list(dict.fromkeys((p.kind, p.sweep) for p in sorted(ways, key=lambda p: p.kind == "peer")))
    for place, (kind, sweep) in enumerate(sweeps):
        color, peer = COLORS[place % 5], kind == "peer"
        line = {"width": 2, "color": color} if peer else {"width": 1, "color": "white"}
        look = {"symbol": SHAPES[place % len(SHAPES)] + "-open" * peer, "color": color, "line": line}
        own = (p for p in points if (p.kind, p.sweep) == (kind, sweep))
        traces.append(trace(f"{sweep} (peer)" if peer else sweep, own, look))
    same = any(p.at[y.key] == math.inf for p in points)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": top, "y1": top, "layer": "below"}
    said = {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": top,
        "yanchor": "bottom",
        "showarrow": False,
        "xshift": 4,
    }
    more: dict[str, Any] = {
        "shapes": [line | {"line": {"color": GREY, "width": 1, "dash": "dash"}}] * same,
        "annotations": [said | {"text": "the same as full computation"}] * same,
    }
    return {
        "data": traces,
        "layout": layout(axis(f"{x.title}<br>{x.better}"), axis(f"{y.title}<br>{y.better}"), showlegend=True, **more),
    }
