"""`foreseer models` and `foreseer estimate`: what can be forecast of which model, and what that holds."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import attrs

from foreseer.console import console, needs, table
from foreseer.errors import OptionError
from foreseer.registry import parse_policy

import typer  # isort: skip  (foreseer.console says what to install where it is missing)
from rich.text import Text  # isort: skip

__all__ = ["estimate", "models"]


def models(
    name: Annotated[str, typer.Argument(help="Part of a transformer's or pipeline's name; empty for all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List diffusers' transformers and what of them can be forecast, as found by running them."""
    from foreseer.adapters.models import findings, installed_diffusers

    diffusers, found = findings()
    shown = [f for f in found if name.lower() in f"{f.transformer} {f.pipeline}".lower()]
    if not shown:
        known = sorted({re.sub(r"(Transformer)?(\d?D)?Model$", "", f.transformer) or f.transformer for f in found}, key=str.lower)
        raise OptionError(f"name={name!r} is in no transformer's or pipeline's name; write one of these, or a part of one: {', '.join(known)}")
    if as_json:
        typer.echo(json.dumps({"diffusers": diffusers, "findings": [attrs.asdict(f) for f in shown]}, indent=1))
        return
    listed = table("pipeline", "guidance", "modules", "last\nblock", "output", "rows", pipeline={"ratio": 1})
    reasons: list[str] = []
    for transformer in dict.fromkeys(f.transformer for f in shown):
        listed.add_row(Text(transformer, style="bold"))
        for f in (f for f in shown if f.transformer == transformer):
            answers = [_answer(answer, reasons) for answer in (f.modules, f.last_block, f.output, f.rows)]
            cells = (f.guidance, *answers) if f.pipeline else ("not run",)
            listed.add_row(*map(Text, (f"  {f.pipeline.replace('Pipeline', '')}", *cells)))
    out = console()
    out.print(listed)
    for number, reason in enumerate(reasons, 1):
        out.print(f"[{number}] {reason}")
    installed = installed_diffusers()
    other = f"; you have {installed}" if installed not in ("", diffusers) else ""
    out.print(
        f"Found with diffusers {diffusers}{other}. Whatever the model, the first computed step of an attachment checks it anew; its report says what was found."
    )


def _answer(answer: str, reasons: list[str]) -> str:
    """Return a cell, and add its reason to those that are told below the table."""
    word, colon, reason = answer.partition(": ")
    if not colon:
        return answer
    if reason not in reasons:
        reasons.append(reason)
    return f"{word} [{reasons.index(reason) + 1}]"


@needs("estimate", "diffusers")
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
    from foreseer.storage import Storage, in_bytes

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, None: None}
    if history_dtype not in dtypes:
        raise OptionError(f"history_dtype={history_dtype!r} is unknown; write float32, bfloat16 or float16")
    size: dict[str, Any] = {"height": height, "width": width, "frames": frames, "batch": batch, "num_steps": steps}
    found = [estimate_published(model, parse_policy(p), storage=Storage(dtype=dtypes[history_dtype]), **size) for p in policy]
    if as_json:
        facts = ({"policy": e.policy, "bytes_held": e.bytes_held, "sites": len(e.bytes_by_site), "rows": e.rows, "streams": e.streams} for e in found)
        typer.echo(json.dumps({"model": model, "estimates": list(facts)}, indent=1))
        return
    numbers: dict[str, dict[str, Any]] = {heading: {"justify": "right"} for heading in ("holds", "sites", "rows", "streams")}
    shown = table("policy", "holds", "sites", "rows", "streams", "notes", **numbers)
    for e in found:
        shown.add_row(*map(Text, (e.policy, in_bytes(e.bytes_held), str(len(e.bytes_by_site)), str(e.rows), str(e.streams), "; ".join(e.notes))))
    console().print(shown)
