"""`record`: sample a model, keep inner products of its features, measure sensitivities. Can be resumed."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.families import PipelineFamily
from foreseer.bench.hands import Call, Came, Hands, hands_for
from foreseer.bench.harness import Tell
from foreseer.bench.source import Source
from foreseer.bench.workload import Workload
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable, refuse_unwritable_folder
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.parts import Parts, joined
from foreseer.workbench.record_settings import RecordSettings
from foreseer.workbench.sensitivity import interpolated, sensitivities
from foreseer.workbench.taking import Taking, forecast, recorded
from foreseer.workbench.trace import Trace

if TYPE_CHECKING:
    from foreseer.bench.ray_settings import RaySettings

__all__ = ["Arguments", "Recorded", "record", "refuse_existing"]

Arguments = Callable[[Sequence[int], float], Mapping[str, Any]]
"""``(indices, guidance) -> keyword arguments`` of a pipeline's call, as of
`foreseer.bench.families.PipelineFamily`.
"""

Array = NDArray[np.float64]


@attrs.frozen(kw_only=True)
class Recorded:
    """What `record` made.

    Attributes:
        path: The file.
        trace: What is in it.
        evaluations: Denoiser evaluations that this call took, of one batch each: recording and measuring.
    """

    path: Path
    trace: Trace = attrs.field(repr=False)
    evaluations: int

    @property
    def summary(self) -> str:
        """File, size, sites, samples, steps and evaluations in one line."""
        trace, streams = self.trace, self.trace.streams
        calls = f" in {len(streams)} streams" if len(streams) > 1 else ""
        kept = f", features in {trace.features}" if trace.features else ""
        sites = ", ".join(map(str, trace.sites))
        return (
            f"{self.path}: {self.path.stat().st_size / 1000:.0f} kB, {trace.samples} samples of {trace.num_steps} steps{calls}, sites {sites}, "
            f"{self.evaluations} evaluations spent, {trace.evaluations} of all for sensitivities{kept}"
        )


def record(
    what: Workload | Any,
    /,
    out: Path | str,
    *,
    settings: RecordSettings | None = None,
    arguments: Arguments | None = None,
    restart: bool | Literal["if other"] = False,
    tell: Tell = lambda what, done, total: None,
    say: Callable[[str], None] = lambda sentence: None,
    ray: RaySettings | None = None,
    **options: Any,
) -> Recorded:
    """Record a model.

    Args:
        what: A `foreseer.bench.workload.Workload`, a `foreseer.bench.source.Source` of one, or a diffusers
            pipeline together with ``arguments``.
        out: The file to write, ``.safetensors``. The same call goes on with what is unfinished, beside it.
        settings: What to record; None for the defaults.
        arguments: What a pipeline is called with for some samples, besides steps, generators and output type.
        restart: Begin anew whatever is there; ``"if other"``: only what is finished or has other settings.
        tell: Told how far it is.
        say: Told in a sentence what sensitivities will take.
        ray: Workers of a Ray cluster that record, each with a workload of its own; None for this process.
        **options: Single settings, by the names of `RecordSettings`.

    Raises:
        OptionError: A value is out of range, or what is there is finished or has other settings.
        KeyboardInterrupt: What was finished is kept; the same call goes on.
    """
    known = {field.name for field in attrs.fields(RecordSettings)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(f"{unknown[0]}={options[unknown[0]]!r} is no option of record; write one of {', '.join(sorted(known))}")
    asked = attrs.evolve(settings or RecordSettings(), **options)
    drawing = what if isinstance(what, Source) else _family(what, arguments)
    with hands_for(drawing, ray) as hands:
        recording = _Recording(asked, hands, Path(out), restart=restart, tell=tell)
        if sentence := recording.measures:
            say(sentence)
        return recording.run()


def refuse_existing(out: Path) -> None:
    """Refuse to record to a file that is there, or that cannot be written. Raises `OptionError`, `FileError`."""
    refuse_unwritable(_file_of(out))
    if _file_of(out).exists():
        raise OptionError(f"out={str(_file_of(out))!r} exists already; write another --out, or --restart to record anew")


def _file_of(out: Path) -> Path:
    return out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")


def _family(what: Workload | Any, arguments: Arguments | None) -> Workload:
    if arguments is None and callable(getattr(what, "draw", None)) and callable(getattr(what, "attached", None)):
        family: Workload = what
        return family
    if arguments is None:
        wanted = "arguments=lambda indices, guidance: {'prompt': [...], 'guidance_scale': guidance}"
        raise OptionError(f"a {type(what).__name__} cannot be called without its conditions; write {wanted}")
    given: dict[str, Any] = {"pipeline": what, "arguments": arguments}
    return PipelineFamily(name=type(what).__name__, **given, decoder=lambda pipeline, latents: latents)


class _Recording:
    """A recording under way: what is left of it, and one writer."""

    def __init__(self, settings: RecordSettings, hands: Hands, out: Path, *, restart: bool | Literal["if other"], tell: Tell) -> None:
        self._hands, self._tell = hands, tell
        if hands.elsewhere:
            tell("workers are on their way", 0, 0)
        hands.open(functools.partial(Taking, settings))
        self._about = about = hands.ask(Taking.about)
        self._settings = settings = about.settings
        self._out = _file_of(out)
        self._folder = self._out.with_name(self._out.stem + ".features")
        parts = self._out.with_name(self._out.stem + ".unfinished")
        if restart not in (True, False, "if other"):
            raise OptionError(f"restart={restart!r} is unknown; write True, False or 'if other'")
        if settings.features is not None and hands.elsewhere:
            raise OptionError(f"features={settings.features!r} are written where they are computed, which with --ray is elsewhere; leave one of the two out")
        refuse_unwritable(self._out)
        for folder in (parts, self._folder):
            refuse_unwritable_folder(folder)
        if not restart:
            refuse_existing(out)
        self._batches, self._measure = about.batches, about.measure
        request = about.request
        try:
            self._parts = Parts(parts, request)
            anew = restart is True or self._out.exists()
        except OptionError:
            if not restart:
                raise
            anew = True
        if anew:  # now that nothing is wrong with what is to replace it
            self._out.unlink(missing_ok=True)
            for folder in (self._folder, parts):
                shutil.rmtree(folder, ignore_errors=True)
            self._parts = Parts(parts, request)
        facts = {key: value for key, value in request.items() if key not in ("every", "measured", "target")}
        self._store = None if settings.features is None else FeatureStore.create(self._folder, facts=facts, kept_as=settings.features)
        self._samples = sum(map(len, self._batches))
        self._most = self._samples if settings.measured is None else settings.measured
        self._have: dict[int, tuple[Trace, Array]] = {}
        self._under_way: set[tuple[int, int | None]] = set()
        self._spent = 0

    def run(self) -> Recorded:
        for number in range(len(self._batches)):
            found = self._parts.load(number)
            if found is not None and (self._store is None or self._store.samples > self._batches[number][-1]):
                self._have[number] = found
        for came in self._hands.carry_out(self._next):
            self._settle(came)
        traces = [self._have[number][0] for number in range(len(self._batches))]
        trace = attrs.evolve(joined(traces), seed=self._settings.seed)
        if self._measure:
            values = {step: trace.sensitivity[:, step] for step in trace.measured}
            trace = attrs.evolve(trace, sensitivity=interpolated(values, trace.num_steps))
        trace.save(self._out)
        self._parts.remove()
        self._tell("done", self._total, self._total)
        return Recorded(path=self._out, trace=trace, evaluations=self._spent)

    @property
    def measures(self) -> str:
        """What sensitivities will take, in a sentence; empty for none."""
        if not self._measure:
            return ""
        count = len(self._measure)
        return f"measuring sensitivities at {count} steps takes {count} more samplings of {min(self._most, self._samples)} of the {self._samples} samples"

    @property
    def _total(self) -> int:
        return len(self._batches) + len(self._measure) * sum(batch[0] < self._most for batch in self._batches)

    def _next(self, place: int) -> Call | None:
        """What comes next: of each batch its recording, and then the steps that are to be measured on it."""
        for number, indices in enumerate(self._batches):
            lacking = self._lacking(number)
            if step := next(((one,) for one in lacking if (number, one) not in self._under_way), None):
                self._under_way.add((number, *step))
                return self._call(number, step[0], indices)
        return None

    def _lacking(self, number: int) -> list[int | None]:
        """The steps that are to be measured on a batch; a None for its recording, which they wait for."""
        if number not in self._have:
            return [None]
        done = self._have[number][0].measured
        return [step for step in self._measure if step not in done] if self._batches[number][0] < self._most else []

    def _call(self, number: int, step: int | None, indices: tuple[int, ...]) -> Call:
        done = len(self._have) + sum(len(trace.measured) for trace, _ in self._have.values())
        if step is None:
            what = f"recording samples {indices[0]} to {indices[-1]}"
            self._parts.begin(number)
            do: Any = functools.partial(recorded, number, self._store)
        else:
            measured, target = [index for index in indices if index < self._most], self._have[number][0].target
            assert target is not None
            what = f"sensitivity at step {step}, samples {measured[0]} to {measured[-1]}"
            do = functools.partial(forecast, measured, target, step)
        self._tell(what, done, self._total)
        return Call(about=(number, step), do=do, what=what)

    def _settle(self, came: Came) -> None:
        if came.error is not None:
            raise came.error
        number, step = came.call.about
        self._under_way.discard((number, step))
        if step is None:
            trace, final, spent = came.value
        else:
            (trace, final), (drawn, computed, spent) = self._have[number], came.value
            trace = _measured(trace, final, step, drawn, computed, spent)
        self._spent += spent
        self._have[number] = trace, final
        self._parts.keep(number, trace, final)


def _measured(trace: Trace, final: Array, step: int, drawn: Array, computed: Sequence[float], spent: int) -> Trace:
    """Return a trace with the sensitivity of one step: how far a batch's first samples moved where it was
    forecast.
    """
    assert trace.target is not None
    off = np.linalg.norm(drawn - final[: len(drawn)], axis=1)
    forecast = np.array(computed) <= trace.num_steps - 1  # else not finite, and not used, in some stream
    moved = np.full(trace.samples, math.nan)
    moved[: len(drawn)] = np.where(forecast, off, math.nan)
    sensitivity = trace.sensitivity.copy()
    sensitivity[:, step] = sensitivities(trace, trace.target, step, moved)
    return attrs.evolve(trace, sensitivity=sensitivity, measured=tuple(sorted((*trace.measured, step))), evaluations=trace.evaluations + spent)
