"""The life of a step as drawings in the page's colours: which blocks run for which rows, and what is
forecast.

`block_rows` counts the cells that are drawn as evaluated; a test compares it with what a session counts.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCKS, ROWS, REJECTED = 6, 4, 2
"""L and R of the drawings, and which row the gates reject."""

KINDS = {
    "computed": "computed and used",
    "judge": "computed only to judge",
    "forecast": "forecast and used",
    "dropped": "forecast, then thrown away",
    "kept": "kept from the pass before",
    "idle": "not run",
}
EVALUATED = ("computed", "judge")
LEFT, PITCH, CELL, LINE = 46, 34, 28, 24


class Pass(NamedTuple):
    """A walk over the blocks: a title, and for each row the kinds of its blocks' cells, and of the probe's."""

    title: str
    rows: dict[int, list[str]]
    probe: bool = False


def passes(name: str) -> list[Pass]:
    """The passes of one kind of step, with one row of four rejected where there is a gate."""
    full = ["computed"] * BLOCKS
    between = ["idle"] * (BLOCKS - 2)
    if name == "full":
        return [Pass("One pass, everything", dict.fromkeys(range(ROWS), full))]
    if name == "taylorseer":
        return [Pass("One pass, every module forecast", {row: ["forecast"] * BLOCKS for row in range(ROWS)})]
    if name == "cg_taylor":
        first = {row: ["judge", *between, "forecast"] for row in range(ROWS)}
        first[REJECTED] = ["computed", *between, "dropped"]
        again = {REJECTED: ["kept", *["computed"] * (BLOCKS - 1)]}
        return [
            Pass("First pass: block 0 on the real input, the last block forecast", first),
            Pass("Second pass: the rejected row goes on behind block 0", again),
        ]
    if name == "speca":
        draft = {row: [*["forecast"] * BLOCKS, "judge"] for row in range(ROWS)}
        draft[REJECTED] = [*["dropped"] * BLOCKS, "judge"]
        return [
            Pass("First pass: all forecast, and the last block computed", draft, True),
            Pass("Second pass: the rejected row, from the start", {REJECTED: full}),
        ]
    raise ValueError(f"no drawing is named {name!r}; write full, taylorseer, cg_taylor, speca or legend")


def block_rows(name: str) -> int:
    """Cells that are drawn as evaluated."""
    return sum(kind in EVALUATED for part in passes(name) for cells in part.rows.values() for kind in cells)


def draw(name: str) -> str:
    """One drawing as a figure, or the legend."""
    return _legend() if name == "legend" else _figure(name)


def _figure(name: str) -> str:
    shapes: list[str] = []
    y = 4
    for part in passes(name):
        y += 14
        shapes.append(_text(0, y, part.title, "title"))
        y += 18
        heads = [str(b) for b in range(BLOCKS)] + (["probe"] if part.probe else []) + ["head"]
        columns = [LEFT + i * PITCH for i in range(len(heads))]
        shapes += [_text(x + CELL / 2, y, head, "small middle") for x, head in zip(columns, heads, strict=True)]
        for row, cells in part.rows.items():
            y += LINE
            shapes.append(_text(0, y - 4, f"row {row}", "small"))
            used = not (row == REJECTED and len(passes(name)) > 1 and part is not passes(name)[-1] and len(part.rows) > 1)
            kinds = [*cells, "computed" if used else "idle"]
            shapes += [_cell(x, y - 17, kind, small=i == len(kinds) - 1) for i, (x, kind) in enumerate(zip(columns, kinds, strict=True))]
        y += 14
    cost = block_rows(name)
    shapes.append(_text(0, y + 12, f"{cost} block-rows, where a full step costs {BLOCKS * ROWS}", "title"))
    label = f"{name}: {cost} of {BLOCKS * ROWS} block-rows"
    return f'<figure class="step"><svg viewBox="0 0 330 {y + 22}" role="img" aria-label="{label}">{_pattern()}{"".join(shapes)}</svg></figure>'


def _legend() -> str:
    entries = "".join(
        f'<li><svg viewBox="0 0 28 18" aria-hidden="true">{_pattern()}{_cell(1, 1, kind, width=26, height=16)}</svg>{text}</li>' for kind, text in KINDS.items()
    )
    return f'<ul class="step-legend">{entries}</ul>'


def _pattern() -> str:
    stripes = (
        '<pattern id="fs-{0}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="stripe {0}" d="M0 0V6"/></pattern>'
    )
    return f"<defs>{stripes.format('forecast')}{stripes.format('dropped')}</defs>"


def _cell(x: float, y: float, kind: str, *, width: float = CELL, height: float = 18, small: bool = False) -> str:
    if small:  # the head is no block: it is always computed for rows that are used, and not counted
        x, y, width, height = x + 6, y + 3, 16, 12
    box = f'<rect class="cell {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'
    if kind != "dropped":
        return box
    return f'{box}<path class="cross" d="M{x + 8} {y + 4}l{width - 16} {height - 8}m0 {8 - height}l{16 - width} {height - 8}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{text}</text>'
