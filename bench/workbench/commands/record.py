"""`foreseer record`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from foreseer.console import needs, progress
from foreseer.errors import OptionError

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["record"]


def record(
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors. The same command goes on with what is unfinished.")],
    family: Annotated[str, typer.Option(help="What to record: dit, flux or wan.")] = "dit",
    samples: Annotated[int, typer.Option(help="How many samples.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the family's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the guidance. Default: the family's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noises.")] = 0,
    batch: Annotated[int, typer.Option(help="Samples that are drawn together.")] = 16,
    sites: Annotated[str, typer.Option(help="default (first and last block, and output), blocks, or a list: 0.block,11.attn,last,output.")] = "default",
    sensitivity: Annotated[
        str,
        typer.Option(
            metavar="every=N,samples=M|none", help="Measure at every N-th step, on the first M samples (0: all); each step takes one more sampling of them."
        ),
    ] = "every=1,samples=4",
    target: Annotated[str | None, typer.Option(help="Site whose errors are let through to measure. Default: the last block.")] = None,
    features: Annotated[str | None, typer.Option(metavar="float32|float16", help="Keep the tensors too, in a folder beside the file.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    keep_on: Annotated[str | None, typer.Option(help="Where to hold features while a run is under way. Default: where they are computed.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there.")] = False,
) -> None:
    """Record a model once: inner products of its features, and sensitivities."""
    every, measured = _measured(sensitivity)
    with needs("record", "workbench"):
        from foreseer.bench.families import load_family
        from foreseer.bench.fields import DTYPES, refuse_device
        from foreseer.workbench.record_settings import RecordSettings
        from foreseer.workbench.recording import record as run
        from foreseer.workbench.recording import refuse_existing
        from foreseer.workbench.sensitivity import steps_to_measure
        from foreseer.workbench.sites import sites_from

        chosen = sites_from(sites)
        aim = None if target is None else sites_from(target)
        if isinstance(aim, str) or (aim is not None and len(aim) != 1):
            raise OptionError(f"target={target!r} is no site; write one such as last, 11.attn or output")
        if dtype not in DTYPES:
            raise OptionError(f"dtype={dtype!r} is unknown; write one of {', '.join(DTYPES)}")
        settings = RecordSettings(
            samples=samples,
            steps=steps,
            guidance=guidance,
            seed=seed,
            batch=batch,
            sites=chosen,
            every=every,
            measured=measured,
            target=None if aim is None else aim[0],
            features=features,  # type: ignore[arg-type]  # checked there
            keep_on=keep_on,
        )
        refuse_device(device)
        if not restart:
            refuse_existing(out)
        loaded = load_family(family, device=device, dtype=dtype)
        if every is not None:
            count = len(steps_to_measure(steps or loaded.num_steps, every))
            few = min(measured or samples, samples)
            typer.echo(f"measuring sensitivities at {count} steps takes {count} more samplings of {few} of the {samples} samples", err=True)
        with progress() as tell:
            recorded = run(loaded, out, settings=settings, restart=restart, tell=tell)
    typer.echo(recorded.summary)


def _measured(text: str) -> tuple[int | None, int | None]:
    """Return at every how many steps to measure (None: nowhere), and how many samples (None: all)."""
    if text == "none":
        return None, None
    found = re.fullmatch(r"every=(\d+)(?:,samples=(\d+))?", text)
    if found is None or int(found[1]) < 1:
        raise OptionError(f"sensitivity={text!r} is unknown; write every=1,samples=4 to measure every step on four samples (samples=0: on all), or none")
    return int(found[1]), 4 if found[2] is None else int(found[2]) or None
