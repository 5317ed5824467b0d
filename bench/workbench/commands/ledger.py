"""`foreseer ledger`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs

from foreseer.columns import listed
from foreseer.console import complain, console, needs
from foreseer.document import plain
from foreseer.files import refuse_unwritable_folder, write_csv

if TYPE_CHECKING:
    from foreseer.workbench.judgements import Entry, Judgements

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

__all__ = ["ledger"]

UNKNOWN = "(run not finished)"


@needs("ledger", "workbench")
def ledger(
    file: Annotated[Path, typer.Argument(help="A file that the observer `ledger` wrote.")],
    tolerance: Annotated[float | None, typer.Option(help="The true error that is tolerable. Default: the median of the true errors of each policy.")] = None,
    at: Annotated[str, typer.Option(help="Whose error is the truth: site (the forecast feature) or output (known of accepted drafts only).")] = "site",
    out: Annotated[Path | None, typer.Option(help="Folder for the page and CSV; made if it is missing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold a gate's decisions against the truth: false accepts and rejects, ranks, other thresholds."""
    from foreseer.workbench.judgements import judgements
    from foreseer.workbench.ledger import read_ledger

    if out is not None:
        refuse_unwritable_folder(out)
    entries, metric = read_ledger(file)
    policies: dict[str, list[Entry]] = {}
    for entry in entries:
        policies.setdefault(entry.policy or UNKNOWN, []).append(entry)
    how: Any = {"at": at, "tolerance": tolerance}  # judgements refuses what is wrong
    found = {name: judgements(some, **how) for name, some in policies.items()}
    known = {name: judged for name, judged in found.items() if math.isfinite(judged.tolerance)}
    if as_json:
        counted: dict[str, Any] = {}
        for name, judged in known.items():
            figures = {"tolerance": judged.tolerance, "area": judged.sweep().area, "steps": judged.table()}
            counted[name] = figures
        typer.echo(json.dumps(plain({"metric": metric, "at": at, "policies": counted}), indent=1))
    else:
        _print(known, metric)
    if not known:
        complain(f"{file} holds no forecast step with a true error: run a policy that forecasts, with the observer `ledger`")
        raise typer.Exit(1)
    if out is not None:
        for path in _write(known, policies, out):
            typer.echo(f"wrote {path}", err=as_json)


def _print(found: dict[str, Judgements], metric: str) -> None:
    from foreseer.workbench.ledger_page import COLUMNS, step_of

    out = console()
    for name, judged in found.items():
        out.print(Text(name, style="bold"))
        out.print(listed("step", COLUMNS, judged.table(), step_of))
        area, whose = judged.sweep().area, "forecast feature" if judged.at == "site" else "output"
        ranked = f" Area under the threshold sweep: {area:.3f}." if math.isfinite(area) else ""
        out.print(f"True error: {metric} of the {whose}; tolerated: {judged.tolerance:.3g}.{ranked}\n")


def _write(found: dict[str, Judgements], policies: dict[str, list[Entry]], out: Path) -> list[Path]:
    """Write the page, and for each policy the counts and the entries."""
    from foreseer.bench.store import file_names
    from foreseer.workbench.ledger_page import write_page

    written = [write_page(found, out / "index.html")]
    for name, short in file_names(found).items():
        written.append(_csv(out / f"{short}-steps.csv", list(map(attrs.asdict, found[name].table()))))
        written.append(_csv(out / f"{short}-rows.csv", [line for entry in policies[name] for line in _rows(entry)]))
    return written


def _rows(entry: Entry) -> list[dict[str, Any]]:
    head = {"policy": entry.policy, "run": entry.run, "stream": entry.stream, "step": entry.step, "site": entry.site}
    names = ("error", "accept", "computed", "site_error", "output_error")
    return [
        {**head, "row": row, "sample": entry.groups[row], "threshold": entry.threshold}
        | {name: values[row] if (values := getattr(entry, name)) is not None else None for name in names}
        for row in range(len(entry.groups))
    ]


def _csv(path: Path, lines: list[dict[str, Any]]) -> Path:
    return write_csv(path, list(lines[0]), map(plain, lines))
