"""`attach`: a policy on a model or pipeline that somebody else calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
from torch import nn

from foreseer.adapters.attachment import Attachment
from foreseer.adapters.denoisers import find_denoisers
from foreseer.adapters.findings import Findings
from foreseer.adapters.identity import identity_of
from foreseer.adapters.parallel import check_process_group
from foreseer.adapters.refusals import refuse, refuse_options
from foreseer.adapters.wires import Wires
from foreseer.errors import OptionError
from foreseer.plugins import observer_hooks, policy_hooks
from foreseer.presets import Preset
from foreseer.registry import PolicySpec, build_observers, signature_of
from foreseer.registry import policy as named
from foreseer.storage import Storage

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["attach"]


def attach(
    target: Any,
    policy: str | Path | Callable[..., Any] | PolicySpec | Preset,
    /,
    *,
    blocks: str | None = None,
    streams: Literal["independent", "follow_first"] = "independent",
    observers: Sequence[object] = (),
    on_error: Literal["raise", "compute"] = "raise",
    storage: Storage | None = None,
    process_group: ProcessGroup | Literal["auto"] | None = "auto",
    copies: int | None = None,
    findings: Findings | None = None,
    **options: Any,
) -> Attachment:
    """Let a policy drive a model's blocks until detached. Use it as a context manager.

    Args:
        target: A diffusers pipeline, whose calls are then runs; or a denoiser, that is a diffusers
            transformer or any `torch.nn.Module` with a list of blocks, whose runs you mark with
            ``attached.run(...)``; or several of one loop, as ``{"transformer": ..., "transformer_2": ...}``.
        policy: Name of an installed policy (``foreseer policies`` lists them), with its options or without
            (``"speca:threshold=0.1,max_order=2"``, as everywhere), a factory, or a `foreseer.PolicySpec`. Or
            a preset: the name of an installed one (`foreseer.zoo.presets`), the file of one, or a
                `foreseer.presets.Preset`. Another model or scheduler than it was
            tuned on is refused here, another number of steps or other timesteps at the start of a run.
        blocks: Dotted path of the block list, several separated by commas; None to find them.
        streams: Where a pipeline calls the model several times in a step (guidance in two calls):
            ``"independent"`` lets each stream decide by itself; ``"follow_first"`` lets the first decide for
            all, as the released TaylorSeer and CG-Taylor code for Wan does.
        observers: Plugins that watch the runs, or names of installed ones (``"csvtrace:path=trace.csv"``),
            built once for this attachment.
        on_error: ``"raise"``, or ``"compute"`` to compute a step in which the policy raised and say so in the
            report.
        storage: Where and how features are kept, and how much of them; None keeps them as they are computed,
            without a limit.
        process_group: The processes that share each sample's tokens (context or sequence parallelism) and so
            must decide alike. ``"auto"`` finds diffusers' own, at each run's start; None: each process
            decides for itself, right where each has samples of its own.
        copies: How many rows of a pipeline's call are one sample, where it concatenates for guidance (row r
            belongs to sample r mod R/copies); None recognises them by their equal latents. A bare model says
            ``groups=`` for each run.
        findings: What an earlier attachment found out about the same models (`Attachment.findings`), so that
            they are not examined again; None to find it out. Of models that were changed since nothing is used.
        **options: The policy's own options, for convenience. One that has the name of an argument above is
            written in ``policy``. Of a preset: ``any_model=True`` uses it wherever it was tuned; the report
                then says what differs.

    Raises:
        PluginError: No such policy, or it cannot be loaded.
        OptionError: An argument, or an option of the policy, is unknown or out of range; or a preset is not
            there, or was tuned on another model or scheduler.
        UnsupportedModelError: There is no model with a block list, or a cache of diffusers is enabled on it.
        ContractError: A model is attached already.

    In each case everything is as it was. A run may also raise `OverBudgetError`, see `foreseer.Storage`.
    """
    given = {name: value for name, value in locals().items() if name in OWN and value is not OWN[name]}
    models, bystanders = find_denoisers(target)
    pipeline = None if isinstance(target, (nn.Module, Mapping)) else target
    refuse_options(on_error, storage)
    if streams not in ("independent", "follow_first"):
        raise OptionError(f"streams={streams!r} is unknown; write 'independent' or 'follow_first'")
    check_process_group(process_group)
    if copies is not None and (isinstance(copies, bool) or not isinstance(copies, int) or copies < 1):
        raise OptionError(f"copies={copies!r} is out of range; write a whole number >= 1, or None to recognise them")
    if findings is not None and not isinstance(findings, Findings):
        raise OptionError(f"findings={findings!r} are none; write those of an earlier attachment, attached.findings, or None")
    if blocks is not None and not isinstance(blocks, str):
        raise OptionError(f"blocks={blocks!r} is no path; write one such as 'transformer_blocks', several separated by commas, or None to find them")
    spec = named(policy, **options)
    _refuse_ambiguous(spec, given)
    policy_hooks(spec.look())
    if spec.preset is not None:
        scheduler = "" if pipeline is None else identity_of(pipeline.scheduler)
        # the number of steps is not known before a run
        spec.elsewhere(attrs.evolve(spec.preset.signature, model=identity_of(next(iter(models.values()))), scheduler=scheduler))
    watchers = build_observers(observers)
    observer_hooks(watchers)
    for model in models.values():
        refuse(model)
    wires = {name: Wires(model, blocks) for name, model in models.items()}
    return Attachment(
        pipeline,
        wires,
        spec,
        streams=streams,
        observers=watchers,
        on_error=on_error,
        storage=storage,
        process_group=process_group,
        copies=copies,
        findings=findings,
        bystanders=bystanders,
    )


OWN = {name: p.default for name, p in signature_of(attach).parameters.items() if p.kind is p.KEYWORD_ONLY}
"""Arguments of `attach` that no option of a policy can be."""


def _refuse_ambiguous(spec: PolicySpec, given: Mapping[str, Any]) -> None:
    """Refuse an argument that may be meant for the policy. Who writes the policy's option into its text has
    said which is which.
    """
    for name in signature_of(spec.factory).parameters:
        if name in given and name not in spec.options:
            raise OptionError(
                f"{name}={given[name]!r} is an argument of attach, and policy {spec.name!r} has an option of that name; "
                f"write the option into the policy: '{spec.name}:{name}=...'"
            )
