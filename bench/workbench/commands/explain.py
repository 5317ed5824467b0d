"""The command `foreseer explain`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from typing import Annotated

from foreseer.command_options import Settings, takes
from foreseer.console import console, progress
from foreseer.files import refuse_unwritable_folder
from foreseer.registry import policy as named

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["explain"]


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
@takes("foreseer.workbench.explain:ExplainSettings", extra="workbench", leave_out=("policy", "workload"))
def explain(
    policy: Annotated[str, typer.Argument(metavar="NAME[:OPTION=VALUE,...]", help="The policy, as it broke the sample.")],
    source: Settings,
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out which forecast hurt a sample, what let it pass, and which setting would have caught it."""
    named(policy)  # a wrong name is told before anything is loaded
    out = settings.keywords.get("out")
    if out is not None:
        refuse_unwritable_folder(out)
    from foreseer.files import write_whole
    from foreseer.workbench import explain as explaining

    with progress() as tell:
        found = explaining.explain(settings(workload=source(), policy=policy), tell=tell)
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    if as_json:
        typer.echo(text)
    else:
        for sentence in filter(None, found.sentences()):
            console().print(sentence)
    if out is not None:
        write_whole(out / "explain.json", text + "\n")
        typer.echo(f"picture: {found.plot(out / 'explain.png')}", err=as_json)
