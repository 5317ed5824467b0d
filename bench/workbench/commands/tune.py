"""The command `foreseer tune`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
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
    from foreseer.presets import Measured
    from foreseer.workbench.tune import Tuned

__all__ = ["tune"]

SHOWN = 8
"""Points of a search that are printed; of a front all are."""


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes("foreseer.bench.target:Wanted", extra="workbench", into="wanted")
@takes(
    "foreseer.workbench.tune_settings:TuneSettings",
    extra="workbench",
    leave_out=("policies", "target", "name", "workload"),
    ranges={"metavar": "OPTION=LOW..HIGH[:log] | OPTION=A,B"},
    promise={"metavar": "'psnr>=DB for SHARE% of samples'", "help": "What to promise of samples to come; looks for the fastest that keeps it."},
)
@takes("foreseer.bench.ray_settings:RaySettings", extra="workbench", into="ray", ray={"metavar": "[ADDRESS]"})
def tune(
    source: Settings,
    settings: Settings,
    wanted: Settings,
    ray: Settings,
    policies: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME[:OPTION=VALUE,...]...", help="Policies; options written here are held. None: six built-in ones."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as a preset.")] = None,
) -> None:
    """Find the policy and options that reach a target or keep a promise."""
    from foreseer.workbench import tune as tuner

    for policy in policies or ():
        parse_policy(policy)  # a wrong name is told first
    study = settings.keywords.get("study")
    for path in (study, out):
        if path is not None:
            refuse_unwritable(path)
    target = wanted().target
    front = target is not None and target.kind == "front"
    if front and out is not None:
        raise OptionError(f"out={str(out)!r} is for one policy, and a front is many; leave it out, and tune for a point of it with --speedup or --psnr")
    made = settings(workload=source(), policies=policies or (), target=target, name=None if out is None else out.stem)
    try:
        with progress() as tell:
            found = tuner.tune(made, tell=tell, ray=ray())
    except KeyboardInterrupt:
        kept = (
            f"what was drawn is kept at {study}; go on with: {shlex.join(['foreseer', *sys.argv[1:]])}"
            if study
            else "nothing was kept; --study FILE keeps trials"
        )
        complain(kept)
        raise
    _print(found)
    if not front and (why := _refusal(found)):
        complain(why)
        raise typer.Exit(1)
    if found.preset is not None and out is not None:
        typer.echo(f"preset: {found.preset.save(out)}")


def _refusal(found: Tuned) -> str:
    """Why there is no preset; empty where there is one."""
    claim, preset = found.settings.claim, found.preset
    if claim is None:
        advice = "write more --trials, other --ranges, or a lower target"
        return "" if preset else f"no trial reached {found.settings.target}, so that there is no preset; {advice}"
    if preset is not None:
        withdrawn = f"held-out samples contradict {claim}, so that it is not promised: samples differ more than chance allows, or chance was against it"
        return "" if preset.promise else f"{withdrawn}; tune again with more --samples and --held-out, and another --seed"
    if not found.tests:
        return f"nothing can be promised: every trial failed; write other policies or --ranges than those of {found.settings.trials} trials"
    first, count = found.tests[0], found.settings.tests
    reached = f"raised {first.error}" if first.error else f"reached it for {first.reached} of the first {first.figures.samples} of {count} samples"
    return (
        f"nothing can be promised: the surest setting, {first.policy}, {reached}, where {count - claim.misses(count)} are needed; "
        "write a lower PSNR, share or confidence, more --tested, or more --trials"
    )


def _print(found: Tuned) -> None:
    settings, target = found.settings, found.settings.goal
    out = console()
    for space in found.search.spaces:
        out.print(str(space))
        for note in space.notes:
            out.print(f"- {note}")
    right: dict[str, Any] = {name: {"justify": "right"} for name in ("block-rows", "steps", "PSNR", "worst", "wall clock", "trial")}
    shown = table("policy", *right, **right)
    ranked = found.ranked
    for point in ranked if target.kind == "front" else ranked[:SHOWN]:
        clock = found.time / point.time
        row = (
            point.policy,
            f"{point.speedup:.2f}x",
            f"{point.computed:.1f}",
            f"{point.mean:.2f} dB",
            f"{point.worst:.2f} dB",
            f"{point.time:.3g} s" if target.kind == "time" else f"{clock:.2f}x" if clock == clock else "",
            str(point.number),
        )
        chosen = found.preset is not None and point.policy == found.preset.policy
        shown.add_row(*map(Text, row), style="bold" if chosen else "")
    out.print()
    out.print(shown)
    failed, pruned = found.failed, found.pruned
    drawn = {point.policy: point.samples for point in found.points if not point.error}  # what is tried again is not drawn again
    early = f", {len(pruned)} were given up early ({sum(drawn.values())} of {settings.samples * len(drawn)} samples drawn)" if pruned else ""
    counted = f"{len(found.points)} trials on {settings.samples} samples of {settings.workload.name}, {len(failed)} failed{early}"
    out.print(f"\n{counted}{f'; the first that failed: {failed[0].policy}: {failed[0].error}' if failed else ''}")
    if found.tests:
        _print_tests(found)
    if found.preset is None:
        return
    preset = found.preset
    out.print(f"\n{preset.policy}, for {target}", style="bold")
    _print_measured([("tuned on", preset.tuned), ("held out", preset.held_out)])
    if preset.promise is not None:
        out.print(f"\nPromised: {preset.promise}.")


def _print_tests(found: Tuned) -> None:
    claim, shown = found.settings.claim, table("tested, safest first", "reached", "at least", "block-rows", "")
    for test in found.tests:
        drawn, whole = test.figures.samples, test.figures.samples == found.settings.tests
        bound = f"{100 * claim.bound(test.reached, drawn):.1f}%" if claim and whole else ""
        said = "held" if test.held else test.error or "failed"
        shown.add_row(*map(Text, (test.policy, f"{test.reached} of {drawn}", bound, f"{test.figures.speedup:.2f}x", said)))
    out = console()
    out.print()
    out.print(shown)


def _print_measured(rows: Sequence[tuple[str, Measured | None]]) -> None:
    compared = table("samples", "block-rows", "steps", "PSNR", "worst", "PSNR of as many plain steps")
    for what, m in rows:
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
    console().print(compared)
