"""A tuner's memory: optuna's study, in a file that can be gone on with."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from foreseer.bench.kept_draws import DamagedDrawError
from foreseer.bench.per_sample import Figures
from foreseer.bench.target import Target
from foreseer.document import plain, refuse_other_settings, structured
from foreseer.errors import FileError, ForeseerError, OptionError, in_one_line
from foreseer.files import make_folder
from foreseer.registry import PolicySpec
from foreseer.workbench.search import Search

__all__ = ["Point", "Study"]


@attrs.frozen(kw_only=True)
class Point(Figures):
    """One trial, with the figures of the samples that it drew.

    Attributes:
        number: Its place in the study, from 0.
        policy: As one writes it on the command line.
        error: Why it failed; empty where it did not. A failed one has no figures.
        pruned: Why it was given up before all samples were drawn; empty where it was not.
    """

    number: int
    policy: str
    error: str = ""
    pruned: str = ""

    @property
    def whole(self) -> bool:
        """Whether it did not fail and drew all samples."""
        return not self.error and not self.pruned


@attrs.define(eq=False)
class _Asked:
    """A trial under way."""

    number: int
    trial: Any
    said: str = ""
    spec: PolicySpec | None = None
    figures: Iterator[Figures] = attrs.field(factory=lambda: iter(()))
    point: Point | None = None

    def failed(self, error: Exception) -> Point:
        return Point(number=self.number, policy=self.said, error=in_one_line(error))


NAME = "foreseer tune"
STARTING = 8
"""Trials at random before the sampler learns from them, and two more for each further policy; the first are
the policies' defaults.
"""


class Study:
    """Asks for points, and remembers what they came to.

    What is asked for next depends on the seed and the finished trials only: a study that was stopped and gone
    on with is that which was not stopped.

    Args:
        settings: What the numbers depend on. A file with others is refused.
        search: What is searched.
        target: What is looked for.
        samples: How many each trial draws, unless it is given up.
        prune: Whether trials are given up, see `foreseer.bench.target.Target.hopeless`.
        seed: Of the sampler.
        file: SQLite database; made if it is missing. None keeps nothing.

    Raises:
        OptionError: optuna is missing, or the file is none of a study, or of one with other settings; the
            message says what differs.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        search: Search,
        target: Target,
        *,
        samples: int,
        seed: int,
        file: Path | None,
        prune: bool = True,
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise OptionError("tuning needs optuna: pip install 'foreseer[workbench]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._search, self._target, self._seed, self._file = optuna, search, target, seed, file
        self._samples, self._prune = samples, prune
        existed = file is not None and _ours(file)
        if file is not None:
            make_folder(file.parent)
        try:
            storage = None if file is None else optuna.storages.RDBStorage(f"sqlite:///{file}")
        except Exception as error:  # whatever SQLAlchemy and optuna make of a folder, a file of another version, or one without permission
            raise OptionError(f"study={str(file)!r} cannot be used: {in_one_line(error)}; write another file name") from error
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
        """The finished trials, those that failed or were given up too, in their order."""
        states = (self._optuna.trial.TrialState.COMPLETE, self._optuna.trial.TrialState.PRUNED)
        return [_point(number, trial.user_attrs) for number, trial in enumerate(self._study.get_trials(deepcopy=False, states=states))]

    def kept(self, name: str) -> Any:
        """Return what `keep` was given under this name; None where nothing was."""
        return self._study.user_attrs.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keep plain data beside the trials. Raises `FileError` where the file cannot be written."""
        with self._writing():
            self._study.set_user_attr(name, plain(value))

    def step(
        self,
        measure: Callable[[PolicySpec], Iterator[Figures]],
        *,
        count: int = 1,
        ahead: Callable[[Sequence[PolicySpec], int], None] = lambda specs, done: None,
    ) -> list[Point]:
        """Ask for points, have them measured, and remember what they came to.

        Several are asked for before any is measured, each as if those before it would do badly (optuna's
        constant liar), so that what is asked for depends on ``count`` and on nothing that happens meanwhile.

        Args:
            measure: Gives the figures of the samples so far, several times. What it raises of `Exception` is the
                trial's error; an interruption, and what cannot be read or written of its draws, leaves no trace.
            count: How many points.
            ahead: Told before each round of figures whose are wanted, and how many they have given.
        """
        states = self._optuna.trial.TrialState
        done = self.points
        asked: list[_Asked] = []
        with warnings.catch_warnings(), self._writing():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            try:
                for number in range(len(done), len(done) + count):
                    asked.append(_Asked(number, self._ask(number, liar=count > 1)))
                    self._choose(asked[-1], done, measure)
                given, finished = 0, [point for point in done if point.whole]
                while under_way := [one for one in asked if one.point is None]:
                    ahead([one.spec for one in under_way if one.spec is not None], given)
                    for one in under_way:
                        self._further(one, finished)
                    given += 1
            except BaseException:
                for one in asked:
                    self._study.tell(one.trial, state=states.FAIL)
                raise
            points = [one.point for one in asked if one.point is not None]
            for one, point in zip(asked, points, strict=True):
                for key, value in plain(point).items():
                    one.trial.set_user_attr(key, value)
                if point.whole:
                    self._study.tell(one.trial, self._target.values(point))
                else:
                    self._study.tell(one.trial, state=states.PRUNED)
        return points

    def _ask(self, number: int, *, liar: bool) -> Any:
        # a sampler of its own for each trial: its random numbers do not depend on how many it has asked for in
        # this process
        self._study.sampler = self._optuna.samplers.TPESampler(seed=_seed(self._seed, number), n_startup_trials=self._starting, constant_liar=liar)
        first = self._search.first(number)
        if first is not None and not self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.WAITING,)):
            self._study.enqueue_trial(first)
        return self._study.ask()

    def _choose(self, asked: _Asked, done: Sequence[Point], measure: Callable[[PolicySpec], Iterator[Figures]]) -> None:
        space, options = self._search.suggest(asked.trial)
        asked.said = f"{space.spec.name}:" + ",".join(f"{key}={value}" for key, value in {**space.spec.options, **options}.items())
        try:
            asked.spec = space.policy(options)
        except Exception as error:
            asked.point = asked.failed(error)
            return
        same = next((point for point in done if point.policy == str(asked.spec)), None)
        if same is not None:
            asked.point = attrs.evolve(same, number=asked.number)
        asked.figures = measure(asked.spec)

    def _further(self, asked: _Asked, finished: Sequence[Point]) -> None:
        """Take a trial's next figures."""
        try:
            figures = next(asked.figures, None)
            if figures is None:
                raise ForeseerError(f"{asked.spec} was not measured on {self._samples} samples")
            point = Point(number=asked.number, policy=str(asked.spec), **attrs.asdict(figures))
            if point.samples == self._samples:
                asked.point = point
                return
            if self._target.kind != "front":  # of several values optuna takes none before the end
                asked.trial.report(self._target.values(point)[0], step=point.samples)
            if self._prune and (why := self._target.hopeless(point, samples=self._samples, finished=list(finished))):
                asked.point = attrs.evolve(point, pruned=why)
        except (FileError, DamagedDrawError):  # no fault of the policy
            raise
        except Exception as error:
            asked.point = asked.failed(error)

    @property
    def _starting(self) -> int:
        return STARTING + 2 * (len(self._search.spaces) - 1)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What optuna makes of a file that cannot be written, as one sentence."""
        try:
            yield
        except self._optuna.exceptions.StorageInternalError as error:
            raise FileError(f"study={str(self._file)!r} cannot be written: {in_one_line(error.__cause__ or error)}") from error


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
    return attrs.evolve(structured(Point, kept), number=number)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
