"""`foreseer compare`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs

from foreseer.console import Several, needs
from foreseer.listing import OBSERVERS
from foreseer.registry import parse_policy

if TYPE_CHECKING:
    from foreseer.bench.compare import Afterwards

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["compare"]


class WithDefaults(Several):
    """Reads the defaults that ``--help`` shows from `CompareSettings`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        defaults = _defaults()
        for option in self.params:
            default = defaults.get(str(option.name))
            if default is not None and default != ():
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                option.help = f"{option.help} Default: {shown}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _defaults() -> dict[str, Any]:
    try:
        from foreseer.bench.compare_settings import CompareSettings
    except ModuleNotFoundError:  # the help is worth reading without the packages of the benchmark
        return {}
    return {field.name: field.default for field in attrs.fields(CompareSettings)}


def compare(
    policies: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="Policies to compare; several may follow one --policies.")
    ] = None,
    presets: Annotated[
        list[str] | None, typer.Option(metavar="NAME|FILE", help="Tuned policies: bundled presets or files; several may follow. Alone, without the defaults.")
    ] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Use presets that were tuned on another model or number of steps.")] = False,
    samples: Annotated[int | None, typer.Option(help="Samples that each policy draws.")] = None,
    steps: Annotated[int | None, typer.Option(help="DDIM steps of a full computation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial noise.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples that are drawn together.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the classifier-free guidance; 1 is none.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    observers: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="Observers of every run; several may follow one --observers.")
    ] = None,
    headroom: Annotated[bool, typer.Option("--headroom", help="Also record these samples, and measure the best schedules in hindsight.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; made if it is missing.")] = None,
) -> None:
    """Compare policies on the bundled model."""
    given = {key: value for key, value in locals().items() if value is not None and value != [] and key != "headroom"}
    if presets and not policies:
        given["policies"] = ()
    for policy in policies or ():
        parse_policy(policy)  # a wrong name is told at once, before anything heavy is imported
    for observer in observers or ():
        parse_policy(observer, group=OBSERVERS)
    with needs("compare", "bench"):
        from foreseer.bench.compare import compare as run
        from foreseer.bench.compare_settings import CompareSettings

        result = run(CompareSettings(**given), afterwards=_headroom() if headroom else None)
    if result.interrupted:
        raise KeyboardInterrupt  # what was finished is written; the exit status says that it is not all


def _headroom() -> Afterwards:
    from foreseer.workbench.headroom import headroom

    return headroom


compare.command_class = WithDefaults  # type: ignore[attr-defined]
