"""The command line: ``foreseer policies``, ``show``, ``compare``, ``models``, ``estimate``."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs

from foreseer import __version__
from foreseer.describe import describe_listing, options_of, plain, quiet, read_docstring, reflow
from foreseer.errors import ForeseerError, OptionError
from foreseer.registry import cite, list_plugins, load_factory, parse_policy

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from typer.core import TyperCommand, TyperGroup
except ImportError as error:
    raise SystemExit(f"foreseer: the command line needs {error.name}: pip install 'foreseer[bench]'") from None

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns what foreseer raises on purpose into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ForeseerError as error:
            _complain(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(130) from None


class _Several(TyperCommand):
    """Lets ``--policy`` take several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat("--policy", args)))


class _Compare(TyperCommand):
    """Lets ``--policies`` take several values, and reads the defaults that ``--help`` shows from `CompareSettings`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat("--policies", args)))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        defaults = _defaults()
        for option in self.params:
            default = defaults.get(str(option.name))
            if default is not None:
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                option.help = f"{option.help} Default: {shown}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Feature forecasting for diffusion transformers, with policies as plugins.",
)


def main() -> None:
    """Run the command line."""
    app(prog_name="foreseer")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"foreseer {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


@app.command()
def policies(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the installed policies and predictors."""
    listings = list_plugins()
    owners = Counter(listing.name for listing in listings)
    found = [describe_listing(listing, alone=owners[listing.name] == 1) for listing in listings]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = _table()
    for heading in ("name", "role", "package", "status", "summary"):
        table.add_column(heading, no_wrap=heading in ("name", "role"), overflow="fold")
    for entry in found:
        style = "" if entry["status"] == "ok" else "bold red"
        package = f"{entry['distribution']} {entry['version']}"
        table.add_row(*(Text(t) for t in (entry["name"], entry["role"], package)), Text(entry["status"], style=style), Text(entry["summary"]))
    _out().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A policy's name, or distribution:name where two packages bring it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a policy's options and its paper."""
    with quiet():
        factory = load_factory(name)
    distribution, _, short = name.rpartition(":")
    listing = next(p for p in list_plugins() if p.name == short and distribution in ("", p.distribution))
    text, meanings = read_docstring(inspect.getdoc(factory) or "")
    summary, _, description = text.partition("\n")
    options = options_of(factory, meanings)
    if as_json:
        facts: dict[str, Any] = {"name": listing.name, "distribution": listing.distribution, "version": listing.version, "target": listing.target}
        facts |= {"summary": summary, "options": options, "description": description.strip(), "citation": cite(factory)}
        typer.echo(json.dumps(facts, indent=1))
        return
    out = _out()
    out.print(Text.assemble((listing.name, "bold"), f"  {listing.distribution} {listing.version}  {listing.target}"))
    out.print(Text(plain(summary)), end="\n\n")
    if options:
        table = _table()
        for heading in ("option", "default", "values", "meaning"):
            table.add_column(heading, no_wrap=heading == "option", overflow="fold", ratio={"values": 2, "meaning": 5}.get(heading))
        for option in options:
            table.add_row(*(Text(plain(str(option[key]))) for key in ("name", "default", "values", "meaning")))
        out.print(table)
    else:
        out.print("It has no options.")
    for part in (reflow(plain(description.strip())), cite(factory)):
        if part:
            out.print()
            out.print(Text(part), soft_wrap=part.startswith("@"))


@app.command("compare", cls=_Compare)
def compare_policies(
    policies: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="Policies to compare; several may follow one --policies.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples that each policy draws.")] = None,
    steps: Annotated[int | None, typer.Option(help="DDIM steps of a full computation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial noise.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples that are drawn together.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the classifier-free guidance; 1 is none.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; made if it is missing.")] = None,
) -> None:
    """Compare policies on the bundled model."""
    given = {key: value for key, value in locals().items() if value is not None and value != []}
    for policy in policies or ():
        parse_policy(policy)  # a wrong name is told at once, before anything heavy is imported
    try:
        from foreseer.bench.compare import CompareSettings, compare

        result = compare(CompareSettings(**given))
    except ModuleNotFoundError as error:
        if (error.name or "foreseer").startswith("foreseer"):
            raise
        _complain(f"compare needs {error.name}: pip install 'foreseer[bench]'")
        raise typer.Exit(1) from None
    if result.interrupted:
        raise KeyboardInterrupt  # what was finished is written; the exit status says that it is not all


@app.command()
def models(
    name: Annotated[str, typer.Argument(help="Part of a transformer's or pipeline's name; empty for all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List diffusers' transformers and what of them can be forecast, as found by running them."""
    from foreseer.adapters.models import findings, installed_diffusers

    diffusers, found = findings()
    shown = [f for f in found if name.lower() in f"{f.transformer} {f.pipeline}".lower()]
    if as_json:
        typer.echo(json.dumps({"diffusers": diffusers, "findings": [attrs.asdict(f) for f in shown]}, indent=1))
        return
    table = _table()
    for heading in ("transformer", "pipeline", "guidance", "modules", "last block", "output", "rows"):
        table.add_column(heading, overflow="fold")
    for f in shown:
        answers = (f.guidance, f.modules, f.last_block, f.output, f.rows) if f.pipeline else ("", "not run", "", "", "")
        table.add_row(*map(Text, (f.transformer, f.pipeline.replace("Pipeline", ""), *answers)))
    out = _out()
    out.print(table)
    installed = installed_diffusers()
    other = f"; you have {installed}" if installed not in ("", diffusers) else ""
    out.print(
        f"Found with diffusers {diffusers}{other}. Whatever the model, the first computed step of an attachment checks it anew; its report says what was found."
    )


