"""`foreseer policies`, `foreseer measures` and `foreseer show`: what is installed."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

from foreseer.console import console, table
from foreseer.describe import describe_plugins, options_of, quiet, read_docstring, reflow, without_marks
from foreseer.listing import MEASURES, OBSERVERS, POLICIES, listed_as, load_factory
from foreseer.registry import cite, group_of

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

__all__ = ["measures", "policies", "show"]


def policies(
    load: Annotated[bool, typer.Option("--check", help="Import each, and say whether that works and what it is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed policies, predictors and observers; imports none of them."""
    _list(describe_plugins(load=load), as_json=as_json)


def measures(
    load: Annotated[bool, typer.Option("--check", help="Build each, and say what is missing: a package, or weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed quality measures; imports none of them."""
    _list(describe_plugins(MEASURES, load=load), as_json=as_json)


def _list(found: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    shown = table("name", "kind", "package", "status", "summary", name={"no_wrap": True}, kind={"no_wrap": True})
    for entry in found:
        style = "" if entry["status"] in ("ok", "installed") else "bold red"
        package = f"{entry['distribution']} {entry['version']}"
        shown.add_row(*(Text(t) for t in (entry["name"], entry["kind"], package)), Text(entry["status"], style=style), Text(entry["summary"]))
    console().print(shown)


def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, or distribution:name where two packages bring it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a plugin's options and its paper."""
    others = (POLICIES, OBSERVERS)
    group = MEASURES if listed_as(name, MEASURES) and not any(listed_as(name, other) for other in others) else group_of(name)
    with quiet():
        factory = load_factory(name, group=group)
    (listing,) = listed_as(name, group)
    text, meanings = read_docstring(inspect.getdoc(factory) or "")
    summary, _, description = text.partition("\n\n")
    summary = " ".join(summary.split())
    options = options_of(factory, meanings)
    if as_json:
        facts: dict[str, Any] = {"name": listing.name, "distribution": listing.distribution, "version": listing.version, "target": listing.target}
        facts |= {"summary": summary, "options": options, "description": description.strip(), "citation": cite(factory)}
        typer.echo(json.dumps(facts, indent=1))
        return
    out = console()
    out.print(Text.assemble((listing.name, "bold"), f"  {listing.distribution} {listing.version}  {listing.target}"))
    out.print(Text(without_marks(summary)), end="\n\n")
    if options:
        shown = table("option", "default", "values", "meaning", option={"no_wrap": True}, values={"ratio": 2}, meaning={"ratio": 5})
        for option in options:
            cells = (str(option[key]) for key in ("name", "default", "values", "meaning"))
            shown.add_row(*(Text(without_marks(cell)) for cell in cells))
        out.print(shown)
    else:
        out.print("It has no options.")
    for part in (reflow(without_marks(description.strip())), cite(factory)):
        if part:
            out.print()
            out.print(Text(part), soft_wrap=part.startswith("@"))
