"""Laws of a vote, seen from one process: what it says to the others, and what becomes of their answers."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from foreseer import AnswerError, Evidence, Plan, Site
from foreseer.bank import FeatureBank
from foreseer.trial import LazyDrafts, Trial
from foreseer.vote import Ballot, Electorate


class Others:
    """The rest of the processes: what they answer, in order."""

    processes = 2

    def __init__(self, *answers: object) -> None:
        self.answers, self.told = list(answers), []

    def _meet(self, kind: str, values: Tensor) -> Tensor:
        self.told.append((kind, values.tolist()))
        return torch.tensor(self.answers.pop(0), dtype=values.dtype)

    def sum(self, values: Tensor) -> Tensor:
        return values + self._meet("sum", values)

    def max(self, values: Tensor) -> Tensor:
        return torch.maximum(values, self._meet("max", values))


ERROR, ACCEPT = torch.tensor([0.1, 0.2, math.nan, 0.4]), torch.tensor([1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("wary", [False, True])
def test_without_sums_a_row_is_accepted_where_all_accept_and_its_error_is_the_largest(wary):
    others = Others(*[[1.0]] * wary, [[0.3, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0]])
    error, accept = Ballot(others, wary=wary).settle(ERROR, ACCEPT)
    assert error.tolist() == pytest.approx([0.3, 0.2, math.inf, 0.4])
    assert accept.tolist() == [1, 0, 1, 0]
    kind, (errors, refused) = others.told[-1]
    assert (kind, errors, refused) == ("max", pytest.approx([0.1, 0.2, math.inf, 0.4]), [0, 0, 0, 1])
    assert others.told[:-1] == [("max", [1.0])] * wary, "whoever has sums to add learns that this process has none"


def test_with_sums_each_answer_stands():
    others = Others([10.0, 20.0])
    ballot = Ballot(others)
    assert (ballot.open, ballot.cast) == (True, False)
    assert ballot(torch.tensor([1.0, 2.0])).tolist() == [11, 22]
    assert (ballot.open, ballot.cast) == (False, True)
    error, accept = ballot.settle(ERROR[:2], torch.tensor([1.0, 0.0]))
    assert (error.tolist(), accept.tolist()) == (ERROR[:2].tolist(), [1, 0])
    assert others.told == [("sum", [1.0, 2.0])]


def test_with_sums_of_gates_that_may_raise_the_answers_are_voted_too():
    others = Others([0.0], [10.0], [0.0], [[0.5], [1.0]])
    ballot = Ballot(others, wary=True)
    assert ballot(torch.tensor([1.0])).tolist() == [11]
    assert (ballot.open, ballot.cast) == (True, True)
    error, accept = ballot.settle(torch.tensor([0.1]), torch.tensor([1.0]))
    assert (error.tolist(), accept.tolist()) == ([0.5], [0])
    assert others.told == [("max", [0.0]), ("sum", [1.0]), ("max", [1.0]), ("max", [[pytest.approx(0.1)], [0.0]])]


def test_where_another_process_has_no_sums_nobody_waits():
    others = Others([1.0], [[math.inf], [1.0]])
    ballot = Ballot(others, wary=True)
    with pytest.raises(AnswerError, match="another process has no sums to add"):
        ballot(torch.tensor([1.0]))
    assert (ballot.open, ballot.cast) == (True, False)
    error, accept = ballot.settle(torch.tensor([0.1]), torch.tensor([1.0]))
    assert (error.tolist(), accept.tolist()) == ([math.inf], [0])
    assert [kind for kind, _ in others.told] == ["max", "max"], "it learnt what the others would learn, and does not ask again"


@pytest.mark.parametrize(("failed", "other"), [(False, 0.0), (False, 1.0), (True, 0.0)])
def test_a_policy_that_failed_anywhere_stops_all(failed, other):
    others = Others([other])
    assert Electorate((0, 1), vote=others, wary=True).stopped(failed, None) == (failed or other > 0)
    assert others.told == [("max", [float(failed)])]


def test_where_no_policy_may_raise_or_nobody_votes_nobody_is_asked():
    others = Others()
    assert not Electorate((0, 1), vote=others).stopped(True, None)
    assert not Electorate((0, 1), wary=True).stopped(True, None)
    assert Electorate((0, 1)).ballot() is None
    assert (Electorate((0, 1)).alone, Electorate((0, 1), vote=others).alone) == (True, False)
    assert (Electorate((0, 1)).wary, Electorate((0, 1), vote=others).ballot().open) == (False, True)
    assert not others.told


@pytest.mark.parametrize("vote", [None, Others([[0.0], [0.0]])])
def test_a_gate_is_given_the_ballot_where_there_is_one(vote):
    seen = []
    evidence = Evidence(Site(0), torch.ones(1, 2), torch.ones(1, 2))
    trial = Trial(Plan((Site(0),)), [False], Electorate((0,), vote=vote), LazyDrafts(FeatureBank({}, 1), (), {}), lambda given: seen.append(given) or None)
    assert not trial.judge(evidence)
    (given,) = seen
    assert (given is evidence) == (vote is None)
    assert vote is None or isinstance(given.vote, Ballot)


@pytest.mark.parametrize(("vote", "rejected"), [(None, [False, True]), (Others(), [False, False])])
def test_what_is_not_finite_is_rejected_where_no_other_process_would_have_to_be_told(vote, rejected):
    drafts = SimpleNamespace(broken=set(), last=None)
    trial = Trial(Plan((Site(0),)), [False, False], Electorate((0, 1), vote=vote), drafts, lambda _evidence: None)
    trial.reject_non_finite([True, False])
    assert trial.rejected == rejected


def test_rows_of_a_sample_share_one_fate():
    three = Electorate((7, 3, 7, 3, 5))
    assert three.share_fate([False] * 5) == [False] * 5
    assert three.share_fate([True, False, False, False, False]) == [True, False, True, False, False]
    assert three.share_fate([False, False, False, True, True]) == [False, True, False, True, True]
    assert Electorate((0, 1, 2)).share_fate((True, False, False)) == [True, False, False]
