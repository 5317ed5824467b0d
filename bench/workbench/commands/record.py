"""`foreseer record`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated

from foreseer.command_options import Settings, takes
from foreseer.console import progress
from foreseer.errors import OptionError

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["record"]


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes(
    "foreseer.workbench.record_settings:RecordSettings",
    extra="workbench",
    leave_out=("every", "measured"),
    sites={"metavar": "default|blocks|SITE,..."},
    target={"metavar": "SITE"},
)
@takes("foreseer.bench.ray_settings:RaySettings", extra="workbench", into="ray", ray={"metavar": "[ADDRESS]"})
def record(
    out: Annotated[
        Path,
        typer.Option(help="The file to write, .safetensors. The same command goes on with what is there."),
    ],
    source: Settings,
    settings: Settings,
    ray: Settings,
    sensitivity: Annotated[
        str,
        typer.Option(
            metavar="every=N,samples=M|none",
            help="Measure at every N-th step, on the first M samples (0: all); each takes one more sampling.",
        ),
    ] = "every=1,samples=4",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Record a model once: inner products of its features, and sensitivities."""
    from foreseer.workbench.recording import record as run
    from foreseer.workbench.recording import refuse_existing

    every, measured = _measured(sensitivity)
    made, place = settings(every=every, measured=measured), source()
    if not restart:
        refuse_existing(out)
    with progress() as tell:
        recorded = run(place, out, settings=made, restart=restart, tell=tell, say=functools.partial(typer.echo, err=True), ray=ray())
    typer.echo(recorded.summary)


def _measured(text: str) -> tuple[int | None, int | None]:
    """Return at every how many steps to measure (None: nowhere), and how many samples (None: all)."""
    if text == "none":
        return None, None
    found = re.fullmatch(r"every=(\d+)(?:,samples=(\d+))?", text)
    if found is None or int(found[1]) < 1:
        raise OptionError(f"sensitivity={text!r} is unknown; write every=1,samples=4 to measure every step on four samples (samples=0: on all), or none")
    return int(found[1]), 4 if found[2] is None else int(found[2]) or None
