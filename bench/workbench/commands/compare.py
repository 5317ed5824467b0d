"""`foreseer compare`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, get_args

from foreseer.command_options import Settings, takes
from foreseer.errors import OptionError
from foreseer.listing import OBSERVERS
from foreseer.registry import parse_policy

if TYPE_CHECKING:
    from foreseer.bench.comparison import Afterwards

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["compare"]

SPEC = "NAME[:OPTION=VALUE,...]"


@takes("foreseer.bench.source:Source", extra="bench", into="source")
@takes("foreseer.bench.target:Wanted", extra="bench", into="wanted")
@takes(
    "foreseer.bench.compared:CompareSettings",
    extra="bench",
    leave_out=("workload", "target"),
    policies={"metavar": SPEC},
    observers={"metavar": SPEC},
)
@takes("foreseer.bench.ray_settings:RaySettings", extra="bench", into="ray", ray={"metavar": "[ADDRESS]"})
def compare(
    source: Settings,
    settings: Settings,
    wanted: Settings,
    ray: Settings,
    headroom: Annotated[
        bool,
        typer.Option("--headroom", help="Also record them, and measure the best schedules in hindsight."),
    ] = False,
    headroom_target: Annotated[
        str,
        typer.Option(help="What those schedules forecast: last_block, residual, residual_after_first or output."),
    ] = "last_block",
) -> None:
    """Compare policies on a model: a bundled one, or a pipeline of yours with prompts."""
    given = settings.keywords
    for policy in given.get("policies", ()):
        parse_policy(policy)  # a wrong name is told before anything is loaded
    for observer in given.get("observers", ()):
        parse_policy(observer, group=OBSERVERS)
    from foreseer.policies.drafting import Whole

    if headroom_target not in get_args(Whole):
        raise OptionError(f"headroom_target={headroom_target!r} is unknown; write one of {', '.join(get_args(Whole))}")
    from foreseer.bench.comparison import run_comparison

    asked = settings(workload=source(), target=wanted().target)
    found = run_comparison(asked, afterwards=_headroom(headroom_target) if headroom else None, ray=ray())
    if found.interrupted:
        raise KeyboardInterrupt  # what was finished is written; the exit status says that it is not all
    if found.failed:
        raise typer.Exit(1)


def _headroom(target: Any) -> Afterwards:
    from foreseer.workbench.headroom import headroom

    return functools.partial(headroom, target=target)
