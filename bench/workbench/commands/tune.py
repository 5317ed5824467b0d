"""The command `foreseer tune`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from foreseer.command_options import Settings, takes
from foreseer.console import complain, console, progress, table
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable
from foreseer.registry import parse_policy

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

if TYPE_CHECKING:
    from foreseer.workbench.study import Target
    from foreseer.workbench.tune import Tuned

__all__ = ["tune"]

SHOWN = 8
"""Points of a search that are printed; of a front all are."""


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes(
    "foreseer.workbench.tune:TuneSettings",
    extra="workbench",
    leave_out=("policy", "target", "name", "workload"),
    ranges={"metavar": "OPTION=LOW..HIGH[:log] | OPTION=A,B"},
)
def tune(
    policy: Annotated[
        str,
        typer.Argument(metavar="NAME[:OPTION=VALUE,...]", help="The policy; options written here are held."),
    ],
    source: Settings,
    settings: Settings,
    target_speedup: Annotated[
        float | None,
        typer.Option(help="Closest to full computation at this speed-up by block-rows, such as 3."),
    ] = None,
    target_psnr: Annotated[float | None, typer.Option(help="Cheapest at this mean PSNR to full computation, in dB.")] = None,
    front: Annotated[bool, typer.Option("--front", help="All points that no other beats in cost and PSNR.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the result as a preset.")] = None,
) -> None:
    """Tune a policy's options on a model."""
    from foreseer.workbench import tune as tuner

    parse_policy(policy)  # a wrong name is told first
    study = settings.keywords.get("study")
    for path in (study, out):
        if path is not None:
            refuse_unwritable(path)
    target = _target(target_speedup, target_psnr, front, out)
    made = settings(workload=source(), policy=policy, target=target, name=None if out is None else out.stem)
    try:
        with progress() as tell:
            found = tuner.tune(made, tell=tell)
    except KeyboardInterrupt:
        kept = (
            f"the finished trials are in {study}; go on with: {shlex.join(['foreseer', *sys.argv[1:]])}"
            if study
            else "nothing was kept; --study FILE keeps trials"
        )
        complain(kept)
        raise
    _print(found)
    if found.preset is None and not front:
        advice = "write more --trials, other --ranges, or a lower target"
        complain(f"no trial reached {target}, so that there is no preset; {advice}")
        raise typer.Exit(1)
    if found.preset is not None and out is not None:
        typer.echo(f"preset: {found.preset.save(out)}")


def _target(speedup: float | None, psnr: float | None, front: bool, out: Path | None) -> Target:
    from foreseer.workbench.study import Target

    given = [name for name, there in (("--target-speedup", speedup is not None), ("--target-psnr", psnr is not None), ("--front", front)) if there]
    if len(given) != 1:
        raise OptionError(f"{' and '.join(given) or 'no target'} was given; write one of --target-speedup 3, --target-psnr 40 and --front")
    if front and out is not None:
        raise OptionError(
            f"out={str(out)!r} is for one policy, and a front is many; leave it out, and tune for a point of it with --target-speedup or --target-psnr"
        )
    if speedup is not None:
        return Target("speedup", speedup)
    return Target("front") if psnr is None else Target("psnr", psnr)


def _print(found: Tuned) -> None:
    settings, target = found.settings, found.settings.target
    out = console()
    out.print(f"{found.space.spec}: {', '.join(map(str, found.space.dimensions))}")
    for note in found.space.notes:
        out.print(f"- {note}")
    right: dict[str, Any] = {name: {"justify": "right"} for name in ("block-rows", "PSNR", "worst", "wall clock", "trial")}
    shown = table("policy", *right, **right)
    ranked = found.ranked
    for point in ranked if target.kind == "front" else ranked[:SHOWN]:
        clock = found.seconds / point.seconds
        row = (
            point.policy,
            f"{point.speedup:.2f}x",
            f"{point.mean:.2f} dB",
            f"{point.worst:.2f} dB",
            f"{clock:.2f}x" if clock == clock else "",
            str(point.number),
        )
        shown.add_row(*map(Text, row), style="bold" if found.chosen is not None and point.policy == found.chosen.policy else "")
    out.print()
    out.print(shown)
    failed = found.failed
    counted = f"{len(found.points)} trials on {settings.samples} samples of {settings.workload.name}, {len(failed)} failed"
    out.print(f"\n{counted}{f', the first: {failed[0].policy}: {failed[0].error}' if failed else ''}")
    if found.preset is None:
        return
    out.print(f"\n{found.preset.policy}, for {target}", style="bold")
    compared = table("samples", "block-rows", "steps", "PSNR", "worst", "PSNR of as many plain steps")
    for what, m in (("tuned on", found.preset.tuned), ("held out", found.preset.held_out)):
        if m is not None:
            fewer = "" if m.fewer_psnr_mean is None else f"{m.fewer_psnr_mean:.2f} dB"
            broken = f" ({m.broken} broken)" if m.broken else ""
            row = (
                f"{m.samples} {what}{broken}",
                f"{m.speedup:.2f}x",
                f"{m.steps_computed:.1f}",
                f"{m.psnr_mean:.2f} dB",
                f"{m.psnr_worst:.2f} dB",
                fewer,
            )
            compared.add_row(*map(Text, row))
    out.print(compared)
