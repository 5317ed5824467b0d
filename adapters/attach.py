"""`attach`: a policy on a model that somebody else calls."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters.calls import intercept
from foreseer.adapters.module_backbone import Call, ModuleBackbone
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.plugins import observer_hooks, policy_hooks
from foreseer.registry import PolicySpec
from foreseer.registry import policy as named
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import Run

__all__ = ["Attachment", "attach"]

_attached: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def attach(
    target: nn.Module,
    policy: str | Callable[..., Any] | PolicySpec,
    /,
    *,
    blocks: str | None = None,
    observers: Sequence[object] = (),
    on_error: Literal["raise", "compute"] = "raise",
    **options: Any,
) -> Attachment:
    """Let a policy drive a model's blocks until detached. Use it as a context manager.

    Args:
        target: A diffusers transformer, or any `torch.nn.Module` with a list of blocks each of which returns one
            tensor ``(rows, ...)``.
        policy: Name of an installed policy (``foreseer policies`` lists them), a factory, or a `foreseer.PolicySpec`.
        blocks: Dotted path of the block list; None to find it.
        observers: Plugins that watch the runs.
        on_error: ``"raise"``, or ``"compute"`` to compute a step in which the policy raised and say so in the report.
        **options: The policy's own options.

    Raises:
        PluginError: No such policy, or it cannot be loaded.
        OptionError: An option of the policy is unknown or out of range.
        UnsupportedModelError: The model has no block list, or a cache of diffusers is enabled on it.
        ContractError: The model is attached already.

    In each case the model is as it was.
    """
    if not isinstance(target, nn.Module):
        inner = getattr(target, "transformer", None)
        hint = "; attach to its model: foreseer.attach(pipe.transformer, ...)" if isinstance(inner, nn.Module) else ""
        raise UnsupportedModelError(f"cannot attach to a {type(target).__name__}: a torch.nn.Module is needed{hint}")
    if on_error not in ("raise", "compute"):
        raise ValueError(f"on_error={on_error!r} is unknown; write 'raise' or 'compute'")
    spec = named(policy, **options)
    policy_hooks(spec())
    observer_hooks(observers)
    return Attachment(target, spec, blocks=blocks, observers=observers, on_error=on_error)


class Attachment:
    """A policy on a model. Made by `attach`; all state lives here, none on the model or its class."""

    def __init__(self, model: nn.Module, spec: PolicySpec, *, blocks: str | None, observers: Sequence[object], on_error: Literal["raise", "compute"]) -> None:
        if model in _attached:
            raise ContractError(
                f"this {type(model).__name__} has policy {_attached[model]} attached already; detach it first (leave its `with`, or call detach())"
            )
        if getattr(model, "is_cache_enabled", False):
            raise UnsupportedModelError(f"a diffusers cache is enabled on this {type(model).__name__}; call its disable_cache() first")
        self.spec = spec
        self.model = model
        self._observers, self._on_error = tuple(observers), on_error
        self._backbone = ModuleBackbone(model, blocks=blocks)
        self._open: dict[str, Any] | None = None
        self._session: Session | None = None
        self._outside = 0
        self._backbone.install()
        self._root = intercept(model, self._around)
        _attached[model] = str(spec)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put the model back as it was, bit for bit. Ends a run that is under way; does nothing the second time."""
        if _attached.pop(self.model, None) is None:
            return
        if self._session is not None:
            self._session.finish()
        self._open = None
        self._root.restore()
        self._backbone.uninstall()

    @contextlib.contextmanager
    def run(
        self,
        *,
        timesteps: Sequence[float] | Tensor | None = None,
        num_steps: int | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        groups: Sequence[int] | int | None = None,
        stream: str = "",
    ) -> Iterator[Attachment]:
        """One sampling run: calls of the model inside are its steps.

        Args:
            timesteps: ``(T,)`` one per call of the model, in the order of the calls.
            num_steps: Number of calls, where the timesteps are not known. Policies that need it say so.
            sigmas: ``(T,)`` noise levels, for policies that want them.
            groups: Which rows are one sample: ``(R,)`` labels, or the number of samples, B, if row r belongs to
                sample r mod B (guidance by concatenation). None: every row is a sample.
            stream: A name for the report, where several runs make up one sampling.

        Raises:
            ContractError: A run is under way already, or the model was compiled or wrapped since it was attached.
        """
        if self.model not in _attached:
            raise ContractError("this attachment is detached; attach anew")
        if self._open is not None:
            raise ContractError("a run is under way already; end it before the next")
        if not (self._root.intact and self._backbone.intact):
            raise ContractError("the model was compiled or wrapped after foreseer was attached, so its calls no longer arrive; compile first, attach last")
        times = _floats(timesteps)
        if times is not None and num_steps is not None and len(times) != num_steps:
            raise ValueError(f"num_steps={num_steps} but timesteps has {len(times)} entries; give one of them")
        self._open = {
            "timesteps": times,
            "num_steps": len(times) if times is not None else num_steps,
            "sigmas": _floats(sigmas),
            "groups": groups,
            "stream": stream,
        }
        self._session, self._outside = None, 0
        try:
            yield self
        finally:
            self._open = None
            if self._session is not None:
                self._session.finish()

    @property
    def report(self) -> Report:
        """The account of the run under way, or of the last one.

        Raises:
            ContractError: Nothing has run yet.
        """
        if self._session is None:
            raise ContractError("nothing has run yet: call the model inside `with attached.run(timesteps=...):`")
        report = self._session.report
        if self._outside:
            note = f"{self._outside} calls came outside of attached.run() and were computed"
            report = attrs.evolve(report, warnings=(*report.warnings, note))
        return report

    def _around(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._open is None:
            self._outside += 1
            return inner(*args, **kwargs)
        call = Call(inner, args, kwargs)
        rows = self._backbone.rows(call)
        if self._session is None:
            self._session = self._start(rows)
        if rows != self._session.run.rows:
            raise ContractError(f"this run began with {self._session.run.rows} rows and was called with {rows}; give each batch size a run of its own")
        if torch.is_grad_enabled() and _differentiates(self.model, args, kwargs):
            return self._session.evaluate(call, computed_because="gradients are enabled: wrap the loop in torch.no_grad()")
        return self._session.evaluate(call)

    def _start(self, rows: int) -> Session:
        assert self._open is not None
        given = dict(self._open)
        groups = given.pop("groups")
        if isinstance(groups, int):
            if groups < 1 or rows % groups:
                raise ContractError(f"groups={groups} samples do not divide the {rows} rows of the call")
            groups = [row % groups for row in range(rows)]
        if groups is not None and len(groups) != rows:
            raise ContractError(f"groups has {len(groups)} labels for the {rows} rows of the call; give one per row, or the number of samples")
        run = Run(
            depth=self._backbone.depth,
            rows=rows,
            groups=tuple(range(rows)) if groups is None else tuple(int(g) for g in groups),
            sites=self._backbone.sites,
            **given,
        )
        return Session(self._backbone, self.spec, run, observers=self._observers, on_error=self._on_error)


def _floats(values: Sequence[float] | Tensor | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else values
    return tuple(float(v) for v in listed)


def _differentiates(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call would build a graph: a forecast has no gradient."""
    tensors = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
    return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in model.parameters())
