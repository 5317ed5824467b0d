"""`foreseer check`: hold a plugin to the laws of the contract."""

from __future__ import annotations

import contextlib
import json
import tempfile
from typing import Annotated

import attrs

from foreseer.console import complain, console, progress, table
from foreseer.describe import quiet, without_marks
from foreseer.registry import parse_plugin

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip


def check(
    name: Annotated[str, typer.Argument(metavar="NAME[:OPTION=VALUE,...]", help="A policy, predictor or observer, as installed.")],
    expect: Annotated[list[str] | None, typer.Option(metavar="CHECK=REASON", help="A check that it is known to fail, and why.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold a plugin to the laws of the contract. The exit status is 0 if it keeps them."""
    from foreseer.testing import check_policy

    parse_plugin(name)  # a wrong name is told as what it is
    try:
        # An observer that writes files, or hypothesis with its folder, leaves nothing behind where the user
        # stands.
        with quiet(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), progress() as tell:
            pairs = [e.partition("=") for e in expect or ()]
            reasons = {check: reason or "expected on the command line" for check, _, reason in pairs}
            results = check_policy(name, expected_failures=reasons, tell=tell)
    except ImportError as error:
        complain(str(error))
        raise typer.Exit(1) from None
    failed = sum(r.status == "failed" for r in results)
    if as_json:
        typer.echo(json.dumps({"policy": name, "passed": not failed, "checks": [attrs.asdict(r) for r in results]}, indent=1))
    else:
        shown = table("check", "status", "what was seen", check={"no_wrap": True})
        for r in results:
            style = "bold red" if r.status == "failed" else ""
            said = r.law if r.status == "passed" else r.message
            shown.add_row(r.check, Text(r.status, style=style), Text(without_marks(said)))
        out = console()
        out.print(shown)
        counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "expected", "skipped")}
        out.print(f"\n{name}: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "passed"))
    if failed:
        raise typer.Exit(1)
