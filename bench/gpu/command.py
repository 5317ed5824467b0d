"""`foreseer bench gpu`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from foreseer.console import needs

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["gpu"]


def gpu(
    out: Annotated[Path, typer.Option(help="The JSON file of the results; the same command goes on with what is there.")],
    models: Annotated[list[str] | None, typer.Option(help="Models; all of the scale if left out.")] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(help="Lanes, such as taylorseer-5 or speca, or installed policies with their options."),
    ] = None,
    scale: Annotated[str, typer.Option(help="published, or tiny to try the script out.")] = "published",
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 50,
    repeats: Annotated[int, typer.Option(help="Runs of each lane.")] = 3,
    full_steps: Annotated[int, typer.Option(help="Steps of full computation beside each run.")] = 10,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu.")] = "cuda",
    dtype: Annotated[
        str,
        typer.Option(help="bfloat16, float16 or float32; bfloat16 on a GPU and float32 on the CPU if left out."),
    ] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile each block (regional compilation).")] = False,
    history_device: Annotated[str, typer.Option(help="cpu keeps the features in pinned memory of the host.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Time policies on models in their published shapes, with random weights and forced decisions. Of quality
    nothing is said.
    """
    with needs("bench gpu", "bench"):
        from foreseer.bench.gpu.suite import Settings, time_all
        from foreseer.bench.gpu.tables import print_timings
    settings = Settings(
        scale=scale,
        steps=steps,
        repeats=repeats,
        full_steps=min(full_steps, steps),
        device=device,
        dtype=dtype or ("float32" if device.startswith("cpu") else "bfloat16"),
        compiled=compiled,
        history_device=history_device or None,  # type: ignore[arg-type]  # Settings refuses what is neither
    )
    try:
        with needs("bench gpu", "bench"):
            content = time_all(
                settings,
                models or (),
                policies or (),
                out,
                restart=restart,
                tell=lambda what: typer.echo(what, err=True),
            )
    except KeyboardInterrupt:
        if out.exists():
            print_timings(json.loads(out.read_text()))
        raise
    print_timings(content)
