"""What a tuner looks for, and its memory: optuna's study, in a file that can be gone on with."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from foreseer.bench.charts import front
from foreseer.document import plain, refuse_other_settings
from foreseer.errors import FileError, OptionError
from foreseer.files import make_folder
from foreseer.workbench.search import Space

__all__ = ["Point", "Study", "Target", "pareto"]

SLACK = 1e-9
"""A cost of exactly 1/3 reaches 3x, whatever the last digit of the division."""


@attrs.frozen(kw_only=True)
class Point:
    """One trial.

    Attributes:
        number: Its place in the study, from 0.
        policy: As one writes it on the command line.
        ratio: Block-rows over those of full computation.
        steps: Steps computed for a sample, on average.
        mean, worst: PSNR to full computation, dB.
        seconds: Wall-clock time of drawing the samples; NaN where the figures are those of an earlier trial
            of the same policy.
        error: Why it failed; empty where it did not. The figures of a failed one are NaN.
    """

    number: int
    policy: str
    ratio: float = math.nan
    steps: float = math.nan
    mean: float = math.nan
    worst: float = math.nan
    seconds: float = math.nan
    error: str = ""

    @property
    def speedup(self) -> float:
        """What the block-rows promise."""
        return 1.0 / self.ratio


@attrs.frozen
class Target:
    """What to look for.

    Attributes:
        kind: ``"speedup"``: the greatest mean PSNR at no more than 1/value of the block-rows. ``"psnr"``: the
            fewest block-rows at a mean PSNR of at least value dB. ``"front"``: all points that no other beats
            in both.
        value: See ``kind``; 0 for a front.

    Raises:
        OptionError: The value is out of range.
    """

    kind: Literal["speedup", "psnr", "front"]
    value: float = 0.0

    def __attrs_post_init__(self) -> None:
        number: Any = self.value
        if self.kind == "front":
            return
        low = 1.0 if self.kind == "speedup" else 0.0
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low < number < math.inf:
            raise OptionError(f"target_{self.kind}={number!r} is out of range; write a number above {low:g}")

    def __str__(self) -> str:
        return {"speedup": f"{self.value:g}x by block-rows", "psnr": f"{self.value:g} dB", "front": "a front"}[self.kind]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """What optuna is to do with `values`."""
        return ["minimize", "maximize"] if self.kind == "front" else ["maximize"]

    def reached(self, point: Point) -> bool:
        """Whether a point that did not fail is good enough."""
        if point.error:
            return False
        return point.ratio * self.value <= 1.0 + SLACK if self.kind == "speedup" else point.mean >= self.value if self.kind == "psnr" else True

    def values(self, point: Point) -> list[float]:
        """Return what optuna is told of a point. Only the order matters to it: all that reach the target come
        before all that do not, nearest first.
        """
        if self.kind == "front":
            return [point.ratio, point.mean]
        if self.kind == "speedup":
            return [point.mean if self.reached(point) else -1e3 - 1e3 * (point.ratio * self.value - 1.0)]
        return [-point.ratio if self.reached(point) else -1e3 - (self.value - point.mean)]

    def best(self, points: Sequence[Point]) -> Point | None:
        """Return the best point that reaches the target, the earliest of equals; None where none does, and
        for a front.
        """
        fine = [point for point in points if self.reached(point)]
        if not fine or self.kind == "front":
            return None
        return min(fine, key=lambda p: (-p.mean, p.ratio, p.number) if self.kind == "speedup" else (p.ratio, -p.mean, p.number))

    def ranked(self, points: Sequence[Point]) -> list[Point]:
        """Return the points that did not fail, each policy once: best first, or along the front."""
        fine = list({point.policy: point for point in reversed(points) if not point.error}.values())
        if self.kind == "front":
            return pareto(fine)
        return sorted(fine, key=lambda point: (-self.values(point)[0], point.ratio, point.number))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in cost and mean PSNR, cheapest first; of equals the earliest."""
    points = sorted(points, key=lambda point: point.number)
    return [points[i] for i in front([(p.ratio, p.mean) for p in points], lower_x=True, lower_y=False)]


NAME = "foreseer tune"
STARTING = 8
"""Trials at random before the sampler learns from them; the first is the policy's defaults."""