@app.command(cls=_Several)
def estimate(
    model: Annotated[str, typer.Option(help="A published model, such as flux-dev; a wrong name lists them.")],
    policy: Annotated[list[str], typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="Policies to estimate; several may follow one --policy.")],
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the model's usual size.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a video.")] = None,
    batch: Annotated[int, typer.Option(help="Samples that are drawn together.")] = 1,
    history_dtype: Annotated[str | None, typer.Option(help="Keep features as float32, bfloat16 or float16. Default: bfloat16, as the model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how much memory a policy would hold on a published model, from shapes alone."""
    import torch

    from foreseer.adapters.estimate import estimate_published
    from foreseer.bank import in_bytes

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, None: None}
    if history_dtype not in dtypes:
        raise OptionError(f"history_dtype={history_dtype!r} is unknown; write float32, bfloat16 or float16")
    found = [
        estimate_published(model, parse_policy(p), height=height, width=width, frames=frames, batch=batch, history_dtype=dtypes[history_dtype]) for p in policy
    ]
    if as_json:
        facts = ({"policy": e.policy, "bytes_held": e.bytes_held, "sites": len(e.bytes_by_site), "rows": e.rows, "streams": e.streams} for e in found)
        typer.echo(json.dumps({"model": model, "estimates": list(facts)}, indent=1))
        return
    table = _table()
    for heading in ("policy", "holds", "sites", "rows", "streams", "notes"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("holds", "sites", "rows", "streams") else "left")
    for e in found:
        table.add_row(*map(Text, (e.policy, in_bytes(e.bytes_held), str(len(e.bytes_by_site)), str(e.rows), str(e.streams), "; ".join(e.notes))))
    _out().print(table)


def _defaults() -> dict[str, Any]:
    try:
        from foreseer.bench.compare import CompareSettings
    except ModuleNotFoundError:  # the help is worth reading without the packages of the benchmark
        return {}
    return {field.name: field.default for field in attrs.fields(CompareSettings)}


def _repeat(option: str, args: list[str]) -> Iterator[str]:
    """Write ``option a b`` as ``option a option b``."""
    following = 0
    for arg in args:
        if arg.startswith("-"):
            following = 1 if arg == option else 2 if arg.startswith(f"{option}=") else 0
        elif following:
            if following > 1:
                yield option
            following += 1
        yield arg


def _out() -> Console:
    # A pipe has no width, and rich would take 80 columns for it.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(highlight=False, markup=False, width=width)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False)


def _complain(message: str) -> None:
    line = Text.assemble(("foreseer: ", "bold red"), " ".join(message.split()))
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


if __name__ == "__main__":
    main()
