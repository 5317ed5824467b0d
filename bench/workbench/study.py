"""A tuner's memory: optuna's study, in a file that can be gone on with."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from foreseer.document import plain, refuse_other_settings
from foreseer.errors import FileError, OptionError
from foreseer.files import make_folder
from foreseer.workbench.search import Space
from foreseer.workbench.target import Point, Target

__all__ = ["Study"]

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
        """Ask for a point, have it measured, and remember what it came to.

        Args:
            measure: ``(options, number) -> Point``. What it raises of `Exception` is the trial's error; an
                interruption leaves no trace.
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
