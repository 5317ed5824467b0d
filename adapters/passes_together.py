"""The visits of many evaluations, made in as few calls of the model as there are kinds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from foreseer.adapters.findings import KINDS
from foreseer.adapters.joined_calls import Likenesses, other_call
from foreseer.adapters.joint import Joint, Learning
from foreseer.adapters.layouts import Pool
from foreseer.adapters.requests import Evaluation
from foreseer.adapters.sameness import row_tolerance, same_output, tells_apart
from foreseer.adapters.seams import Seams, UnlearntError
from foreseer.adapters.visits import Visit
from foreseer.adapters.wires import Wires
from foreseer.errors import UnsupportedModelError, in_words

__all__ = ["Together"]

FAILED = 3
"""How often in a row calls of a kind may fail together and not alone before they are made one by one."""


@attrs.define(eq=False)
class _Kind:
    """Calls that are alike, but for their rows.

    Attributes:
        seams: Where their rows lie.
        compared: Whether one of them was held, beside another, against itself alone.
        refused: Why they are not joined; empty where they may be.
        failed: How often in a row a joint call failed where each call alone did not.
        chances: How often it could have been compared.
    """

    seams: Seams = attrs.field(factory=Seams)
    compared: bool = False
    refused: str = ""
    failed: int = 0
    chances: int = 0

    def due(self) -> bool:
        """Whether to compare now: at once, and ever more seldom where it told nothing (all zeros, NaN)."""
        self.chances += 1
        return self.chances & (self.chances - 1) == 0


class Together:
    """See the module.

    Args:
        wires: The model's interceptions.
        max_rows: Most rows in one call; None for no limit.

    Attributes:
        calls: How often the model was called.
    """

    def __init__(self, wires: Wires, max_rows: int | None) -> None:
        self._max_rows, self._likenesses = max_rows, Likenesses(wires.model)
        self._kinds: dict[object, _Kind] = {}
        self._pool: Pool = {}
        self.calls = 0

    def evaluate(self, evaluations: Sequence[Evaluation]) -> None:
        """Carry evaluations out: first all that forecast, then all that compute."""
        several = len(evaluations) > 1
        try:
            going = [evaluation for evaluation in evaluations if evaluation.go_on()]
            ahead = [evaluation for evaluation in going if _forecasts(evaluation)]
            going = [evaluation for evaluation in going if evaluation not in ahead] + self._make(ahead, several)
            while going:
                going = self._make(going, several)
        finally:
            self._pool.clear()

    def _make(self, evaluations: Sequence[Evaluation], several: bool) -> list[Evaluation]:
        """Make the visits that are wanted. Returns the evaluations that want another."""
        came: list[tuple[Evaluation, Any]] = []
        alike: dict[int, tuple[_Kind, list[Evaluation]]] = {}
        for evaluation in evaluations:
            kind, visit = self._kind(evaluation), evaluation.visit
            if kind is None or kind.refused or not isinstance(visit, Visit) or visit.walk.examining:
                came.append((evaluation, self._alone(evaluation, kind)))
            elif kind.compared:
                alike.setdefault(id(kind), (kind, []))[1].append(evaluation)
            elif several and not visit.walk.forecasting and kind.due():
                came.append((evaluation, self._compare(evaluation, kind)))
            else:
                came.append((evaluation, self._alone(evaluation, kind)))
        for kind, those in alike.values():
            for some in self._portions(those):
                came += zip(some, self._joint(some, kind), strict=True)
        return [evaluation for evaluation, result in came if evaluation.go_on(result)]

    def _kind(self, evaluation: Evaluation) -> _Kind | None:
        """Return the calls that this visit's can be joined with; None where with none."""
        if not isinstance(evaluation.visit, Visit):
            return None
        try:
            likeness = self._likenesses.of(evaluation.visit.call)
        except UnsupportedModelError as error:
            evaluation.request.note(f"evaluated one by one: {error}")
            return None
        kind = self._kinds[likeness] = self._kinds.pop(likeness, _Kind())  # the last to be used is the last to go
        while len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        if kind.refused:
            evaluation.request.note(f"evaluated one by one: {kind.refused}")
        return kind

    def _portions(self, evaluations: Sequence[Evaluation]) -> Sequence[Sequence[Evaluation]]:
        """Divide evaluations into calls of at most so many rows; one of more rows is a call of its own."""
        portions: list[list[Evaluation]] = []
        rows = 0
        for evaluation in evaluations:
            own = _visit(evaluation).walk.rows
            if not portions or (self._max_rows is not None and rows + own > self._max_rows):
                portions.append([])
                rows = 0
            portions[-1].append(evaluation)
            rows += own
        return portions

    def _alone(self, evaluation: Evaluation, kind: _Kind | None) -> Any:
        """Make one visit. Returns what the model returned, or what it raised."""
        visit = evaluation.visit
        assert visit is not None
        self.calls += 1
        try:
            return Learning(visit, kind.seams).make() if isinstance(visit, Visit) and kind is not None and not kind.refused else visit.make()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a walk that was abandoned, among others
            return error

    def _joint(self, evaluations: Sequence[Evaluation], kind: _Kind) -> list[Any]:
        """Make visits in one call. Returns of each what the model returned for it, or what was raised."""
        if len(evaluations) == 1:
            return [self._alone(evaluations[0], kind)]
        self.calls += 1
        try:
            came = Joint([_visit(evaluation) for evaluation in evaluations], kind.seams, self._pool).make()
        except torch.OutOfMemoryError:  # half as many may do
            half = len(evaluations) // 2
            return [*self._joint(_again(evaluations[:half]), kind), *self._joint(_again(evaluations[half:]), kind)]
        except Exception as error:  # of one request's arguments, perhaps
            each = [self._alone(evaluation, kind) for evaluation in _again(evaluations)]
            if not any(isinstance(result, Exception) for result in each):
                self._failed(kind, error)
            return each
        kind.failed = 0
        return came

    def _failed(self, kind: _Kind, error: Exception) -> None:
        """Calls of a kind failed together and not alone."""
        kind.failed += 1
        if isinstance(error, UnlearntError):
            kind.failed = 0
        elif isinstance(error, UnsupportedModelError):
            kind.refused = str(error)
        elif kind.failed >= FAILED:
            kind.refused = f"the model cannot evaluate several at once ({in_words(error)})"

    def _compare(self, evaluation: Evaluation, kind: _Kind) -> Any:
        """Before calls of a kind are joined for the first time, put one behind another with other rows, and hold
        what comes of it against the same alone. Returns the latter.
        """
        visit = _visit(evaluation)
        alone = self._alone(evaluation, kind)
        if isinstance(alone, BaseException):
            return alone
        made, self.calls = visit.walk, self.calls + 1
        visit.again()
        try:
            other, joint = Joint([visit.other(other_call(visit.wires.model, visit.call)), visit], kind.seams, self._pool).make()
        except Exception as error:
            self._failed(kind, error)
        else:
            tolerance = row_tolerance(alone, visit.walk.notes.features)
            if isinstance(joint, BaseException) or not same_output(joint, alone, tolerance=tolerance):
                kind.refused = "a row beside those of other requests differs from the same row alone"
            else:
                kind.compared = not isinstance(other, BaseException) and tells_apart(joint, other)
        visit.walk = made
        return alone


def _visit(evaluation: Evaluation) -> Visit:
    assert isinstance(evaluation.visit, Visit)
    return evaluation.visit


def _forecasts(evaluation: Evaluation) -> bool:
    return isinstance(evaluation.visit, Visit) and evaluation.visit.walk.forecasting


def _again(evaluations: Sequence[Evaluation]) -> Sequence[Evaluation]:
    """Begin their visits anew."""
    for evaluation in evaluations:
        _visit(evaluation).again()
    return evaluations
