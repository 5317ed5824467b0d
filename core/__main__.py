"""The command line: ``foreseer policies``, ``foreseer show NAME``, ``foreseer compare``."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs

from foreseer import __version__
from foreseer.errors import ForeseerError
from foreseer.options import describe_option
from foreseer.plugins import policy_hooks
from foreseer.registry import Listing, cite, list_plugins, load_factory, parse_policy, signature_of

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
    found = [_describe(listing, alone=owners[listing.name] == 1) for listing in listings]
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
    with _quiet():
        factory = load_factory(name)
    distribution, _, short = name.rpartition(":")
    listing = next(p for p in list_plugins() if p.name == short and distribution in ("", p.distribution))
    text, meanings = _read_docstring(inspect.getdoc(factory) or "")
    summary, _, description = text.partition("\n")
    options = _options(factory, meanings)
    if as_json:
        facts: dict[str, Any] = {"name": listing.name, "distribution": listing.distribution, "version": listing.version, "target": listing.target}
        facts |= {"summary": summary, "options": options, "description": description.strip(), "citation": cite(factory)}
        typer.echo(json.dumps(facts, indent=1))
        return
    out = _out()
    out.print(Text.assemble((listing.name, "bold"), f"  {listing.distribution} {listing.version}  {listing.target}"))
    out.print(Text(_plain(summary)), end="\n\n")
    if options:
        table = _table()
        for heading in ("option", "default", "values", "meaning"):
            table.add_column(heading, no_wrap=heading == "option", overflow="fold", ratio={"values": 2, "meaning": 5}.get(heading))
        for option in options:
            table.add_row(*(Text(_plain(str(option[key]))) for key in ("name", "default", "values", "meaning")))
        out.print(table)
    else:
        out.print("It has no options.")
    for part in (_reflow(_plain(description.strip())), cite(factory)):
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


def _describe(listing: Listing, *, alone: bool) -> dict[str, str]:
    """One line of ``foreseer policies``. Whatever a plugin does, it must not end the listing."""
    facts = {"name": listing.name, "role": "", "distribution": listing.distribution, "version": listing.version, "status": "ok", "summary": ""}
    try:
        with _quiet():
            facts["summary"] = _plain(listing.summary())
            if facts["summary"].startswith("broken: "):
                facts["status"], facts["summary"] = facts["summary"], ""
            else:
                facts["role"] = _role(listing.load())
    except (Exception, SystemExit) as error:
        facts["status"] = f"broken: {type(error).__name__}: {error}"
    if not alone:
        conflict = f"conflict: write {listing.distribution}:{listing.name}"
        facts["status"] = conflict if facts["status"] == "ok" else f"{facts['status']}; {conflict}"
    return facts


def _role(factory: Callable[..., Any]) -> str:
    """What the factory builds with its defaults; empty where it has an option without one."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.default is p.empty and p.kind not in kinds for p in signature_of(factory).parameters.values()):
        return ""
    built = factory()
    hooks = policy_hooks(built if isinstance(built, (tuple, list)) else (built,))
    if hooks["before_step"] or hooks["verify"]:
        return "policy"
    return "predictor" if hooks["predict_features"] else ""


def _options(factory: Callable[..., Any], meanings: dict[str, str]) -> list[dict[str, Any]]:
    """Name, default, allowed values and meaning of each option."""
    inner: Any = inspect.unwrap(factory)
    try:
        hints = typing.get_type_hints(vars(inner)["__init__"] if isinstance(inner, type) else inner, include_extras=True)
    except (NameError, TypeError, KeyError):
        hints = {}
    options = []
    for p in signature_of(factory).parameters.values():
        if p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL:
            continue
        annotation = hints.get(p.name, p.annotation)
        values = describe_option(annotation) or ("" if annotation is p.empty else _type_name(annotation))
        default = "required" if p.default is p.empty else repr(p.default)
        options.append({"name": p.name, "default": default, "values": values, "meaning": meanings.get(p.name, "")})
    return options


def _type_name(annotation: Any) -> str:
    annotation = getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
    name = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return re.sub(r"\b(typing|collections\.abc)\.", "", name)


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and the meanings in its ``Args:`` section."""
    text: list[str] = []
    meanings: dict[str, str] = {}
    section, option = "", ""
    for line in doc.split("\n"):
        if line and not line[0].isspace():
            section = line if line in ("Args:", "Raises:", "Returns:") else ""
        if section == "Args:":
            entry = re.match(r"    (\w+)(?: \([^)]*\))?: +(.*)", line)
            if entry:
                option = entry[1]
                meanings[option] = entry[2]
            elif option and line.startswith("     "):
                meanings[option] += " " + line.strip()
        elif not section:
            text.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)).strip(), meanings


def _plain(text: str) -> str:
    return text.replace("``", "")


def _reflow(text: str) -> str:
    """Undo the line breaks of source code; paragraphs, lists and indented code keep theirs."""
    return re.sub(r"(?<=\S)\n(?:  )?(?=[^\s-])", " ", text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a plugin prints when it is imported must not end up between the lines of a table or of JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


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
