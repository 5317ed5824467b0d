"""What `load_test.py` and `tests/benchmarks/in_flight.py` found, as a picture and as tables of the page on batching.

    python docs/_build/load_picture.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import table

DOCS = Path(__file__).resolve().parents[1]
RESULTS, PICTURE = DOCS / "results", DOCS / "pictures" / "load.png"
NAMES = {"dit": "DiT", "flux": "FLUX"}
COLOURS = {True: "#0072b2", False: "#d55e00"}
"""Of Okabe and Ito: with a cache, and without."""


def name_of(line: Mapping[str, Any]) -> str:
    """Return how the requests of a line were served, in words."""
    return f"{line['batching']}, {'no cache' if line['policy'] == 'none' else 'cache'}"


def arms_of(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return what was measured of each way to serve, in the order of the rates."""
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for line in content["lines"]:
        arms.setdefault(name_of(line), []).append(line)
    return arms


def draw(contents: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture: a row for each model."""
    import matplotlib.pyplot as plt

    panels = (("throughput", "answered a second"), ("latency", "seconds: p95, p50 dotted"), ("goodput", "in time and good, a second"))
    figure, axes = plt.subplots(len(contents), len(panels), figsize=(9, 2.7 * len(contents)), squeeze=False, layout="constrained")
    for row, content in zip(axes, contents, strict=True):
        for axis, (what, title) in zip(row, panels, strict=True):
            for name, lines in arms_of(content).items():
                flying, colour = lines[0]["batching"] == "in flight", COLOURS[lines[0]["policy"] != "none"]
                style = {"color": colour, "markerfacecolor": colour if flying else "white", "linewidth": 1.3, "markersize": 4}
                solid = {"linestyle": "-" if flying else "--", "marker": "o" if flying else "s", "label": name}
                for key in ("p95", "p50") if what == "latency" else (what,):
                    axis.plot([line["rate"] for line in lines], [line[key] for line in lines], **style, **({"linestyle": ":"} if key == "p50" else solid))
            if what == "latency":
                axis.set_yscale("log")
                axis.axhline(content["settings"]["limit"], color="#999999", linewidth=0.8)
            axis.set_title(f"{NAMES[content['model']]}: {title}", fontsize=9)
            axis.set_xlabel("sent a second", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def load(model: str) -> str:
    """Return what was measured of a model's servers, as a table."""
    content = json.loads((RESULTS / f"load_{model}.json").read_text(encoding="utf-8"))
    return load_table(content)


def load_table(content: Mapping[str, Any]) -> str:
    """Return a file's lines as a table, those of one rate beside one another."""
    rows = []
    for line in content["lines"]:
        seconds = [f"{line[key]:.2f}" for key in ("throughput", "p50", "p95", "goodput", "processor")]
        rows.append([f"{line['rate']:g}", name_of(line), *seconds, f"{line['refused']} of {line['sent']}", f"{line['load_before']:.1f}"])
    head = "sent a second: | served | answered a second: | p50, s: | p95, s: | in time and good: | processor s: | refused: | load before:"
    return table(head, rows) + said(content)


def said(content: Mapping[str, Any]) -> str:
    """Return what a file was made on, in a line below its table."""
    commit = content["git"].get("commit", "")[:10]
    return f"\n\n({content['machine']['processor']}, torch {content['versions']['torch']}, commit {commit})"


def in_flight(_: str = "") -> str:
    """Return what `tests/benchmarks/in_flight.py` found, as a table."""
    return in_flight_table(json.loads((RESULTS / "in_flight.json").read_text(encoding="utf-8")))


def in_flight_table(content: Mapping[str, Any]) -> str:
    """Return a file's parts as one table."""
    rows = []
    for part in content["parts"]:
        for line in part["lines"]:
            ratios = [f"{line[key]:.2f}" for key in ("static", "in_flight", "share", "of_static")]
            lost = [f"{100 * line[key]:.0f} %" for key in ("lost_inside", "lost_beside")]
            rows.append([f"{NAMES.get(part['model'], 'wide DiT')}, {part['samples']}", f"`{line['policy']}`", *ratios, *lost, f"{line['calls']:.2f}"])
    lost = "lost inside of blocks: | and beside:"
    head = f"model, samples a request | policy | static: | in flight: | share: | static time over that in flight: | {lost} | calls a tick:"
    return table(head, rows) + said(content)


if __name__ == "__main__":
    draw([json.loads((RESULTS / f"load_{model}.json").read_text(encoding="utf-8")) for model in NAMES], PICTURE)
    print(PICTURE)
