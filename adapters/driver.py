"""Calls of the denoisers of an attachment, driven: to the session of their stream, and on with it where the
model turns out to be another than it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from foreseer.adapters.anatomy import Rewired
from foreseer.adapters.arguments import differentiates
from foreseer.adapters.calls import Call
from foreseer.adapters.findings import Findings
from foreseer.adapters.generation import Generation, Place
from foreseer.adapters.identity import identity_of
from foreseer.adapters.parallel import vote_for
from foreseer.adapters.rows import copies_in, latents_in_words
from foreseer.adapters.streams import Key, Stream, Streams
from foreseer.adapters.visits import Plain, Visits
from foreseer.adapters.wires import Wires
from foreseer.declared import groups_of
from foreseer.errors import ContractError, OptionError, OverBudgetError, UnsupportedModelError
from foreseer.report import Report
from foreseer.types import Run
from foreseer.vote import Vote

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


__all__ = ["Driver"]

EXAMINED = 3
"""How often a model is examined anew for one stream of a run. A call that is another one in every step is
computed.
"""


class Driver:
    """See the module.

    Args:
        wires: Of each denoiser, by its name.
        streams: Their sessions.
        scheduler: Says which scheduler it is, in the way of `identity_of`.
        process_group: As in `foreseer.attach`.
        last_block_over_budget: Whether the last block is forecast where module parts are over budget.
        copies: As in `foreseer.attach`.
    """

    def __init__(
        self,
        wires: Mapping[str, Wires],
        streams: Streams,
        *,
        scheduler: Callable[[], str],
        process_group: ProcessGroup | Literal["auto"] | None,
        last_block_over_budget: bool,
        copies: int | None,
    ) -> None:
        self._wires, self._streams, self._scheduler = dict(wires), streams, scheduler
        self._process_group, self._last_block, self._copies = process_group, last_block_over_budget, copies
        self._votes = self._votes_now()
        self._inert: dict[tuple[str, object], str] = {}
        self._nobodys: Counter[str] = Counter()

    @property
    def reports(self) -> dict[str, Report]:
        """See `Streams.reports`."""
        return self._streams.reports

    @property
    def findings(self) -> Findings:
        """See `Streams.findings`."""
        return self._streams.findings

    @property
    def policy_seconds(self) -> float:
        """What the policy took for itself in the streams that are open."""
        return self._streams.policy_seconds

    @property
    def inert(self) -> list[str]:
        """Which calls are always computed, and why."""
        nobodys = [f"{count} calls were computed: {why}" for why, count in self._nobodys.items()]
        return [*self._inert.values(), *nobodys]

    def begin(self) -> None:
        """A run begins: follow what was changed since the last (a LoRA that was loaded, a hook, another
        dtype).
        """
        for wire in self._wires.values():
            if wire.changed:
                wire.rewire()
                self._inert.clear()
        votes = self._votes_now()
        if votes != self._votes:  # parallelism was enabled since: other shapes, other company
            self._votes = votes
            self._streams.forget()
        self._nobodys.clear()
        self._streams.begin()

    def finish(self) -> None:
        """The run has ended."""
        self._streams.finish()

    def release(self) -> None:
        """Let go of the models."""
        self._streams.release()
        self._wires = {}

    def _votes_now(self) -> dict[str, Vote | None]:
        return {name: vote_for(wire.model, self._process_group) for name, wire in self._wires.items()}

    def evaluate(self, name: str, generation: Generation, place: Place, call: Call) -> Visits[Any]:
        """Want what evaluates a call of a denoiser. Returns its output.

        Args:
            name: Of the denoiser.
            generation: Which is under way.
            place: Where in it the call is.
            call: The call.
        """
        if place.computed_because:
            self._nobodys[place.computed_because] += 1
            return (yield Plain(call))
        wires = self._wires[name]
        if wires.stale:
            wires.rewire()
        key = Key(name, place.stream, signature := place.kind)
        because = generation.compute
        if torch.is_grad_enabled() and differentiates(wires.model, call.args, call.kwargs):
            because = "gradients are enabled: wrap the loop in torch.no_grad()"
        while (name, signature) not in self._inert:
            entry = self._streams.find(key) or self._open(key, generation, place, call)
            if generation.groups is not None and not generation.by_copies:
                self._refuse_other_groups(groups_of(generation.groups, entry.session.run.rows), entry)
            try:
                if entry.backbone.anatomy.version != wires.version:
                    raise Rewired("the model was changed: its modules, hooks or flags")
                output = yield from _carried_out(entry, call, index=place.step - entry.start, computed_because=because)
                for note in entry.backbone.anatomy.notes:  # the self-check of the first computed step may have found out more
                    entry.session.recorder.warn(note)
                return output
            except Rewired as rewired:
                self._examine(key, entry, rewired.changed)
            except OverBudgetError as error:
                self._over_budget(key, entry, place, error)
            except UnsupportedModelError as error:
                if entry.session.recorder.begun and entry.examined:
                    entry.session.tenure.give_up(str(error))
                    continue
                if entry.session.recorder.begun or generation.alone:
                    raise
                # One kind of call among several (FLUX.2 klein's first returns its keys and values): it is
                # computed, and the report says so.
                self._streams.drop(key)
                self._inert[name, signature] = f"one kind of call is always computed: {error}"
        return (yield Plain(call))

    def _examine(self, key: Key, entry: Stream, changed: str) -> None:
        """Let a stream begin anew: the host's sites are others than it said (nothing is lost but one
        evaluation), or the model is another than it was.
        """
        backbone = entry.backbone
        if changed:
            entry.examined += 1
            entry.changed = changed
            backbone = self._streams.backbone(key, self._votes[key.name], anew=True)
        self._streams.begin_anew(key, backbone, "" if entry.session.tenure.given_up else entry.changed)
        if entry.examined > EXAMINED:
            entry.session.tenure.give_up(f"{entry.changed}, again and again")

    def _over_budget(self, key: Key, entry: Stream, place: Place, error: OverBudgetError) -> None:
        """Forecast the last block where that was asked for. Late in a generation, compute: what was computed
        so far is not thrown away.

        Raises:
            OverBudgetError: Neither.
        """
        if self._last_block and entry.backbone.anatomy.has_parts:
            backbone = self._streams.backbone(key, self._votes[key.name], anew=True)
            backbone.anatomy.limited = backbone.anatomy.without_parts(f"memory: {error}")
            self._streams.begin_anew(key, backbone, "")
            return
        if place.step == 0:
            raise error
        entry.session.tenure.give_up(f"memory: {error}")

    def _open(self, key: Key, generation: Generation, place: Place, call: Call) -> Stream:
        """Begin the session of a call that is the first of its kind in this run."""
        backbone = self._streams.backbone(key, self._votes[key.name])
        rows, start = backbone.rows(call), place.step
        schedule = generation.schedule()
        model, first = (identity_of(wires.model) for wires in (self._wires[key.name], next(iter(self._wires.values()))))
        if self._streams.spec.preset is not None and model != first:
            model = ""  # a preset says which the first of a pipeline's denoisers is
        run = Run(
            depth=backbone.depth,
            rows=rows,
            groups=self._groups(rows, generation, call),
            num_steps=schedule.num_steps,
            timesteps=schedule.timesteps,
            sigmas=schedule.sigmas,
            log_snr=schedule.log_snr,
            sites=backbone.sites,
            places=backbone.places,
            stream=place.stream,
            model=model,
            scheduler=self._scheduler(),
            latent=latents_in_words(call.args, call.kwargs),
        )
        return self._streams.open(key, backbone, run.starting_at(start), start=start, vote=self._votes[key.name])

    def _refuse_other_groups(self, groups: tuple[int, ...], entry: Stream) -> None:
        run = entry.session.run
        if groups != run.groups:
            whose = f"stream {run.stream!r}" if run.stream else "this stream"
            raise OptionError(f"groups={groups} of {whose} were {run.groups} before; its samples stay: give calls of other samples another stream=")

    def _groups(self, rows: int, generation: Generation, call: Call) -> tuple[int, ...]:
        given = generation.groups
        if generation.by_copies:
            given = rows // (self._copies or copies_in(call.args, call.kwargs, rows))
            if self._copies and rows % self._copies:
                raise ContractError(f"copies={self._copies} does not divide the {rows} rows of the call")
        return groups_of(given, rows)


def _carried_out(stream: Stream, call: Call, **at: Any) -> Visits[Any]:
    """Want what a session's step asks for, pass by pass, as `foreseer.backbone.carry_out` takes it."""
    step, backbone = stream.session.step(**at), stream.backbone
    done: Any = None
    while True:
        try:
            ask = step.send(done)
        except StopIteration as end:
            return end.value
        done = ask.put((yield from backbone.visits(call, ask)), backbone)
