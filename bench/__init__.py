"""Measuring: policies and peers on the same noises, from a pipeline in a notebook to a published table."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreseer.bench.compared import Result
    from foreseer.bench.target import Target
    from foreseer.presets import Preset
    from foreseer.registry import PolicySpec

__all__ = ["compare"]


def compare(
    pipeline: Any,
    /,
    *,
    policies: Sequence[str | Path | PolicySpec | Preset] | None = None,
    target: Target | None = None,
    prompts: str | Path | Sequence[str | Mapping[str, Any]] | None = None,
    call: Mapping[str, Any] | None = None,
    steps: int | None = None,
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    measures: Sequence[str] = (),
    solvers: Sequence[str] = (),
    reference: str | None = None,
    reference_steps: int = 400,
    out: str | Path | None = None,
    restart: bool = False,
    show: bool = True,
) -> Result:
    """Compare policies on a pipeline, as `foreseer compare` does; the result draws itself in a notebook.

    Args:
        pipeline: A diffusers pipeline; a pair of one and of ``call(pipe, condition, generator)``, which draws;
            a `foreseer.bench.workload.Workload`; or the name of a bundled one, ``"flux"``.
        policies: What to compare with full computation; None for those of the command.
        target: What a policy is wanted for, ``Target("speedup", 3)``; None for nothing in particular.
        prompts: Texts, or the arguments of each call, or their file; see `foreseer.bench.prompts`.
        call: Arguments of every call of the pipeline.
        steps: Denoising steps; None for those of ``call``, or the pipeline's own number.
        samples: How many samples each policy draws; None for one for each prompt.
        batch: Samples that are drawn together; None for 1.
        seed: Of the noises.
        measures: Quality measures beside PSNR and SSIM, as on the command line: ``["lpips"]``.
        solvers: Other solvers to draw plainly with, as `foreseer.bench.solvers` writes them: ``["dpmpp_2m"]``.
        reference: Solver of a converged reference, to which every row has a PSNR then, too; None for none.
        reference_steps: Steps of the reference.
        out: Folder for the page and the numbers, with which the same call goes on; None for a new one among
            temporary files.
        restart: Throw away what is in it.
        show: Whether to print progress and the table.

    Raises:
        OptionError, PluginError, UnsupportedModelError: See `foreseer.bench.comparison.run_comparison`.
    """
    from foreseer.bench.compared import CompareSettings
    from foreseer.bench.comparison import run_comparison
    from foreseer.bench.pipelines import workload_of
    from foreseer.bench.prompts import prompts_from
    from foreseer.errors import OptionError

    workload = pipeline
    if isinstance(pipeline, str) and (prompts or call):
        raise OptionError(f"{pipeline!r} is a workload, which has conditions of its own; leave {'prompts' if prompts else 'call'} out")
    if not isinstance(pipeline, str):
        bare, own_call = pipeline if isinstance(pipeline, tuple) else (pipeline, None)
        workload = workload_of(bare, name=type(bare).__name__, prompts=prompts_from(prompts), call=call or {}, own_call=own_call)
    chosen: dict[str, Any] = {} if policies is None else {"policies": policies}
    folder = Path(tempfile.mkdtemp(prefix="foreseer-")) if out is None else Path(out)
    settings = CompareSettings(
        workload=workload,
        target=target,
        steps=steps,
        samples=samples,
        batch=batch,
        seed=seed,
        measures=tuple(measures),
        out=folder,
        restart=restart,
        **chosen,
        solvers=tuple(solvers),
        reference=reference,
        reference_steps=reference_steps,
    )
    return run_comparison(settings, show=show)
