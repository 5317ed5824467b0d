"""The command line: ``foreseer policies``, ``show``, ``check``, ``new``, ``compare``, ``bench``, ``models``, ``estimate``, and those of the workbench."""

from __future__ import annotations

import contextlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import attrs

from foreseer import __version__
from foreseer.bench.commands import bench
from foreseer.console import Commands, Compare, Several, complain, console, needs, table
from foreseer.describe import describe_plugins, options_of, plain, quiet, read_docstring, reflow
from foreseer.errors import OptionError
from foreseer.registry import OBSERVERS, cite, group_of, list_plugins, load_factory, parse_plugin, parse_policy
from foreseer.workbench.commands_ledger import ledger
from foreseer.workbench.commands_plan import plan
from foreseer.workbench.commands_record import record
from foreseer.workbench.commands_replay import replay
from foreseer.workbench.commands_tune import tune

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

__all__ = ["app", "main"]


app = typer.Typer(
    cls=Commands,
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
def policies(
    load: Annotated[bool, typer.Option("--check", help="Import each, and say whether that works and what it is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed policies, predictors and observers; imports none of them."""
    found = describe_plugins(load=load)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    shown = table("name", "kind", "package", "status", "summary", name={"no_wrap": True}, kind={"no_wrap": True})
    for entry in found:
        style = "" if entry["status"] in ("ok", "installed") else "bold red"
        package = f"{entry['distribution']} {entry['version']}"
        shown.add_row(*(Text(t) for t in (entry["name"], entry["kind"], package)), Text(entry["status"], style=style), Text(entry["summary"]))
    console().print(shown)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, or distribution:name where two packages bring it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a plugin's options and its paper."""
    group = group_of(name)
    with quiet():
        factory = load_factory(name, group=group)
    distribution, _, short = name.rpartition(":")
    listing = next(p for p in list_plugins(group) if p.name == short and distribution in ("", p.distribution))
    text, meanings = read_docstring(inspect.getdoc(factory) or "")
    summary, _, description = text.partition("\n")
    options = options_of(factory, meanings)
    if as_json:
        facts: dict[str, Any] = {"name": listing.name, "distribution": listing.distribution, "version": listing.version, "target": listing.target}
        facts |= {"summary": summary, "options": options, "description": description.strip(), "citation": cite(factory)}
        typer.echo(json.dumps(facts, indent=1))
        return
    out = console()
    out.print(Text.assemble((listing.name, "bold"), f"  {listing.distribution} {listing.version}  {listing.target}"))
    out.print(Text(plain(summary)), end="\n\n")
    if options:
        shown = table("option", "default", "values", "meaning", option={"no_wrap": True}, values={"ratio": 2}, meaning={"ratio": 5})
        for option in options:
            shown.add_row(*(Text(plain(str(option[key]))) for key in ("name", "default", "values", "meaning")))
        out.print(shown)
    else:
        out.print("It has no options.")
    for part in (reflow(plain(description.strip())), cite(factory)):
        if part:
            out.print()
            out.print(Text(part), soft_wrap=part.startswith("@"))


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME[:OPTION=VALUE,...]", help="A policy, predictor or observer, as installed.")],
    expect: Annotated[list[str] | None, typer.Option(metavar="CHECK=REASON", help="A check that it is known to fail, and why.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold a plugin to the laws of the contract. The exit status is 0 if it keeps them."""
    from foreseer.testing import check_policy

    parse_plugin(name)  # a wrong name is told as what it is
    try:
        # An observer that writes files, or hypothesis with its folder, leaves nothing behind where the user stands.
        with quiet(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            results = check_policy(name, expected_failures=dict(_pair(e) for e in expect or ()))
    except ImportError as error:
        complain(str(error))
        raise typer.Exit(1) from None
    failed = sum(r.status == "failed" for r in results)
    if as_json:
        typer.echo(json.dumps({"policy": name, "passed": not failed, "checks": [attrs.asdict(r) for r in results]}, indent=1))
    else:
        shown = table("check", "status", "what was seen", check={"no_wrap": True})
        for r in results:
            shown.add_row(r.check, Text(r.status, style="bold red" if r.status == "failed" else ""), Text(plain(r.message if r.status != "passed" else r.law)))
        out = console()
        out.print(shown)
        counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "expected", "skipped")}
        out.print(f"\n{name}: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "passed"))
    if failed:
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="gate, predictor, schedule or observer.")],
    name: Annotated[str, typer.Argument(help="Its name, such as my-gate.")],
    path: Annotated[Path, typer.Option(help="Folder in which the project's own folder is made.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files without asking.")] = False,
    allow_taken: Annotated[bool, typer.Option("--allow-taken", help="Take a name that is installed already; your own project's, for example.")] = False,
) -> None:
    """Write a plugin project: it installs, passes its tests, and is yours to change."""
    from foreseer.scaffold import names_for, write_project

    def ask(files: list[Path]) -> bool:
        for file in files:
            typer.echo(f"exists already: {file}")
        if not typer.confirm("Overwrite?", default=False):
            complain("nothing was written")
            raise typer.Exit(1)
        return True

    names = names_for(kind, name, allow_taken=allow_taken)
    try:
        written = write_project(kind, name, into=path, overwrite=True if force else ask, allow_taken=allow_taken)
    except ImportError as error:
        complain(str(error))
        raise typer.Exit(1) from None
    for file in written:
        typer.echo(f"wrote {file}")
    folder = path / names.project
    typer.echo(f"\nNext:\n  pip install -e '{folder}[test]'\n  pytest {folder}\n  foreseer check {names.plugin}")


@app.command("compare", cls=Compare)
def compare_policies(
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
    given = {key: value for key, value in locals().items() if value is not None and value != []}
    if presets and not policies:
        given["policies"] = ()
    for policy in policies or ():
        parse_policy(policy)  # a wrong name is told at once, before anything heavy is imported
    for observer in observers or ():
        parse_policy(observer, group=OBSERVERS)
    with needs("compare", "bench"):
        from foreseer.bench.compare import CompareSettings, compare

        result = compare(CompareSettings(**given))
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
    listed = table("transformer", "pipeline", "guidance", "modules", "last block", "output", "rows")
    for f in shown:
        answers = (f.guidance, f.modules, f.last_block, f.output, f.rows) if f.pipeline else ("", "not run", "", "", "")
        listed.add_row(*map(Text, (f.transformer, f.pipeline.replace("Pipeline", ""), *answers)))
    out = console()
    out.print(listed)
    installed = installed_diffusers()
    other = f"; you have {installed}" if installed not in ("", diffusers) else ""
    out.print(
        f"Found with diffusers {diffusers}{other}. Whatever the model, the first computed step of an attachment checks it anew; its report says what was found."
    )


@app.command(cls=Several)
def estimate(
    model: Annotated[str, typer.Option(help="A published model, such as flux-dev; a wrong name lists them.")],
    policy: Annotated[list[str], typer.Option(metavar="NAME[:OPTION=VALUE,...]", help="Policies to estimate; several may follow one --policy.")],
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the model's usual size.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a video.")] = None,
    batch: Annotated[int, typer.Option(help="Samples that are drawn together.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps of the run: no more features are kept per site.")] = 50,
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
    size: dict[str, Any] = {"height": height, "width": width, "frames": frames, "batch": batch, "num_steps": steps}
    found = [estimate_published(model, parse_policy(p), history_dtype=dtypes[history_dtype], **size) for p in policy]
    if as_json:
        facts = ({"policy": e.policy, "bytes_held": e.bytes_held, "sites": len(e.bytes_by_site), "rows": e.rows, "streams": e.streams} for e in found)
        typer.echo(json.dumps({"model": model, "estimates": list(facts)}, indent=1))
        return
    numbers: dict[str, dict[str, Any]] = {heading: {"justify": "right"} for heading in ("holds", "sites", "rows", "streams")}
    shown = table("policy", "holds", "sites", "rows", "streams", "notes", **numbers)
    for e in found:
        shown.add_row(*map(Text, (e.policy, in_bytes(e.bytes_held), str(len(e.bytes_by_site)), str(e.rows), str(e.streams), "; ".join(e.notes))))
    console().print(shown)


app.add_typer(bench, name="bench")
app.command("record")(record)
app.command("plan")(plan)
app.command("replay", cls=Several)(replay)
app.command("ledger")(ledger)
app.command(cls=Several)(tune)


def _pair(text: str) -> tuple[str, str]:
    name, _, reason = text.partition("=")
    return name, reason or "expected on the command line"


if __name__ == "__main__":
    main()
