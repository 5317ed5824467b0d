"""The visits of many evaluations, made in as few calls of the model as there are kinds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foreseer.adapters.joined_calls import Likenesses, other_call
from foreseer.adapters.joint import Joint, Learning
from foreseer.adapters.layouts import Pool
from foreseer.adapters.requests import Evaluation
from foreseer.adapters.sameness import row_tolerance, same_output
from foreseer.adapters.seams import Seams, UnlearntError
from foreseer.adapters.visits import Visit
from foreseer.adapters.wires import Wires
from foreseer.errors import UnsupportedModelError, in_words

__all__ = ["Together"]


class Together:
    """See the module.

    Args:
        wires: The model's interceptions.
        max_rows: Most rows in one call; None for no limit.

    Attributes:
        calls: How often the model was called.
    """

    def __init__(self, wires: Wires, max_rows: int | None) -> None:
        self._wires, self._max_rows = wires, max_rows
        self._likenesses, self._seams = Likenesses(wires.model), Seams()
        self._kinds: dict[object, int] = {}
        self._compared: set[int] = set()
        self._refused: dict[int, str] = {}
        self._pool: Pool = {}
        self.calls = 0

    def evaluate(self, evaluations: Sequence[Evaluation]) -> None:
        """Carry evaluations out: first all that forecast, then all that compute."""
        going = [evaluation for evaluation in evaluations if evaluation.go_on()]
        ahead = [evaluation for evaluation in going if _walk_forecasts(evaluation)]
        going = [evaluation for evaluation in going if evaluation not in ahead] + self._make(ahead)
        while going:
            going = self._make(going)

    def _make(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """Make the visits that are wanted. Returns the evaluations that want another."""
        came: list[tuple[Evaluation, Any]] = []
        alike: dict[int, list[Evaluation]] = {}
        for evaluation in evaluations:
            kind = self._kind(evaluation)
            if kind is None or not isinstance(evaluation.visit, Visit) or evaluation.visit.walk.examining:
                came.append((evaluation, self._alone(evaluation, kind)))
            elif kind in self._compared or (not evaluation.visit.walk.forecasting and self._may_join(evaluation, kind)):
                alike.setdefault(kind, []).append(evaluation)
            else:
                came.append((evaluation, self._alone(evaluation, kind)))
        for kind, several in alike.items():
            for some in self._portions(several):
                came += zip(some, self._joint(some, kind), strict=True)
        return [evaluation for evaluation, result in came if evaluation.go_on(result)]

    def _kind(self, evaluation: Evaluation) -> int | None:
        """Return which calls this visit's can be joined with; None where with none."""
        if not isinstance(evaluation.visit, Visit):
            return None
        try:
            likeness = self._likenesses.of(evaluation.visit.call)
        except UnsupportedModelError as error:
            evaluation.request.note(f"evaluated one by one: {error}")
            return None
        kind = self._kinds.setdefault(likeness, len(self._kinds))
        if kind in self._refused:
            evaluation.request.note(f"evaluated one by one: {self._refused[kind]}")
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

    def _alone(self, evaluation: Evaluation, kind: int | None) -> Any:
        """Make one visit. Returns what the model returned, or what it raised."""
        visit = evaluation.visit
        assert visit is not None
        self.calls += 1
        try:
            if not isinstance(visit, Visit) or kind is None:
                return visit.make()
            return Learning(visit, self._seams, kind).make()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a walk that was abandoned, among others
            return error

    def _joint(self, evaluations: Sequence[Evaluation], kind: int) -> list[Any]:
        """Make visits in one call. Returns of each what the model returned for it, or what was raised."""
        if len(evaluations) == 1:
            return [self._alone(evaluations[0], kind)]
        joint = Joint([_visit(evaluation) for evaluation in evaluations], self._seams, kind, self._pool)
        self.calls += 1
        why = ""
        try:
            came = joint.make()
        except UnlearntError:
            pass
        except torch.OutOfMemoryError:  # half as many may do
            half = len(evaluations) // 2
            return [*self._joint(_again(evaluations[:half]), kind), *self._joint(_again(evaluations[half:]), kind)]
        except UnsupportedModelError as error:
            why = str(error)
        except Exception as error:  # of one request's arguments, perhaps
            why = f"the model cannot evaluate them together ({in_words(error)})"
        else:
            return came
        each = [self._alone(evaluation, kind) for evaluation in _again(evaluations)]
        if why and not any(isinstance(result, Exception) for result in each):
            self._refused[kind] = why
            self._compared.discard(kind)
        return each

    def _may_join(self, evaluation: Evaluation, kind: int) -> bool:
        """Before calls of a kind are joined for the first time, put one behind another, with other latents, and
        hold what came of it against the same alone. Returns whether they are the same.
        """
        if kind in self._refused:
            return False
        visit = _visit(evaluation)
        self.calls += 2
        try:
            _, joint = Joint([visit.other(other_call(visit.call)), visit], self._seams, kind, self._pool).make()
            found = visit.walk.notes.features
            visit.again()
            alone = Learning(visit, self._seams, kind).make()
            visit.again()
        except UnlearntError:
            visit.again()
            return False
        except Exception as error:
            visit.again()
            self._refused[kind] = str(error) if isinstance(error, UnsupportedModelError) else f"two calls cannot be made as one ({in_words(error)})"
            return False
        if isinstance(joint, BaseException) or not same_output(joint, alone, tolerance=row_tolerance(alone, found)):
            self._refused[kind] = "a row beside those of other requests differs from the same row alone"
            return False
        self._compared.add(kind)
        return True


def _visit(evaluation: Evaluation) -> Visit:
    assert isinstance(evaluation.visit, Visit)
    return evaluation.visit


def _walk_forecasts(evaluation: Evaluation) -> bool:
    return isinstance(evaluation.visit, Visit) and evaluation.visit.walk.forecasting


def _again(evaluations: Sequence[Evaluation]) -> Sequence[Evaluation]:
    """Begin their visits anew. A judge may be asked again; it sees the same."""
    for evaluation in evaluations:
        _visit(evaluation).again()
    return evaluations