class Study:
    """Asks for points, and remembers what they came to.

    What is asked for next depends on the seed and the finished trials only: a study that was stopped and gone
    on with is that which was not stopped.

    Args:
        settings: What the numbers depend on. A file with others is refused.
        space: What is searched.
        target: What is looked for.
        seed: Of the sampler.
        file: SQLite database; made if it is missing. None keeps nothing.

    Raises:
        OptionError: optuna is missing, or the file is none of a study, or of one with other settings; the
            message says what differs.
    """

    def __init__(self, settings: Mapping[str, Any], space: Space, target: Target, *, seed: int, file: Path | None) -> None:
        try:
            import optuna
        except ImportError as error:
            raise OptionError("tuning needs optuna: pip install 'foreseer[workbench]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._target, self._seed, self._file = optuna, space, target, seed, file
        existed = file is not None and _ours(file)
        if file is not None:
            make_folder(file.parent)
        try:
            storage = None if file is None else optuna.storages.RDBStorage(f"sqlite:///{file}")
        except Exception as error:  # whatever SQLAlchemy and optuna make of a folder, a file of another version, or one without permission
            raise OptionError(f"study={str(file)!r} cannot be used: {type(error).__name__}: {_line(error)}; write another file name") from error
        if existed and storage is not None:
            self._study = optuna.load_study(study_name=NAME, storage=storage)
            old = self._study.user_attrs.get("settings", {})
            advice = "write another --study, or the same settings"
            refuse_other_settings(f"study={str(file)!r}", old, settings, advice=advice)
        else:
            self._study = optuna.create_study(study_name=NAME, storage=storage, directions=target.directions)
            self._study.set_user_attr("settings", plain(settings))
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # left by a process that was killed

    @property
    def points(self) -> list[Point]:
        """The finished trials, failed ones too, in their order."""
        states = (self._optuna.trial.TrialState.COMPLETE, self._optuna.trial.TrialState.PRUNED)
        return [_point(number, trial.user_attrs) for number, trial in enumerate(self._study.get_trials(deepcopy=False, states=states))]

    def step(self, measure: Callable[[dict[str, Any], int], Point]) -> Point:
        """Ask for a point, have it measured, and remember what it came to. What ``measure`` raises of
        `Exception` is the trial's error; an interruption leaves no trace.
        """
        states = self._optuna.trial.TrialState
        done = self.points
        number = len(done)
        with warnings.catch_warnings(), self._kept():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            # a sampler of its own for each trial: its random numbers do not depend on how many it has asked
            # for in this process
            self._study.sampler = self._optuna.samplers.TPESampler(seed=_seed(self._seed, number), n_startup_trials=STARTING)
            if not number and not self._study.get_trials(deepcopy=False, states=(states.WAITING,)):
                self._study.enqueue_trial(self._space.first())
            trial = self._study.ask()
            try:
                options = self._space.suggest(trial)
                point = self._measured(options, number, done, measure)
            except BaseException:
                self._study.tell(trial, state=states.FAIL)
                raise
            for key, value in attrs.asdict(point).items():
                trial.set_user_attr(key, None if isinstance(value, float) and math.isnan(value) else value)
            if point.error:
                self._study.tell(trial, state=states.PRUNED)
            else:
                self._study.tell(trial, self._target.values(point))
        return point

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """What optuna makes of a file that cannot be written, as one sentence."""
        try:
            yield
        except self._optuna.exceptions.StorageInternalError as error:
            raise FileError(f"study={str(self._file)!r} cannot be written: {_line(error.__cause__ or error)}") from error

    def _measured(self, options: dict[str, Any], number: int, done: list[Point], measure: Callable[[dict[str, Any], int], Point]) -> Point:
        try:
            policy = str(self._space.policy(options))
            same = next((point for point in done if point.policy == policy), None)
            return measure(options, number) if same is None else attrs.evolve(same, number=number, seconds=math.nan)
        except Exception as error:
            said = ",".join(f"{key}={value}" for key, value in {**self._space.spec.options, **options}.items())
            return Point(number=number, policy=f"{self._space.spec.name}:{said}", error=f"{type(error).__name__}: {_line(error)}")


def _ours(file: Path) -> bool:
    """Whether a file holds a study of ours; False where there is nothing yet. Looks without writing."""
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            names = [name for (name,) in database.execute("select study_name from studies")] if "studies" in tables else []
    except sqlite3.Error as error:
        raise OptionError(f"study={str(file)!r} is no SQLite database: {error}; write another file name") from error
    if names and NAME not in names:
        raise OptionError(f"study={str(file)!r} holds other studies ({', '.join(map(repr, names))}); write another file name")
    if tables and "studies" not in tables:
        raise OptionError(f"study={str(file)!r} is a database of something else; write another file name")
    return bool(names)


def _point(number: int, kept: Mapping[str, Any]) -> Point:
    known: dict[str, Any] = {field.name: math.nan if kept.get(field.name) is None else kept[field.name] for field in attrs.fields(Point)}
    return Point(**{**known, "number": number})


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
