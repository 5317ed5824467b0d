"""Figures that plotly draws, as plain data: how all look."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["COLORS", "GREY", "SHAPES", "axis", "escaped", "finite", "front", "layout"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b57d00", "#56b4e9")
"""Okabe and Ito's, as far as they can be seen on white and on black; a shape goes with each, so that neither
is needed alone.
"""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "hexagon", "star-triangle-up", "bowtie", "pentagon"]
GREY, CLEAR = "#767f86", "rgba(0,0,0,0)"
HOVER_WIDTH = 44
"""Characters in a line of a hover label: what fits beside a point on a phone."""


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
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "itemwidth": 30},
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "bordercolor": GREY, "font": {"color": "#1d2327"}},
        "modebar": {"bgcolor": CLEAR, "color": GREY, "activecolor": COLORS[0]},
        "xaxis": x,
        "yaxis": y,
    } | more


def front(points: Sequence[tuple[float, float]], *, lower_x: bool, lower_y: bool) -> list[int]:
    """Return the Pareto front: indices of the points that no other point matches on both axes and beats on
    one, from left to right. What is not finite is on no front, and of equal points the first is taken.
    ``lower_x`` and ``lower_y`` say whether the lower end is the better one.
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
