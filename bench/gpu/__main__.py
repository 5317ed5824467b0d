"""The command line of ``python -m foreseer.bench.gpu``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from foreseer.bench.gpu.lanes import LANES
from foreseer.bench.gpu.suite import Settings, time_all
from foreseer.bench.gpu.tables import print_timings
from foreseer.console import Several, complain
from foreseer.errors import ForeseerError

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["app"]


class _Command(Several):
    """Turns what foreseer raises on purpose into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ForeseerError as error:
            complain(str(error))
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            if (error.name or "foreseer").startswith("foreseer"):
                raise
            complain(f"the timings need {error.name}: pip install 'foreseer[bench]'")
            raise typer.Exit(1) from None


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=_Command)
def main(
    out: Annotated[Path, typer.Option(help="The JSON file of the results; the same command goes on with what is there.")],
    models: Annotated[list[str] | None, typer.Option(help="Models; all of the scale if left out.")] = None,
    policies: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(LANES)}, or an installed policy with its options.")] = None,
    scale: Annotated[str, typer.Option(help="published, mid (two laws on the CPU) or tiny (to try the script out).")] = "published",
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 50,
    repeats: Annotated[int, typer.Option(help="Runs of each lane.")] = 3,
    full_steps: Annotated[int, typer.Option(help="Steps of full computation beside each run.")] = 10,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu; cpu where the scale is mid.")] = "",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32; bfloat16 on a GPU and float32 on the CPU if left out.")] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile each block (regional compilation).")] = False,
    history_device: Annotated[str, typer.Option(help="cpu keeps the features in pinned memory of the host.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Time policies on models in their published shapes, with random weights and forced decisions. Of quality nothing is said."""
    where = device or ("cpu" if scale == "mid" else "cuda")
    settings = Settings(
        scale=scale,
        steps=steps,
        repeats=repeats,
        full_steps=min(full_steps, steps),
        device=where,
        dtype=dtype or ("float32" if where.startswith("cpu") else "bfloat16"),
        compiled=compiled,
        history_device=history_device or None,  # type: ignore[arg-type]  # Settings refuses what is neither
    )
    try:
        record = time_all(settings, models or (), policies or (), out, restart=restart, tell=lambda what: typer.echo(what, err=True))
    except KeyboardInterrupt:
        if out.exists():
            print_timings(json.loads(out.read_text()))
        complain("interrupted; the same command goes on")
        raise typer.Exit(130) from None
    print_timings(record.content)


if __name__ == "__main__":
    app(prog_name="python -m foreseer.bench.gpu")
