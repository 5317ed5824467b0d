"""`foreseer replay`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from foreseer.columns import known, listed
from foreseer.command_options import Settings, takes
from foreseer.console import complain, console, progress
from foreseer.document import plain
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable_folder

if TYPE_CHECKING:
    from foreseer.workbench.closed_loop import Measured
    from foreseer.workbench.replay import Score
    from foreseer.workbench.trace import Trace

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["replay"]

SPEC = "NAME[:OPTION=VALUE,...]"
USUAL = [f"taylorseer:interval={interval},max_order=1" for interval in range(2, 9)]


@takes("foreseer.bench.source:Source", extra="workbench", into="source")
def replay(
    trace: Annotated[Path, typer.Argument(help="A file that `foreseer record` wrote.")],
    source: Settings,
    predictors: Annotated[
        list[str] | None, typer.Option(metavar=SPEC, help="Predictors; `own` is the policy's. Several may follow one --predictors. Default: own.")
    ] = None,
    schedules: Annotated[
        list[str] | None, typer.Option(metavar=SPEC, help="Static schedules, or lists: steps=0+1+2+5+9. Default: taylorseer at intervals 2 to 8.")
    ] = None,
    gates: Annotated[list[str] | None, typer.Option(metavar=SPEC, help="Policies that judge features, run in a session.")] = None,
    site: Annotated[str, typer.Option(help="What schedules forecast: last, first, output, a block's number, or a recorded site such as 11.block.")] = "last",
    out: Annotated[Path | None, typer.Option(help="Folder for the page and the table; made if it is missing.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write the error of every sample and step too: errors.csv in --out.")] = False,
    closed_loop: Annotated[
        list[str] | None, typer.Option(metavar="N|NAME...", help="Run the N best with the model, or those of these names, on other samples.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Closed loop: how many samples. Default: 32; of a pipeline each prompt once.")] = None,
    batch: Annotated[int | None, typer.Option(help="Closed loop: samples that are drawn together. Default: 16; of a pipeline one.")] = None,
    seed: Annotated[int, typer.Option(help="Closed loop: seed of the noises; another than the recorded one.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score predictors, schedules and gates on a recording, without the model."""
    if (as_csv or closed_loop) and out is None:
        raise OptionError("--csv and --closed-loop write files: name a folder with --out")
    if out is not None:
        refuse_unwritable_folder(out)
    from foreseer.workbench.trace import Trace

    recorded = Trace.load(trace)
    asked = schedules or ([] if gates else USUAL)
    scores, refused = _scores(recorded, trace, predictors or ["own"], asked, gates or [], site)
    measured: list[Measured] = []
    if closed_loop and out is not None:
        from foreseer.workbench.closed_loop import choose_scores, measure

        chosen = choose_scores(scores, closed_loop)
        others: dict[str, Any] = {
            "workload": source(dtype=source.keywords.get("dtype") or recorded.signature.dtype or None),
            "samples": samples,
            "batch": batch,
            "seed": seed,
        }
        with progress() as tell:
            measured = measure(recorded, chosen, out / "closed_loop", tell=tell, **others)
    if as_json:
        both: dict[str, Sequence[Any]] = {"open_loop": scores, "closed_loop": measured}
        figures = {name: [one.figures() for one in several] for name, several in both.items()}
        typer.echo(json.dumps(plain(figures), indent=1))
    else:
        _print(recorded, scores, measured)
    if out is not None:
        named = [predictor for predictor in predictors or () if predictor != "own"]
        for path in _write(recorded, scores, measured, named, site, out, as_csv):
            typer.echo(f"wrote {path}", err=as_json)
    for reason in refused:
        complain(reason)
    if refused:
        raise typer.Exit(2)


def _scores(trace: Trace, path: Path, predictors: Sequence[str], schedules: Sequence[str], gates: Sequence[str], site: str) -> tuple[list[Score], list[str]]:
    """Score everything. Returns the scores, and why gates were refused where there is anything besides."""
    from foreseer.workbench.predictors import is_linear
    from foreseer.workbench.replay import Replay, site_of
    from foreseer.workbench.replay_gates import replay_gate, replay_pair, stored_features

    where = site_of(trace, site)
    linear = [predictor for predictor in predictors if is_linear(trace, predictor, where)]
    others = [p for p in predictors if p not in linear]
    tensors = stored_features(trace, path) if gates or others else None
    scores = Replay(trace, where).scores(linear, schedules) if linear and schedules else []
    if others and tensors is None:
        Replay(trace, where).scores(others, schedules or ["steps=0"])  # says why it cannot
    scores += [replay_pair(trace, predictor, schedule, where, features=tensors) for schedule in schedules for predictor in others]
    refused: list[OptionError] = []
    for gate in gates:
        for predictor in predictors:
            try:
                scores.append(replay_gate(trace, gate, predictor, features=tensors))
            except OptionError as error:
                refused.append(error)
    if refused and not scores:
        raise refused[0]
    return sorted(scores, key=lambda score: (score.cost, score.errors.mean())), [str(error) for error in refused]


def _print(trace: Trace, scores: Sequence[Score], measured: Sequence[Measured]) -> None:
    from foreseer.workbench.closed_loop import CLOSED
    from foreseer.workbench.replay_page import COLUMNS

    out, lines = console(), [score.figures() | {"name": score.name} for score in scores]
    out.print(listed("policy and predictor", known(COLUMNS, lines), lines, lambda line: str(line["name"])))
    where = ", ".join(dict.fromkeys(str(score.site) for score in scores))
    out.print(
        f"\nOpen loop at {where}, {trace.samples} samples: the history of every forecast is that of full computation, and errors do not feed back. "
        "Errors are relative; computed steps have none."
    )
    for score in scores:
        if score.note:
            out.print(f"{score.name}: {score.note}")
    if measured:
        figures = [one.figures() for one in measured]
        out.print()
        out.print(listed("closed loop", known(CLOSED, figures), figures, lambda line: str(line["name"])))
        out.print(
            f"\nPredicted / measured with the model, on {len(measured[0].error)} other samples; the ratio is of the "
            "latent errors. Broken samples, which are not finite, count as 0 dB."
        )


def _write(trace: Trace, scores: Sequence[Score], measured: Sequence[Measured], predictors: Sequence[str], site: str, out: Path, as_csv: bool) -> list[Path]:
    from foreseer.workbench.predictors import is_linear
    from foreseer.workbench.replay import gap_errors, site_of
    from foreseer.workbench.replay_page import write_errors, write_page, write_table

    where = site_of(trace, site)
    linear = [name for name in predictors or ["taylor:max_order=1"] if is_linear(trace, name, where)]
    gaps = {name: gap_errors(trace, name, where) for name in linear}
    written = [write_table(scores, out / "table.csv")]
    if as_csv:
        written.append(write_errors(trace, scores, out / "errors.csv"))
    return [*written, write_page(trace, scores, gaps, measured, out / "index.html")]
