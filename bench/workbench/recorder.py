"""`TraceRecorder`: an observer that turns the features of full computation into inner products while they are
computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.machine import versions
from foreseer.contract import lacking
from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.outcome import Outcome
from foreseer.report import Report
from foreseer.signature import Signature
from foreseer.types import OUTPUT, Run, Site, Step
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.parts import joined, unlike
from foreseer.workbench.record_settings import Recordable, recorded_sites, sites_from
from foreseer.workbench.trace import Trace

__all__ = ["TraceRecorder"]

AT_ONCE = 1 << 22
"""Numbers that are turned into float64 at once, 32 MiB."""


@attrs.define(eq=False)
class _Recording:
    """A run under way: its features so far, and their inner products."""

    where: tuple[Tensor, Tensor]
    samples: int
    copies: int
    held: dict[Site, Tensor] = attrs.field(factory=dict)
    grams: dict[Site, Tensor] = attrs.field(factory=dict)
    times: list[float | None] = attrs.field(factory=list)


class TraceRecorder:
    """Records runs of full computation: hand it to `foreseer.attach` or `foreseer.sample` as an observer,
    with policy ``"none"``. Nothing of a run changes.

    Any number of runs may be recorded one after the other (batches); their samples are put side by side.
    Features of past steps are held in their own dtype until their run ends.

    An observer cannot end a run. So where a run cannot be recorded (a policy forecast something, a step was
    left out), its report says that the recorder was dropped, and `trace` raises.

    Args:
        sites: ``"default"``: the outputs of the first and the last block, and `foreseer.OUTPUT`.
            ``"blocks"``: of every block, and `foreseer.OUTPUT`. Or a list, of sites and of ``"residual"``
            and ``"residual_after_first"``; block -1 is the last.
        keep_on: Where to hold the features of a run under way, such as ``"cpu"``; None holds them where they
            were computed.
        store: Takes the tensors of each finished run; None lets go of them.

    Raises:
        OptionError: ``sites`` is neither of the words nor a list of sites, or ``keep_on`` is no device.
    """

    def __init__(self, *, sites: Recordable = "default", keep_on: str | torch.device | None = None, store: FeatureStore | None = None) -> None:
        self._sites = sites_from(sites)
        try:
            self._keep_on = None if keep_on is None else torch.device(keep_on)
        except RuntimeError as error:
            raise OptionError(f"keep_on={keep_on!r} is no device; write 'cpu', or None to hold features where they are computed") from error
        self._store = store
        self._under_way: dict[Run, _Recording] = {}
        self._done: dict[str, list[Trace]] = {}
        self._problem = ""
        self.notes: list[str] = []
        """What was not recorded, in sentences: runs that ended early."""
        self.evaluations = 0
        """Denoiser evaluations of the recorded runs."""

    @property
    def samples(self) -> int:
        """Samples recorded so far, in every stream."""
        return min((sum(run.samples for run in runs) for runs in self._done.values()), default=0)

    @hookimpl
    def features_wanted(self, run: Run) -> tuple[Site, ...]:
        """Ask for the sites."""
        wanted = recorded_sites(self._sites, depth=run.depth)
        return wanted if not isinstance(self._sites, str) else tuple(site for site in wanted if site in run.sites or site == OUTPUT)

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Make room for a run."""
        if self._problem:
            self._refuse(self._problem)
        groups, samples = run.groups, list(dict.fromkeys(run.groups))
        copies = sorted({groups.count(group) for group in samples})
        if len(copies) > 1:
            self._refuse(f"samples of this run have {copies[0]} to {copies[-1]} rows; give every sample as many")
        sample = torch.tensor([samples.index(group) for group in groups])
        copy = torch.tensor([groups[:row].count(group) for row, group in enumerate(groups)])
        self._under_way[run] = _Recording((sample, copy), len(samples), copies[0])

    @hookimpl
    @torch.no_grad()
    def on_features(self, run: Run, step: Step, rows: tuple[int, ...], features: Mapping[Site, Tensor]) -> None:
        """Hold a step's features, and multiply them with those before."""
        if self._problem:
            self._refuse(self._problem)
        recording = self._under_way[run]
        if len(rows) != run.rows:
            self._refuse_forecast(step)
        index = len(recording.times)
        if step.index != index:
            self._refuse(f"the model was not called in step {index} of stream {run.stream!r}, so that the run has no feature there; it cannot be recorded")
        recording.times.append(step.timestep)
        for site in self.features_wanted(run):
            if site not in features:
                self._refuse(f"the recorder is to record {str(site)!r}, {lacking(site, run)}")
            self._hold(recording, site, index, features[site].detach(), run.num_steps or 0)

    @hookimpl
    def on_step(self, run: Run, step: Step, outcome: Outcome) -> None:
        """Refuse forecasts."""
        if not outcome.full:
            self._refuse_forecast(step)

    @hookimpl
    def on_run_end(self, report: Report) -> None:
        """Keep the inner products of a whole run, and let go of its features."""
        run = report.run
        if (recording := self._under_way.pop(run, None)) is None:
            return
        if (steps := len(recording.times)) == 0 or (run.num_steps is not None and steps < run.num_steps):
            self.notes.append(f"a run of stream {run.stream!r} ended after {steps} of {run.num_steps} steps and was not recorded")
            return
        grams = {site: _whole(gram[:, :steps, :steps]) for site, gram in recording.grams.items()}
        if broken := [str(site) for site, gram in grams.items() if not np.isfinite(gram).all()]:
            self._refuse(f"features of {', '.join(broken)} are not finite; compute in another dtype")
        signature = Signature(
            model=run.model,
            scheduler=run.scheduler,
            num_steps=steps,
            timesteps=[t for t in recording.times if t is not None] if None not in recording.times else (),
            dtype=str(next(iter(recording.held.values())).dtype).removeprefix("torch."),
            shapes={str(site): list(held.shape[3:]) for site, held in recording.held.items()},
            versions=versions(),
        )
        runs = self._done.setdefault(run.stream, [])
        found = Trace(
            signature=signature,
            depth=run.depth,
            copies=recording.copies,
            labels=("",) * recording.samples,
            streams=(run.stream,),
            grams={(run.stream, site): gram for site, gram in grams.items()},
            sensitivity=np.zeros((recording.samples, 0)),
        )
        if differing := unlike(runs[0], found) if runs else "":
            self._refuse(f"this run is unlike the first: {differing}; record it with a recorder of its own")
        try:
            if self._store is not None:
                self._store.add(run.stream, {site: held[:, :steps].cpu() for site, held in recording.held.items()})
        except (OptionError, OSError) as error:
            self._refuse(f"the features of a run could not be kept: {error}")
        self.evaluations += steps
        runs.append(found)

    def trace(
        self,
        *,
        labels: Sequence[str] | None = None,
        final: Tensor | None = None,
        guidance: float | None = None,
        conditions: str = "",
        features: str = "",
    ) -> Trace:
        """Return what was recorded, without sensitivities.

        Args:
            labels: ``(S,)`` what each sample was conditioned on; None numbers them.
            final: ``(S, ...)`` the final latents, for their norms; None where they are not at hand.
            guidance: Weight of the guidance, for the signature.
            conditions: Hash of the conditions, likewise.
            features: Name of the folder that holds the tensors.

        Raises:
            OptionError: Nothing whole was recorded, or a run was none of full computation; the message says
                what happened.
        """
        if self._problem:
            raise OptionError(self._problem)
        if self._under_way:
            raise OptionError("a run is under way, or the recorder was dropped from it: the warnings of its report say why; record anew")
        if not self._done:
            raise OptionError(" ".join(["nothing was recorded: run the model with this observer attached, policy 'none'.", *self.notes]))
        counts = {stream: sum(run.samples for run in runs) for stream, runs in self._done.items()}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} of {stream!r}" for stream, count in counts.items())
            raise OptionError(f"the streams have different numbers of samples: {found}; a sampling was interrupted: record anew")
        samples = self.samples
        given = [str(label) for label in labels] if labels is not None else [str(index) for index in range(samples)]
        for name, count in (("labels", len(given)), ("final", samples if final is None else len(final))):
            if count != samples:
                raise OptionError(f"{name} has {count} entries for {samples} samples; give one for each")
        of_stream = [joined(runs) for runs in self._done.values()]
        first = of_stream[0]
        flat = None if final is None else final.detach().double().flatten(1).cpu()
        return attrs.evolve(
            first,
            signature=attrs.evolve(first.signature, guidance=guidance, conditions=conditions),
            labels=tuple(given),
            streams=tuple(self._done),
            grams={key: gram for found in of_stream for key, gram in found.grams.items()},
            final_norm=np.zeros(0) if flat is None else flat.norm(dim=1).numpy(),
            final_size=0 if flat is None else flat.shape[1],
            features=features,
        )

    def _hold(self, recording: _Recording, site: Site, index: int, feature: Tensor, expected: int) -> None:
        device = self._keep_on or feature.device
        if device.type == "mps":  # it has no float64
            device = torch.device("cpu")
        held, gram = recording.held.get(site), recording.grams.get(site)
        shape = (recording.samples, recording.copies, *feature.shape[1:])
        if held is not None and (held.shape[0], *held.shape[2:]) != shape:
            self._refuse(f"features of {site} change their shape from step to step; leave the site out")
        if held is None or gram is None or index >= held.shape[1]:
            room = max(expected, 2 * index, index + 1)
            more = feature.new_empty((shape[0], room, *shape[1:]), device=device)
            wider = torch.zeros(shape[0], room, room, dtype=torch.float64, device=device)
            if held is not None and gram is not None:
                more[:, :index], wider[:, :index, :index] = held[:, :index], gram[:, :index, :index]
            recording.held[site], recording.grams[site] = held, gram = more, wider
        where = (recording.where[0].to(device), index, recording.where[1].to(device))
        held[where] = feature.to(device)
        for sample in range(shape[0]):
            past = held[sample, : index + 1].reshape(index + 1, -1)
            gram[sample, index, : index + 1] = _products(past, past[index])

    def _refuse_forecast(self, step: Step) -> None:
        self._refuse(f"step {step.index} was forecast, and only full computation can be recorded: attach the recorder with policy 'none'")

    def _refuse(self, problem: str) -> None:
        self._problem = problem
        self._under_way.clear()
        raise OptionError(problem)


def _products(past: Tensor, now: Tensor) -> Tensor:
    """Inner products ``(K,)`` float64 of each of ``(K, N)`` with ``(N,)``, a part at a time."""
    width = max(AT_ONCE // len(past), 1)
    total = torch.zeros(len(past), dtype=torch.float64, device=past.device)
    for start in range(0, past.shape[1], width):
        total += past[:, start : start + width].double() @ now[start : start + width].double()
    return total


def _whole(lower: Tensor) -> NDArray[np.float64]:
    found = lower.cpu().numpy()
    return np.asarray(np.tril(found) + np.swapaxes(np.tril(found, -1), 1, 2))
