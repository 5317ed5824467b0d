"""The command `foreseer advise`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from typing import Annotated

from foreseer.columns import known, listed
from foreseer.command_options import Settings, takes
from foreseer.console import console, progress
from foreseer.files import refuse_unwritable_folder, write_whole

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["advise"]


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes("foreseer.workbench.advise:AdviseSettings", extra="workbench", leave_out=("workload",))
def advise(
    source: Settings,
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a cache is worth it here, or fewer steps or another solver, measured on a few samples."""
    out = settings.keywords.get("out")
    if out is not None:
        refuse_unwritable_folder(out)
    from foreseer.workbench import advise as advising
    from foreseer.workbench.advised import COLUMNS

    with progress() as tell:
        found = advising.advise(settings(workload=source()), tell=tell)
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    if as_json:
        typer.echo(text)
    else:
        shown = console()
        for total, lanes in advising.lanes_by_total(found):
            shown.print(listed(f"of {total} steps", known(COLUMNS, lanes), lanes, lambda lane: lane.name, faint=lambda lane: lane.kind == "hindsight"))
            shown.print()
        for sentence in filter(None, found.sentences()):
            shown.print(sentence)
    if out is not None:
        write_whole(out / "advice.json", text + "\n")
